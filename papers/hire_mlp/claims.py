"""How Hire-MLP's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common import bench
from common.measurement import Result
from common.run import Run
from papers.hire_mlp import rearrangement
from papers.hire_mlp.mini import hire_mini

MINI, MIXER = "hire_mini", "mixer_mini"
NO_INNER, NO_CROSS, SHIFT_1 = f"{MINI}.no_inner_region", f"{MINI}.no_cross_region", f"{MINI}.shift_1"


def contenders() -> list[bench.Contender]:
    """The small Hire-MLP, without either rearrangement, and shifted by one position in place of half a region."""
    return [
        bench.host(MIXER),
        bench.Contender(MINI, hire_mini),
        bench.Contender(NO_INNER, partial(hire_mini, regions=(1, 1))),
        bench.Contender(NO_CROSS, partial(hire_mini, shift_steps=(0, 0))),
        bench.Contender(SHIFT_1, partial(hire_mini, shift_steps=(1, 1))),
    ]


def permutation(run: Run) -> Iterator[Result]:
    """Rearrange maps of all small sizes and restore them."""
    yield rearrangement.permutation()


def reach(run: Run) -> Iterator[Result]:
    """Which positions the features of one region depend on, by exact gradients."""
    yield from rearrangement.reach()


def inner_region(run: Run) -> Iterator[Result]:
    """The small Hire-MLP, and with regions of one position: its layers then mix no positions at all."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{MINI} > {NO_INNER}: top1", f"{MINI} > {NO_INNER}: corruption_top1")
    yield bench.difference_picture("rearrangement", scores, MINI)


def cross_region(run: Run) -> Iterator[Result]:
    """The small Hire-MLP with and without shifts."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {NO_CROSS}: top1", f"{MINI} > {NO_CROSS}: corruption_top1")


def shift_distance(run: Run) -> Iterator[Result]:
    """Shifts by half a region in the first stage, and by one position."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{SHIFT_1} = {MINI}: top1")


def mixer(run: Run) -> Iterator[Result]:
    """The small Hire-MLP against the bench's MLP-Mixer."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {MIXER}: top1", f"{MINI} > {MIXER}: corruption_top1")
