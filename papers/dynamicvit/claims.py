"""How DynamicViT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from common import bench
from common.measurement import Result
from common.run import Run
from papers.dynamicvit import cost, identities, selected
from papers.dynamicvit.mini import AttentionViT, RandomViT, at_rates, sparse_vit
from papers.dynamicvit.training import hooks

RECIPE = Path(__file__).with_name("recipe.toml")
HOST, LEARNED = "vit_mini", "vit_mini+dynamicvit"
RANDOM, ATTENTION, WHOLE = f"{LEARNED}.random", f"{LEARNED}.attention", f"{LEARNED}.keep_all"


def contenders() -> list[bench.Contender]:
    """The host, and what is trained on from it: dropping tokens as learned, at random, by attention, and not at all."""
    host = bench.host(HOST)
    builds = {
        LEARNED: partial(sparse_vit),
        RANDOM: partial(sparse_vit, kind=RandomViT),
        ATTENTION: partial(sparse_vit, kind=AttentionViT),
        WHOLE: partial(sparse_vit, keep_rate=1.0),
    }
    return [
        host,
        *(bench.Contender(name, build, hooks, recipe=RECIPE, teacher=host) for name, build in builds.items()),
    ]


def keeping_all(run: Run) -> Iterator[Result]:
    """Sparsified networks that keep everything, against their hosts."""
    yield from identities.keeping_all()


def masking_is_dropping(run: Run) -> Iterator[Result]:
    """Networks in training and in inference, with the same decisions."""
    yield from identities.masking_is_dropping()


def saving(run: Run) -> Iterator[Result]:
    """Multiply-adds and time by keep rate."""
    quick = run.settings.quick
    yield cost.reduction()
    yield from cost.time(device=run.settings.device, batch=1 if quick else 4, rounds=6 if quick else 15)


def sparsification(run: Run) -> Iterator[Result]:
    """Train on from the host, dropping tokens and not; compare, and show what is kept."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{LEARNED} = {WHOLE}: top1", f"{LEARNED} = {WHOLE}: corruption_top1")
    yield bench.difference_picture("sparsification", scores, WHOLE)
    yield selected.picture(run, next(each for each in contenders() if each.name == LEARNED))


def learned_selection(run: Run) -> Iterator[Result]:
    """Learned selection beside random selection and the class token's attention, at two keep rates."""
    sparse = [each for each in contenders() if each.name in (LEARNED, RANDOM, ATTENTION)]
    scores = bench.scores(run, sparse, at_rates)
    yield from bench.measurements(scores, tuple(scores.cells("top1")))
    yield from bench.findings(
        scores,
        f"{LEARNED} > {RANDOM}: top1",
        f"{LEARNED} > {ATTENTION}: top1",
        f"{LEARNED} > {RANDOM}: top1/keep_0.5",
        f"{LEARNED} > {ATTENTION}: top1/keep_0.5",
    )
    yield selected.by_rate(scores)
