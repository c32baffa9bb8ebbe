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
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
        *DOWNSTREAM,
    ),
)
