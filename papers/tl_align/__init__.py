"""TL-Align: the labels of a mixed image's tokens follow the tokens through attention."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="tl-align",
    title="Token-Label Alignment for Vision Transformers",
    authors=("Han Xiao", "Wenzhao Zheng", "Zheng Zhu", "Jie Zhou", "Jiwen Lu"),
    venue="ICCV 2023",
    year=2023,
    kind="label mixing",
    arxiv="2210.06455",
    summary=(
        "Keeps a label for each token of a CutMix image and mixes labels by the attention that mixes the tokens, so "
        "that the target has the mixing ratio of the output; DeiT and Swin become better at next to no cost."
    ),
    repository="https://github.com/Euphoria16/TL-Align",
    commit="4da0621",
    licence="none stated",
    bibtex="""@inproceedings{xiao2023tokenlabel,
  title     = {Token-Label Alignment for Vision Transformers},
  author    = {Xiao, Han and Zheng, Wenzhao and Zhu, Zheng and Zhou, Jie and Lu, Jiwen},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2023}
}""",
    builds_on=("transmix",),
    reused_models=(
        Model(name="deit_tiny_patch16_224"),
        Model(name="deit_small_patch16_224"),
        Model(name="deit_base_patch16_224"),
        Model(name="swin_tiny_patch4_window7_224"),
        Model(name="swin_small_patch4_window7_224"),
        Model(name="swin_base_patch4_window7_224"),
    ),
    claims=(
        Claim(
            name="label_alignment",
            statement="At equal budget TL-Align gives better networks than CutMix and TransMix.",
            needs=("embedded",),
            primary="vit_mini+tl_align > vit_mini+cutmix: top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="identity",
            statement="Labels of tokens stay distributions, mixed by the product of the attention matrices.",
            primary="product",
        ),
        Claim(
            name="token_fluctuation",
            statement="The mixing ratio leaves that of the input as tokens go through the blocks.",
            needs=("embedded",),
            primary="block_1 > block_3: mixing_ratio_gap",
        ),
        Claim(
            name="cost",
            statement="A training step with TL-Align costs next to nothing more than with CutMix.",
            primary="tl_align",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="mixup",
            publication="could not be read",
            released="fails where a batch is mixed by mixup: trained with CutMix alone",
            ours="leaves the labels of mixup as they are; trained with CutMix alone",
            switch="recipe keys mixup, mix_switch_probability",
            effect="identity",
        ),
        Deviation(
            name="swin",
            publication="prints Swin as well (README)",
            released="has DeiT alone",
            ours=(
                "labels go through shifted windows as tokens do, four tokens that are merged have the mean of their "
                "labels, and the mean over the last tokens is the target, as the classifier averages them"
            ),
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="shares",
            publication="keeps a label for each token (abstract)",
            released="carries a vector of all classes for each token through every block",
            ours="carries the partner's share, from which the label follows, since all steps are means",
            switch="none",
            effect="The same labels to float32 rounding, at a thousandth of the memory.",
        ),
        Deviation(
            name="no_box",
            publication="could not be read",
            released="draws again where the ratio would leave nothing to paste",
            ours="leaves such a batch as it is",
            switch="none",
            effect="A beta distribution gives exactly 1 about never.",
        ),
    ),
)
