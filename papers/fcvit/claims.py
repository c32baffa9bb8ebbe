"""How FCViT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from common import bench
from common.measurement import Result
from common.run import Run
from papers.fcvit import context, observations, pretrained
from papers.fcvit.mini import fcvit_mini

MINI, VIT = "fcvit_mini", "vit_mini"
WITHOUT = f"{MINI}.no_context"
#: The first and the last block of the bench's vision transformer.
FIRST, LAST = f"{VIT}.block_1", f"{VIT}.block_3"


def contenders() -> list[bench.Contender]:
    """The small FCViT, the same without a global context, and the vision transformer that is looked at."""
    return [
        bench.Contender(MINI, fcvit_mini),
        bench.Contender(WITHOUT, partial(fcvit_mini, context=False)),
        bench.host(VIT),
    ]


def convolutions(run: Run) -> Iterator[Result]:
    """Train the small FCViT and the vision transformer; compare."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{MINI} > {VIT}: top1", f"{MINI} > {VIT}: corruption_top1")
    yield bench.difference_picture("convolutions", scores, VIT)


def global_context(run: Run) -> Iterator[Result]:
    """The small FCViT with and without its context."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {WITHOUT}: top1", f"{MINI} > {WITHOUT}: corruption_top1")


def query_irrelevance(run: Run) -> Iterator[Result]:
    """How alike the attention of different queries is, by block."""
    scores = _by_block(run)
    for one in bench.measurements(scores, (observations.SIMILARITY, observations.TOKENS)):
        if one.model.startswith(VIT):
            yield replace(one, protocol=f"{one.protocol}, {observations.HELD:.0%} held")
    yield from bench.findings(scores, f"{LAST} > {FIRST}: {observations.SIMILARITY}")
    by_name = {contender.name: contender for contender in contenders()}
    recipe = by_name[VIT].settings(quick=run.settings.quick, epochs=run.settings.epochs)
    vit, fcvit = (bench.trained(run, by_name[name], run.seeds()[0]) for name in (VIT, MINI))
    yield observations.picture(vit, fcvit, recipe, run.settings.quick)


def sparse_attention(run: Run) -> Iterator[Result]:
    """How few tokens hold most of the attention, by block."""
    scores = _by_block(run)
    yield from bench.findings(
        scores,
        f"{LAST} > a_fifth_of_tokens: {observations.TOKENS}",
        f"{LAST} > {FIRST}: {observations.TOKENS}",
    )


def _by_block(run: Run) -> bench.Scores:
    scores = bench.scores(run, [bench.host(VIT)], observations.measure)
    return observations.by_block(scores, VIT)


def one_context(run: Run) -> Iterator[Result]:
    """What the context adds to all positions, by exact arithmetic."""
    yield from context.findings()


def attention_of_checkpoint(run: Run) -> Iterator[Result]:
    """Both quantities on the user's own vision transformer, by block."""
    yield from pretrained.measure(run)
