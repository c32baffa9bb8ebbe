"""PosMLP: gates that mix tokens by a few numbers of relative positions in place of a matrix."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE

PAPER = Paper(
    slug="posmlp",
    title="Parameterization of Cross-token Relations with Relative Positional Encoding for Vision MLP",
    authors=("Zhicai Wang", "Yanbin Hao", "Xingyu Gao", "Hao Zhang", "Shuo Wang", "Tingting Mu", "Xiangnan He"),
    venue="ACM Multimedia 2022",
    year=2022,
    kind="architecture",
    arxiv="2207.07284",
    summary=(
        "Token mixing by relative positions, with a learned table or a quadratic form, makes a better gated MLP than a "
        "learned matrix of tokens, of fewer parameters."
    ),
    repository="https://github.com/Zhicaiwww/PosMLP",
    commit="654f020",
    licence="MIT",
    bibtex="""@inproceedings{wang2022parameterization,
  title     = {Parameterization of Cross-token Relations with Relative Positional Encoding for Vision MLP},
  author    = {Wang, Zhicai and Hao, Yanbin and Gao, Xingyu and Zhang, Hao and Wang, Shuo and Mu, Tingting and He,
               Xiangnan},
  booktitle = {ACM International Conference on Multimedia},
  year      = {2022}
}""",
    models=(
        *(
            Model(name=name, released=name)
            for name in ("posmlp_t", "posmlp_s", "posmlp_3t14", "posmlp_t_lrpe", "posmlp_t_lrpe_weight")
        ),
        Model(name="posmlp_b"),
        Model(name="gmlp_s16_posgu_224"),
    ),
    reused_models=(Model(name="gmlp_s16_224"),),
    claims=(
        Claim(
            name="parameterization",
            statement="At equal width, mixing tokens by relative positions is better than by a matrix of tokens.",
            needs=("embedded",),
            primary="posmlp_mini > posmlp_mini.none: top1",
        ),
        Claim(
            name="encodings",
            statement="The quadratic encoding, of the fewest parameters, is better than a table of positions.",
            needs=("embedded",),
            primary="posmlp_mini > posmlp_mini.learned: top1",
        ),
        Claim(
            name="growth",
            statement="Parameters of token mixing are constant in the number of tokens with GQPE, linear with LRPE.",
            primary="growth",
        ),
        Claim(
            name="relative",
            statement="Tokens are weighted by their relative positions alone.",
            primary="relative",
        ),
        Claim(
            name="size",
            statement="Every variant has the printed number of parameters.",
            settles=(("-", "params"),),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
    ),
    deviations=(
        Deviation(
            name="vertical_axis",
            publication="the abstract does not say",
            released="counts relative columns to the right and relative rows upwards (a transposed table)",
            ours="as released",
            switch="none",
            effect="relative",
        ),
        Deviation(
            name="start_of_the_table",
            publication="the abstract does not say",
            released="means to draw the table of LRPE at random, looks for it among modules, and leaves it at zero",
            ours="as released",
            switch="none",
            effect="Token mixing of LRPE starts as its bias alone, from which it gets its first gradients.",
        ),
        Deviation(
            name="three_numbers",
            publication="the abstract does not say",
            released="has a quadratic encoding of one width for both axes (generalized: false), unused",
            ours="the generalised form alone",
            switch="none",
            effect="None on what was released.",
        ),
        Deviation(
            name="windows",
            publication="the abstract does not say",
            released="reads windows from no configuration (its key is win_size); shifted windows are never switched on",
            ours="the windows that it has, as an argument; none are shifted",
            switch="windows",
            effect="None on what was released.",
        ),
        Deviation(
            name="cooldown",
            publication="the abstract does not say",
            released="10 further epochs of T and none of S by the configurations; 300 and 310 epochs by the logs",
            ours="as the configurations",
            switch="recipe key cooldown_epochs",
            effect="Shows only in full-scale training, at the smallest learning rate.",
        ),
        Deviation(
            name="gates_of_gmlp",
            publication="the abstract compares 19.4 M and 18.2 M parameters and names neither network",
            released="has no gMLP with its gates",
            ours="timm's gMLP-S with eight groups of channels; it has both sizes",
            switch="none",
            effect="size",
        ),
    ),
)
