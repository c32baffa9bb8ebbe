"""TNT: an inner transformer attends among the words of each patch and feeds the outer one."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE
from common.robustness.full_scale import REAL_CLAIMS

PAPER = Paper(
    slug="tnt",
    title="Transformer in Transformer",
    authors=("Kai Han", "An Xiao", "Enhua Wu", "Jianyuan Guo", "Chunjing Xu", "Yunhe Wang"),
    venue="NeurIPS 2021",
    year=2021,
    kind="architecture",
    arxiv="2103.00112",
    summary=(
        "Within each patch of a vision transformer a small transformer attends among its sub-patches, and adds what it "
        "finds to the patch in every block, which is more accurate at similar cost."
    ),
    repository="https://github.com/huawei-noah/Efficient-AI-Backbones",
    commit="f90e129",
    licence="Apache-2.0",
    bibtex="""@inproceedings{han2021transformer,
  title     = {Transformer in Transformer},
  author    = {Han, Kai and Xiao, An and Wu, Enhua and Guo, Jianyuan and Xu, Chunjing and Wang, Yunhe},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2021}
}""",
    reused_models=(
        Model(name="tnt_s_patch16_224", released="tnt_s"),
        Model(name="tnt_b_patch16_224", released="tnt_b"),
        Model(name="tnt_s_legacy_patch16_224"),
    ),
    converts=("timm.models.tnt",),
    claims=(
        Claim(
            name="inner_transformer",
            statement="At equal multiply-adds a transformer with an inner transformer is more accurate.",
            needs=("embedded",),
            primary="tnt_mini > vit_mini: top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="sentences",
            statement="The inner transformer attends within each patch alone.",
            primary="own_patch",
        ),
        Claim(
            name="words_in_sentences",
            statement="TNT is a vision transformer to whose patches every block adds their words.",
            primary="vision_transformer",
        ),
        Claim(
            name="cost",
            statement="The inner transformer costs little beside the outer one.",
            primary="closed_form",
        ),
        Claim(
            name="inner_positions",
            statement="Position encodings of the words make it more accurate.",
            needs=("embedded",),
            primary="tnt_mini > tnt_mini.no_inner_positions: top1",
        ),
        *FULL_SCALE,
        *REAL_CLAIMS,
    ),
    deviations=(
        Deviation(
            name="patch_borders",
            publication="divides each patch into words; how they are embedded could not be read",
            released=(
                "unfolds the patches first, so that the embedding (a convolution of 7 x 7 pixels, stride 4) pads each "
                "patch by itself; an earlier release convolves the image first"
            ),
            ours="as released",
            switch="model tnt_s_legacy_patch16_224",
            effect="sentences",
        ),
        Deviation(
            name="unread_tokens",
            publication="nothing",
            released="stores outer_tokens, zeros of patches x width, which nothing reads and nothing trains",
            ours="leaves it out when a file is loaded, and writes zeros when one is written under released names",
            switch="none",
            effect="The printed 65.6 M of TNT-B includes its 0.13 M numbers; 65.4 M can be trained.",
        ),
    ),
)
