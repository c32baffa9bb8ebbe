"""RegionViT: regional tokens attend to each other, then each one and the local tokens of its region do."""

from common.declaration import Claim, Deviation, Model, Paper
from common.downstream import CLAIMS as DOWNSTREAM
from common.robustness.full_scale import CLAIMS as FULL_SCALE

_SIZES = ("tiny", "small", "medium", "base", "small_w14", "small_w14_peg", "base_w14", "base_w14_peg")

PAPER = Paper(
    slug="regionvit",
    title="RegionViT: Regional-to-Local Attention for Vision Transformers",
    authors=("Chun-Fu (Richard) Chen", "Rameswar Panda", "Quanfu Fan"),
    venue="ICLR 2022",
    year=2022,
    kind="architecture",
    arxiv="2106.02689",
    summary=(
        "Regional tokens that attend to each other and pass what they saw to the local tokens of their regions give a "
        "pyramid of vision transformers global context at the cost of local attention."
    ),
    repository="https://github.com/IBM/RegionViT",
    commit="77000c2",
    licence="Apache-2.0",
    bibtex="""@inproceedings{chen2022regionvit,
  title     = {RegionViT: Regional-to-Local Attention for Vision Transformers},
  author    = {Chen, Chun-Fu (Richard) and Panda, Rameswar and Fan, Quanfu},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}
}""",
    models=tuple(Model(name=f"regionvit_{size}", released=f"regionvit_{size}") for size in _SIZES),
    claims=(
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            kind="numbers",
            settles=(("-", "params"), ("-", "flops")),
        ),
    ),
)
