"""How RaftMLP's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from common import bench
from common.measurement import Measurement, Result
from common.profiling import size
from common.run import Run
from papers.raftmlp import lines
from papers.raftmlp.mini import raftmlp_mini

MIXER, MINI = "mixer_mini", "raftmlp_mini"
RAFT_1, RAFT_4, PARALLEL = f"{MINI}.raft_1", f"{MINI}.raft_4", f"{MINI}.parallel"


def contenders() -> list[bench.Contender]:
    """The bench's MLP-Mixer and, at its multiply-adds, RaftMLP with rafts of 1, 2 and 4 channels, and in parallel."""
    return [
        bench.host(MIXER),
        bench.Contender(MINI, raftmlp_mini),
        bench.Contender(RAFT_1, partial(raftmlp_mini, raft=1)),
        bench.Contender(RAFT_4, partial(raftmlp_mini, raft=4)),
        bench.Contender(PARALLEL, partial(raftmlp_mini, parallel=True)),
    ]


def model_size(name: str) -> Iterator[Measurement]:
    """Parameters, and multiply-adds as the release counts them (summary.py, with ptflops): without those of norms."""
    params, operations = size.model_size(name)
    norms = operations.detail["by_operator"]["layer_norm"] / 1e9
    yield params
    yield replace(operations, value=operations.value - norms, protocol=f"{operations.protocol}, without layer norms")


def mixer(run: Run) -> Iterator[Result]:
    """RaftMLP against the bench's MLP-Mixer."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{MINI} > {MIXER}: top1", f"{MINI} > {MIXER}: corruption_top1")
    yield bench.difference_picture("rafts", scores, MIXER)


def raft_size(run: Run) -> Iterator[Result]:
    """Rafts of one, two and four channels."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {RAFT_1}: top1", f"{RAFT_4} > {RAFT_1}: top1")


def serial(run: Run) -> Iterator[Result]:
    """Columns and then rows, and both at once."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {PARALLEL}: top1", f"{MINI} > {PARALLEL}: corruption_top1")


def cost(run: Run) -> Iterator[Result]:
    """Count weights and multiply-adds of token mixing."""
    yield lines.cost()


def reach(run: Run) -> Iterator[Result]:
    """Which tokens a block connects, by exact gradients."""
    yield from lines.reach()
