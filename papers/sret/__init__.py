"""SReT: transformer blocks that are applied again to what they gave, with attention in slices."""

from common.declaration import Claim, Model, Paper

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
    models=(
        Model(name="sret_t", released="sret_t"),
        Model(name="sret_lt", released="sret_lt"),
        Model(name="sret_lt_16_14_1", released="sret_lt_16_14_1"),
        Model(name="sret_s", released="sret_s"),
        Model(name="sret_t_wo_slice", released="sret_t_wo_slice"),
        Model(name="sret_lt_wo_slice", released="sret_lt_wo_slice"),
        Model(name="sret_s_wo_slice", released="sret_s_wo_slice"),
        Model(name="sret_t_wo_slice_384", released="sret_t_wo_slice_384"),
        Model(name="sret_s_wo_slice_384", released="sret_s_wo_slice_384"),
        Model(name="sret_s_wo_slice_512", released="sret_s_wo_slice_512"),
    ),
    claims=(
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
    ),
)
