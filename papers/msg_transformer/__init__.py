"""MSG-Transformer: windows that do not overlap exchange what they saw by their messenger tokens."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

_SIZES = ("tiny", "small", "base")

PAPER = Paper(
    slug="msg-transformer",
    title="MSG-Transformer: Exchanging Local Spatial Information by Manipulating Messenger Tokens",
    authors=("Jiemin Fang", "Lingxi Xie", "Xinggang Wang", "Xiaopeng Zhang", "Wenyu Liu", "Qi Tian"),
    venue="CVPR 2022",
    year=2022,
    kind="architecture",
    arxiv="2105.15168",
    summary=(
        "A messenger token in each window, whose channels neighbouring windows swap, exchanges information between "
        "windows that do not overlap, without arithmetic."
    ),
    repository="https://github.com/hustvl/MSG-Transformer",
    commit="068da56",
    licence="MIT",
    bibtex="""@inproceedings{fang2022msg,
  title     = {MSG-Transformer: Exchanging Local Spatial Information by Manipulating Messenger Tokens},
  author    = {Fang, Jiemin and Xie, Lingxi and Wang, Xinggang and Zhang, Xiaopeng and Liu, Wenyu and Tian, Qi},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}""",
    models=tuple(Model(name=f"msg_{size}", released=f"msg_{size}") for size in _SIZES),
    claims=(
        Claim(
            name="messengers",
            statement="At equal budget windows that exchange messengers by shuffling give a better network.",
            needs=("embedded",),
            primary="msg_mini > msg_mini.no_exchange: top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="reach",
            statement="Shuffling messengers connects the windows of a region, and costs nothing.",
            primary="reach",
        ),
        Claim(
            name="manipulation",
            statement="Shuffling messengers is better than giving all of a region their mean.",
            needs=("embedded",),
            primary="msg_mini > msg_mini.averaged: top1",
        ),
        *FULL_SCALE,
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="other_sizes",
            publication="the abstract does not say",
            released="takes images of 224 pixels alone, whose last stage has one window",
            ours=(
                "pads other images with zeros below and right to multiples of 224 pixels, and classifies the mean of "
                "the last stage's messengers"
            ),
            switch="none",
            effect="None at 224 pixels.",
        ),
        Deviation(
            name="decay_of_messengers",
            publication="the abstract does not say",
            released="decays messengers: the list of what is not to be decayed has them as msg_token, not msg_tokens",
            ours="as released",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="detector",
            publication="the abstract does not say",
            released=(
                "has no code for detection; the README names neither detector nor schedule, and prints 83 M "
                "parameters, as Cascade Mask R-CNN has with MSG-T"
            ),
            ours="Cascade Mask R-CNN for 36 epochs as Swin's, stochastic depth as for ImageNet",
            switch="the config downstream/cascade-mask-rcnn_3x_coco.py",
            effect="Shows only in full-scale training.",
        ),
    ),
)
