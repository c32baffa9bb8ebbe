"""SReT: transformer blocks that are applied again to what they gave, with attention in slices."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

_SIZES = (
    "t",
    "lt",
    "lt_16_14_1",
    "s",
    "t_wo_slice",
    "lt_wo_slice",
    "s_wo_slice",
    "t_wo_slice_384",
    "s_wo_slice_384",
    "s_wo_slice_512",
)

PAPER = Paper(
    slug="sret",
    title="Sliced Recursive Transformer",
    authors=("Zhiqiang Shen", "Zechun Liu", "Eric Xing"),
    venue="ECCV 2022",
    year=2022,
    kind="architecture",
    arxiv="2111.05297",
    summary=(
        "Applying each block of a transformer twice makes it more accurate without a parameter more, and attention in "
        "slices takes back what that costs."
    ),
    repository="https://github.com/szq0214/SReT",
    commit="af6db0a",
    licence="MIT",
    bibtex="""@inproceedings{shen2022sliced,
  title     = {Sliced Recursive Transformer},
  author    = {Shen, Zhiqiang and Liu, Zechun and Xing, Eric},
  booktitle = {European Conference on Computer Vision},
  year      = {2022}
}""",
    models=tuple(Model(name=f"sret_{size}", released=f"sret_{size}") for size in _SIZES),
    claims=(
        Claim(
            name="recursion",
            statement="At equal parameters a block that is applied twice is more accurate than one applied once.",
            needs=("embedded",),
            primary="sret_mini > sret_mini.one_loop: top1",
        ),
        Claim(
            name="third_loop",
            statement="At equal parameters a third application makes it more accurate still.",
            needs=("embedded",),
            primary="sret_mini.three_loops > sret_mini: top1",
        ),
        Claim(
            name="projections",
            statement="Projections between applications and learned coefficients make recursion more accurate.",
            needs=("embedded",),
            primary="sret_mini > sret_mini.plain_recursion: top1",
        ),
        Claim(
            name="parameters",
            statement="Recursion adds no parameters but those of projections.",
            primary="parameters",
        ),
        Claim(
            name="slicing",
            statement="Slices divide the cost of attention by their number.",
            primary="closed_form",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="permutation",
            publication="the abstract does not say",
            released="permutes tokens at random before sliced attention in evaluation, too: its accuracy is random",
            ours="at random in training; in evaluation by permutations that are always the same, or by given ones",
            switch="argument permutations of the model",
            effect="With the release's draws outputs are its own; what draws do to accuracy needs its weights.",
        ),
        Deviation(
            name="second_application",
            publication="the abstract does not say",
            released="finds applications after the first by their place, which is right for two loops alone",
            ours="by their number, for any number of loops",
            switch="loops",
            effect="None at two loops, as all released models have.",
        ),
        Deviation(
            name="rates_of_stochastic_depth",
            publication="the abstract does not say",
            released="gives a block the rate of its number among blocks, over the depth with loops: half of the usual",
            ours="as released",
            switch="none",
            effect="Shows only in full-scale training.",
        ),
        Deviation(
            name="projection_without_slices",
            publication="the abstract does not say",
            released="SReT_wo_slice.py leaves out the ratio of projections for T and LT, and fails",
            ours="as wide as with slices",
            switch="projection_ratio",
            effect="size",
        ),
        Deviation(
            name="recipe",
            publication="the abstract does not say",
            released="no training script; teacher and temperature of distillation are not printed",
            ours="DeiT's recipe and teacher",
            switch="recipe",
            effect="Shows only in full-scale training.",
        ),
    ),
)
