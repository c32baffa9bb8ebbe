"""How RegionViT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common import bench
from common.measurement import Result
from common.run import Run
from papers.regionvit import regions
from papers.regionvit.mini import regionvit_mini

MINI = "regionvit_mini"
LOCAL, WITHOUT_BIAS = f"{MINI}.no_regional_attention", f"{MINI}.no_position_bias"


def contenders() -> list[bench.Contender]:
    """The small RegionViT, without attention among regional tokens, and without scores by distance."""
    return [
        bench.Contender(MINI, regionvit_mini),
        bench.Contender(LOCAL, partial(regionvit_mini, regional_attention=False)),
        bench.Contender(WITHOUT_BIAS, partial(regionvit_mini, position_bias=False)),
    ]


def one_region(run: Run) -> Iterator[Result]:
    """A block with one region, against timm's transformer block of the same weights."""
    yield regions.one_region()


def reach(run: Run) -> Iterator[Result]:
    """Which regions the tokens of one depend on, by exact gradients."""
    yield from regions.reach()


def cost(run: Run) -> Iterator[Result]:
    """Multiply-adds of attention over the area of an image, against the closed form."""
    yield from regions.cost()


def regional_attention(run: Run) -> Iterator[Result]:
    """Train the small RegionViT with and without attention among regional tokens; compare."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{MINI} > {LOCAL}: top1", f"{MINI} > {LOCAL}: corruption_top1")
    yield bench.difference_picture("regional_attention", scores, LOCAL)


def position_bias(run: Run) -> Iterator[Result]:
    """The small RegionViT with and without scores by distance."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {WITHOUT_BIAS}: top1", f"{MINI} > {WITHOUT_BIAS}: corruption_top1")
