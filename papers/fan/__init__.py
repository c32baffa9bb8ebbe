"""FAN: fully attentional networks, which attend over channels as well as over tokens."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

_VIT = ("fan_tiny_12_p16_224", "fan_small_12_p16_224", "fan_base_18_p16_224", "fan_large_24_p16_224")
_HYBRID = (
    "fan_tiny_8_p4_hybrid",
    "fan_small_12_p4_hybrid",
    "fan_base_16_p4_hybrid",
    "fan_large_16_p4_hybrid",
    "fan_Xlarge_16_p4_hybrid",
)
_SWIN = tuple(f"fan_swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large"))

PAPER = Paper(
    slug="fan",
    title="Understanding The Robustness in Vision Transformers",
    authors=(
        "Daquan Zhou",
        "Zhiding Yu",
        "Enze Xie",
        "Chaowei Xiao",
        "Anima Anandkumar",
        "Jiashi Feng",
        "Jose M. Alvarez",
    ),
    venue="ICML 2022",
    year=2022,
    kind="architecture",
    arxiv="2204.12451",
    summary=(
        "Self-attention groups image parts, which makes vision transformers robust; attention over channels instead of "
        "the MLP strengthens this and gives state-of-the-art accuracy under corruption."
    ),
    repository="https://github.com/NVlabs/FAN",
    commit="ee1b7df",
    licence="Nvidia Source Code License-NC (non-commercial, also for derivative works)",
    bibtex="""@inproceedings{zhou2022understanding,
  title     = {Understanding The Robustness in Vision Transformers},
  author    = {Zhou, Daquan and Yu, Zhiding and Xie, Enze and Xiao, Chaowei and Anandkumar, Anima and Feng, Jiashi and
               Alvarez, Jose M.},
  booktitle = {International Conference on Machine Learning},
  year      = {2022}
}""",
    models=tuple(Model(name=name, released=name) for name in (*_VIT, *_HYBRID, *_SWIN)),
    claims=(
        Claim(
            name="channel_attention",
            statement="At equal budget attention over channels is more robust than a plain MLP.",
            needs=("embedded",),
            primary="fan_mini > fan_mini.mlp: corruption_top1",
        ),
        Claim(
            name="size",
            statement="Parameters of every variant are the printed ones; multiply-adds beside them.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="visual_grouping",
            statement="Clusters of tokens resemble objects more with attention over channels than with a plain MLP.",
            needs=("embedded",),
            primary="fan_mini > fan_mini.mlp: grouping_ari",
        ),
        *FULL_SCALE,
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="unbiased_stem_norm",
            publication="puts two stages of a ConvNeXt, whose norms are layer norms, before a hybrid's blocks",
            released=(
                "takes the variance over C - 1 of C channels in all of these norms but the first, because features lie "
                "with channels last in memory there"
            ),
            ours="the released form, so that released weights give released outputs",
            switch="unbiased_stem_norm=False",
            effect="Outputs of a hybrid with the same weights change by about 0.3 %; training absorbs the factor.",
        ),
        Deviation(
            name="class_attention_tokens",
            publication="a class token gathers the image in two blocks of class attention",
            released=(
                "also adds their norm to the patch tokens, normalises all tokens, then doubles the patch tokens, "
                "as XCiT does"
            ),
            ours="the released form, which is timm's class attention block",
            switch="none",
            effect="The second block attends to what the first one makes of the patch tokens.",
        ),
        Deviation(
            name="norm_epsilon",
            publication="does not say",
            released="1e-6 in the norms of blocks, 1e-5 in channel attention and after downsampling",
            ours="as released",
            switch="none",
            effect="Below float32 rounding for features of unit scale.",
        ),
        Deviation(
            name="drop_path",
            publication="does not say how stochastic depth is distributed",
            released="one rate for all blocks of FAN-ViT and FAN-Hybrid, none in class attention; FAN-Swin's rises",
            ours="as released",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="tiny_settings",
            publication="does not print the settings of each variant",
            released=(
                "FAN-T-Hybrid: learning rate 10e-4, drop path 0.1 in README and script; FAN-T-ViT: 20e-4 and no drop "
                "path in its script; the number of nodes, and so the total batch, is an argument of the scripts"
            ),
            ours="each variant's own script, at the README's 4 nodes",
            switch="recipe keys learning_rate, drop_path_rate, total_batch",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="temperature_decay",
            publication="does not say",
            released=(
                "marks the temperature of channel attention as free of weight decay in a method that training never "
                "asks; it is decayed"
            ),
            ours="as released: of the parameters that are not vectors, only the class token is not decayed",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="printed_parameters",
            publication="README: 28.0 M for FAN-S-ViT, 54.0 M for FAN-B-ViT, 26.3 M for FAN-S-Hybrid",
            released=(
                "28.35 M, 54.35 M and 26.12 M: the first two are printed as whole millions with a zero behind the "
                "point; the third is no rounding of any released variant"
            ),
            ours="as released, so that released weights load",
            switch="none",
            effect="size",
        ),
        Deviation(
            name="imagenet_a_and_r",
            publication="tables say 224 pixels",
            released="evaluates ImageNet-A at 384 pixels without averaged weights, ImageNet-R at 224 with them",
            ours="the size and weights that the user gives, written with the number",
            switch="--checkpoint",
            effect="Needs released weights.",
        ),
        Deviation(
            name="imagenet_c_metric",
            publication="mean corruption error in the abstract",
            released="the README's column IN-C is mean accuracy; the script for it evaluates nothing",
            ours="both, under their own names: mce and corruption_top1",
            switch="none",
            effect="Needs released weights.",
        ),
    ),
)
