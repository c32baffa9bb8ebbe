"""CMT: convolutions for what is near and attention to few keys for what is far, in every block of a pyramid."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="cmt",
    title="CMT: Convolutional Neural Networks Meet Vision Transformers",
    authors=(
        "Jianyuan Guo",
        "Kai Han",
        "Han Wu",
        "Yehui Tang",
        "Xinghao Chen",
        "Yunhe Wang",
        "Chang Xu",
    ),
    venue="CVPR 2022",
    year=2022,
    kind="architecture",
    arxiv="2107.06263",
    summary=(
        "A hybrid of depth-wise convolutions for local structure and attention to few keys for long-range dependencies "
        "is more accurate than convolutional networks and vision transformers of the same cost."
    ),
    repository="https://github.com/ggjy/CMT.pytorch",
    commit="07e72b7",
    licence="MIT",
    bibtex="""@inproceedings{guo2022cmt,
  title     = {CMT: Convolutional Neural Networks Meet Vision Transformers},
  author    = {Guo, Jianyuan and Han, Kai and Wu, Han and Tang, Yehui and Chen, Xinghao and Wang, Yunhe and Xu, Chang},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}""",
    models=tuple(Model(name=f"cmt_{size}", released=f"cmt_{size}") for size in ("ti", "xs", "s", "b")),
    claims=(
        Claim(
            name="hybrid",
            statement="At equal parameters the hybrid is more accurate than attention alone.",
            needs=("embedded",),
            primary="cmt_mini > pyramid_mini: top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="local_perception",
            statement="The convolution before attention makes it more accurate.",
            needs=("embedded",),
            primary="cmt_mini > cmt_mini.no_local_perception: top1",
        ),
        Claim(
            name="inverted_residual",
            statement="The convolution in the MLP makes it more accurate.",
            needs=("embedded",),
            primary="cmt_mini > cmt_mini.plain_mlp: top1",
        ),
        Claim(
            name="few_keys",
            statement="Few keys cost no accuracy.",
            needs=("embedded",),
            primary="cmt_mini = cmt_mini.all_keys: top1",
        ),
        Claim(
            name="reach",
            statement="A block sees its neighbourhood by convolutions and everything by attention to few keys.",
            primary="reach",
        ),
        Claim(
            name="attention_cost",
            statement="The cost of attention falls with the square of the reduction of its keys.",
            primary="closed_form",
        ),
        Claim(
            name="cheaper_than_deit",
            statement="CMT-S takes a fourteenth of the multiply-adds of a DeiT.",
            settles=(("-", "flops_ratio_deit"),),
        ),
        *FULL_SCALE,
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="other_sizes",
            publication="the abstract does not say",
            released="refuses images of another size than it was built for; no file can be loaded for another",
            ours=(
                "the same; a model built for another size (img_size) takes a file's scores by position interpolated "
                "bilinearly, and with dynamic_img_size any size, as detectors do"
            ),
            switch="img_size, dynamic_img_size",
            effect="At the printed sizes none; the accuracy at others needs released weights.",
        ),
        Deviation(
            name="scores_by_position",
            publication="the abstract does not say",
            released="draws them from N(0, 1) at the start, learns one table a stage and decays it like weights",
            ours="as released",
            switch="none",
            effect="Shows only in training.",
        ),
        Deviation(
            name="dropout",
            publication="the abstract does not say",
            released="drops 10 % (CMT-B: 30 %) before the classifier, which no option of its script changes",
            ours="the same by the recipe's drop_rate; dropout in blocks, 0 there, is left out",
            switch="drop_rate",
            effect="None: both are 0 or the same.",
        ),
        Deviation(
            name="size_of_cmt_s",
            publication="25.14 M parameters, as a third party quotes it",
            released="has 26.26 M",
            ours="as released",
            switch="none",
            effect="size",
        ),
        Deviation(
            name="detectors",
            publication="44.3 mAP on COCO for CMT-S; the abstract names no detector",
            released="nothing",
            ours="RetinaNet and Mask R-CNN by the schedules that other papers share",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
    ),
)
