"""How SReT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator

from common import bench
from common.measurement import Result
from common.run import Run
from papers.sret import loops, mini
from papers.sret.mini import MINI, ONE, PLAIN, THREE


def contenders() -> list[bench.Contender]:
    """Small networks whose blocks are applied once, twice and three times; see `papers.sret.mini`."""
    return mini.contenders()


def recursion(run: Run) -> Iterator[Result]:
    """Train small networks whose blocks are applied twice and once; compare."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{MINI} > {ONE}: top1", f"{MINI} > {ONE}: corruption_top1")
    yield bench.difference_picture("recursion", scores, ONE)


def third_loop(run: Run) -> Iterator[Result]:
    """Blocks that are applied three times, and twice."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{THREE} > {MINI}: top1", f"{THREE} > {MINI}: corruption_top1")


def projections(run: Run) -> Iterator[Result]:
    """Recursion with and without projections between applications and learned coefficients."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {PLAIN}: top1", f"{MINI} > {PLAIN}: corruption_top1")


def parameters(run: Run) -> Iterator[Result]:
    """Count parameters by the number of loops, and apply a block to tokens in another order."""
    yield from loops.parameters()
    yield loops.order_of_tokens()


def slicing(run: Run) -> Iterator[Result]:
    """Count the multiply-adds of attention by the number of groups, and of whole models with slices and without."""
    yield from loops.cost()
