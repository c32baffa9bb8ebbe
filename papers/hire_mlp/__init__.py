"""Hire-MLP: MLPs that see rearranged positions, within regions and across them."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="hire-mlp",
    title="Hire-MLP: Vision MLP via Hierarchical Rearrangement",
    authors=(
        "Jianyuan Guo",
        "Yehui Tang",
        "Kai Han",
        "Xinghao Chen",
        "Han Wu",
        "Chao Xu",
        "Chang Xu",
        "Yunhe Wang",
    ),
    venue="CVPR 2022",
    year=2022,
    kind="architecture",
    arxiv="2108.13341",
    summary=(
        "Rearranging positions within regions and shifting them across regions lets plain channel MLPs mix space, for "
        "images of any size."
    ),
    repository="https://github.com/ggjy/Hire-Wave-MLP.pytorch",
    commit="7ef7ddd",
    licence="MIT",
    bibtex="""@inproceedings{guo2022hire,
  title     = {Hire-MLP: Vision MLP via Hierarchical Rearrangement},
  author    = {Guo, Jianyuan and Tang, Yehui and Han, Kai and Chen, Xinghao and Wu, Han and Xu, Chao and Xu, Chang
               and Wang, Yunhe},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}""",
    models=tuple(
        Model(name=f"hire_mlp_{size}", released=f"hire_mlp_{size}") for size in ("tiny", "small", "base", "large")
    ),
    claims=(
        Claim(
            name="mixer",
            statement="Hierarchical rearrangement makes a better network than an MLP over all positions does.",
            needs=("embedded",),
            primary="hire_mini > mixer_mini: top1",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        Claim(
            name="permutation",
            statement="Both rearrangements only permute positions, and are undone exactly, for any size of map.",
            primary="permutation",
        ),
        Claim(
            name="reach",
            statement="Within a stage, the shift across regions alone carries features from one region to another.",
            primary="reach",
        ),
        Claim(
            name="inner_region",
            statement="At equal budget the rearrangement within regions gives a better network.",
            needs=("embedded",),
            primary="hire_mini > hire_mini.no_inner_region: top1",
        ),
        Claim(
            name="cross_region",
            statement="At equal budget the rearrangement across regions gives a better network.",
            needs=("embedded",),
            primary="hire_mini > hire_mini.no_cross_region: top1",
        ),
        Claim(
            name="shift_distance",
            statement="How far features are shifted across regions matters little.",
            needs=("embedded",),
            primary="hire_mini.shift_1 = hire_mini: top1",
        ),
        *FULL_SCALE,
        *DOWNSTREAM,
    ),
    deviations=(
        Deviation(
            name="shifts_of_blocks",
            publication="the abstract does not say",
            released=(
                "block k of a stage shifts by (k mod 2) x 2 positions in the first two stages, k mod 3 and k mod 2 in "
                "the others, so that the first block of each does not shift"
            ),
            ours="as released",
            switch="shift_periods, shift_steps",
            effect="shift_distance",
        ),
        Deviation(
            name="small_maps",
            publication="the abstract does not say",
            released="fails where an axis has fewer positions than are missing to whole regions",
            ours="continues the axis from its beginning as often as needed",
            switch="none",
            effect="Images of any size can be given; where the release works, outputs are the same.",
        ),
        Deviation(
            name="evaluation_crop",
            publication="the abstract does not say",
            released="declares a crop of 0.9 beside the models, and evaluates with 0.875 (datasets.py)",
            ours="0.875",
            switch="recipe key evaluation_crop; --crop of the command robustness",
            effect="Needs released weights.",
        ),
        Deviation(
            name="segmentation_norm",
            publication="the abstract does not say",
            released="gives UPerNet the maps of each stage through a batch norm, Semantic FPN without one",
            ours="as released",
            switch="map_norms",
            effect="Shows only in full-scale training.",
        ),
    ),
)
