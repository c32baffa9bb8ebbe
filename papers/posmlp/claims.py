"""How PosMLP's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common import bench
from common.measurement import Result
from common.run import Run
from papers.posmlp import mixing
from papers.posmlp.mini import looks_picture, posmlp_mini

QUADRATIC, LEARNED, NONE = "posmlp_mini", "posmlp_mini.learned", "posmlp_mini.none"


def contenders() -> list[bench.Contender]:
    """The small PosMLP with the quadratic encoding, with a table of relative positions, and with gMLP's matrix."""
    return [
        bench.Contender(QUADRATIC, posmlp_mini),
        bench.Contender(LEARNED, partial(posmlp_mini, encoding="learned")),
        bench.Contender(NONE, partial(posmlp_mini, encoding="none")),
    ]


def parameterization(run: Run) -> Iterator[Result]:
    """Gates that mix tokens by relative positions, and by a free matrix, at equal width."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores, f"{QUADRATIC} > {NONE}: top1", f"{LEARNED} > {NONE}: top1", f"{QUADRATIC} > {NONE}: corruption_top1"
    )
    yield bench.difference_picture("parameterization", scores, NONE)
    yield looks_picture({each.name: bench.trained(run, each, run.seeds()[0]) for each in contenders()})


def encodings(run: Run) -> Iterator[Result]:
    """The quadratic encoding against the table of relative positions."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{QUADRATIC} > {LEARNED}: top1", f"{QUADRATIC} > {LEARNED}: corruption_top1")


def growth(run: Run) -> Iterator[Result]:
    """Count weights of token mixing."""
    yield from mixing.growth()


def relative(run: Run) -> Iterator[Result]:
    """Compare weights of pairs of tokens that lie alike."""
    yield from mixing.relative()
    yield from mixing.mirrored()
