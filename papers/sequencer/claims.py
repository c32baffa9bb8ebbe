"""How Sequencer's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common import bench
from common.measurement import Result
from common.run import Run
from papers.sequencer import resolution as sizes
from papers.sequencer import sequences
from papers.sequencer.mini import pooled_vit_mini, sequencer_mini

MINI, VERTICAL, ADD = "sequencer_mini", "sequencer_mini.vertical", "sequencer_mini.add"
#: Self-attention in the same frame: it differs from Sequencer in what mixes tokens, and in its position embeddings.
POOLED = "vit_mini.pooled"


def contenders() -> list[bench.Contender]:
    """Hosts, the small Sequencer, two of its ablations, and self-attention in its frame."""
    return [
        bench.host("vit_mini"),
        bench.host("resnet_mini"),
        bench.Contender(MINI, sequencer_mini),
        bench.Contender(VERTICAL, partial(sequencer_mini, union="vertical")),
        bench.Contender(ADD, partial(sequencer_mini, union="add")),
        bench.Contender(POOLED, pooled_vit_mini),
    ]


def attention(run: Run) -> Iterator[Result]:
    """Train small networks of two-dimensional LSTMs and of self-attention."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores, f"{MINI} > {POOLED}: top1", f"{MINI} > {POOLED}: corruption_top1", f"{MINI} > vit_mini: top1"
    )
    yield bench.difference_picture("attention", scores, POOLED)


def directions(run: Run) -> Iterator[Result]:
    """LSTMs along both axes, along columns alone, and with the sum of both in place of their concatenation."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {VERTICAL}: top1", f"{ADD} = {MINI}: top1")


def resolution(run: Run) -> Iterator[Result]:
    """Test the networks at other sizes of images than that of their training."""
    among = [one for one in contenders() if one.name in ("vit_mini", "resnet_mini", MINI, POOLED)]
    scores = bench.scores(run, among, sizes.measure)
    yield from bench.measurements(scores, ["resolution_top1", "resolution_loss"])
    yield from bench.findings(
        scores,
        f"{MINI} > {POOLED}: resolution_loss",
        f"{MINI} > vit_mini: resolution_loss",
        f"{MINI} > resnet_mini: resolution_loss",
    )
    yield sizes.curve(scores)


def reach(run: Run) -> Iterator[Result]:
    """Which tokens one depends on, after one layer and after two."""
    yield from sequences.reach()


def cost(run: Run) -> Iterator[Result]:
    """Count multiply-adds over the size of the feature map."""
    yield sequences.cost()
