"""How MSG-Transformer's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common import bench
from common.measurement import Result
from common.run import Run
from papers.msg_transformer import windows
from papers.msg_transformer.mini import msg_mini

SHUFFLED = "msg_mini"
AVERAGED, KEPT = f"{SHUFFLED}.averaged", f"{SHUFFLED}.no_exchange"


def contenders() -> list[bench.Contender]:
    """The small MSG-Transformer with messengers shuffled, averaged, and kept."""
    return [
        bench.Contender(SHUFFLED, msg_mini),
        bench.Contender(AVERAGED, partial(msg_mini, manipulation="average")),
        bench.Contender(KEPT, partial(msg_mini, manipulation="none")),
    ]


def reach(run: Run) -> Iterator[Result]:
    """Which windows the tokens of one depend on, and what shuffling costs."""
    yield from windows.reach()


def messengers(run: Run) -> Iterator[Result]:
    """Train the small MSG-Transformer with messengers shuffled, averaged and kept; compare with kept ones."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{SHUFFLED} > {KEPT}: top1", f"{SHUFFLED} > {KEPT}: corruption_top1")
    yield bench.difference_picture("messengers", scores, KEPT)


def manipulation(run: Run) -> Iterator[Result]:
    """The same networks; shuffled messengers beside averaged ones."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{SHUFFLED} > {AVERAGED}: top1", f"{SHUFFLED} > {AVERAGED}: corruption_top1")
