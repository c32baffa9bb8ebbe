"""FCViT: convolutions, and one context of the whole image that every position takes by similarity."""

from common.declaration import Claim, Model, Paper

PAPER = Paper(
    slug="fcvit",
    title="A Close Look at Spatial Modeling: From Attention to Convolution",
    authors=("Xu Ma", "Huan Wang", "Can Qin", "Kunpeng Li", "Xingchen Zhao", "Jie Fu", "Yun Fu"),
    venue="arXiv 2022",
    year=2022,
    kind="architecture",
    arxiv="2212.12552",
    summary=(
        "Attention of deep vision transformers hardly depends on the query and rests on few places; convolutions with "
        "one context of the whole image, taken by similarity, do better."
    ),
    repository="https://github.com/ma-xu/FCViT",
    commit="77e5a9d",
    licence="Apache-2.0",
    bibtex="""@article{ma2022fcvit,
  title   = {A Close Look at Spatial Modeling: From Attention to Convolution},
  author  = {Ma, Xu and Wang, Huan and Qin, Can and Li, Kunpeng and Zhao, Xingchen and Fu, Jie and Fu, Yun},
  journal = {arXiv preprint arXiv:2212.12552},
  year    = {2022}
}""",
    models=tuple(Model(name=f"fcvit_{size}", released=f"fcvit_{size}") for size in ("tiny", "b12", "b24", "b48")),
    claims=(
        Claim(
            name="size",
            statement="Parameters of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
    ),
)
