"""Sequencer: LSTMs along the rows and columns of a feature map in place of self-attention."""

from common.declaration import Claim, Deviation, Model, Paper
from common.robustness.full_scale import CLAIMS as FULL_SCALE
from common.robustness.full_scale import REAL_CLAIMS

PAPER = Paper(
    slug="sequencer",
    title="Sequencer: Deep LSTM for Image Classification",
    authors=("Yuki Tatsunami", "Masato Taki"),
    venue="NeurIPS 2022",
    year=2022,
    kind="architecture",
    arxiv="2205.01972",
    summary=(
        "Bidirectional LSTMs along the rows and the columns of a feature map take the place of self-attention, with "
        "comparable accuracy, and keep it when the resolution changes."
    ),
    repository="https://github.com/okojoalg/sequencer",
    commit="408520e",
    licence="Apache-2.0",
    bibtex="""@inproceedings{tatsunami2022sequencer,
  title     = {Sequencer: Deep {LSTM} for Image Classification},
  author    = {Tatsunami, Yuki and Taki, Masato},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}""",
    reused_models=tuple(
        Model(name=name, released=name) for name in ("sequencer2d_s", "sequencer2d_m", "sequencer2d_l")
    ),
    converts=("timm.models.sequencer",),
    claims=(
        Claim(
            name="attention",
            statement="LSTMs along rows and columns make a better network than self-attention in the same frame.",
            needs=("embedded",),
            primary="sequencer_mini > vit_mini.pooled: top1",
        ),
        Claim(
            name="resolution",
            statement="With LSTMs a network loses less accuracy on images of other sizes than with self-attention.",
            needs=("embedded",),
            primary="sequencer_mini > vit_mini.pooled: resolution_loss",
        ),
        Claim(
            name="directions",
            statement="LSTMs along both axes make a better network than LSTMs along columns alone.",
            needs=("embedded",),
            primary="sequencer_mini > sequencer_mini.vertical: top1",
        ),
        Claim(
            name="reach",
            statement="A BiLSTM2D connects a token with its row and its column, two of them with all tokens.",
            primary="cross",
        ),
        Claim(
            name="cost",
            statement="The cost of a BiLSTM2D is linear in the number of tokens.",
            primary="linear",
        ),
        Claim(
            name="size",
            statement="Parameters and multiply-adds of every variant are the printed ones.",
            settles=(("-", "params"), ("-", "flops")),
            measured_by="common.profiling.size:size",
        ),
        *FULL_SCALE,
        *REAL_CLAIMS,
    ),
    deviations=(
        Deviation(
            name="drop_path",
            publication="stochastic depth; its course over the blocks could not be read",
            released="a rate that grows linearly from 0 in the first block to its full value in the last",
            ours="as released; timm's network has the full rate in every block",
            switch="recipe key method.drop_path, linear or constant",
            effect="Shows only in full-scale training.",
        ),
    ),
)
