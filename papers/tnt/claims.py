"""How TNT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common import bench
from common.measurement import Result
from common.run import Run
from papers.tnt import features, words
from papers.tnt.mini import tnt_mini

VIT, MINI, WITHOUT = "vit_mini", "tnt_mini", "tnt_mini.no_inner_positions"


def contenders() -> list[bench.Contender]:
    """The small TNT, with and without positions of its words, and the host whose outer transformer it has."""
    return [
        bench.host(VIT),
        bench.Contender(MINI, tnt_mini),
        bench.Contender(WITHOUT, partial(tnt_mini, positions=False)),
    ]


def sentences(run: Run) -> Iterator[Result]:
    """What the words of a patch depend on, by exact gradients."""
    yield from words.sentences()


def words_in_sentences(run: Run) -> Iterator[Result]:
    """A TNT that adds no words, against timm's vision transformer of the same weights."""
    yield words.without_words()


def cost(run: Run) -> Iterator[Result]:
    """A block's multiply-adds against the closed form."""
    yield words.cost()


def inner_transformer(run: Run) -> Iterator[Result]:
    """Train the small TNT and the vision transformer; compare."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{MINI} > {VIT}: top1", f"{MINI} > {VIT}: corruption_top1")
    yield bench.difference_picture("inner_transformer", scores, VIT)
    yield features.picture(run, contenders()[:2])


def inner_positions(run: Run) -> Iterator[Result]:
    """The small TNT with and without positions of its words."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {WITHOUT}: top1")
