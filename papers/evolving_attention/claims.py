"""How the claims of evolving attention are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from common import bench
from common.bench.inference import findings, measurements
from common.measurement import Result
from common.run import Run
from papers.evolving_attention import identity, series_comparison
from papers.evolving_attention.mini import evolving_vit_mini, maps_picture
from papers.evolving_attention.series_comparison import DILATED, ERROR, EVOLVING, PLAIN, RESIDUAL, TOP1

HOST, VIT = "vit_mini", "vit_mini+evolving_attention"
LINK, CONVOLUTION = f"{VIT}.residual_link", f"{VIT}.convolution"
PROTOCOL = "evolving-attention series/1"


def contenders() -> list[bench.Contender]:
    """The bench's vision transformer, with evolving attention, and with each of its two parts alone."""
    return [
        bench.host(HOST),
        bench.Contender(VIT, evolving_vit_mini),
        bench.Contender(LINK, partial(evolving_vit_mini, alpha=0.0)),
        bench.Contender(CONVOLUTION, partial(evolving_vit_mini, beta=0.0)),
    ]


def images(run: Run) -> Iterator[Result]:
    """The vision transformer with and without evolving attention."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{VIT} > {HOST}: top1", f"{VIT} > {HOST}: corruption_top1")
    yield bench.difference_picture("evolving_attention", scores, HOST)
    seed = run.seeds()[0]
    yield maps_picture({each.name: bench.trained(run, each, seed) for each in contenders() if each.name in (HOST, VIT)})


def parts(run: Run) -> Iterator[Result]:
    """Both parts, and each alone."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{VIT} > {LINK}: top1", f"{VIT} > {CONVOLUTION}: top1")


def plain(run: Run) -> Iterator[Result]:
    """Both weights at zero, and what convolutions add."""
    yield from identity.plain()
    yield identity.overhead()


def series_classification(run: Run) -> Iterator[Result]:
    """Classify real time series without evolving attention, with a residual link, a convolution, and dilation."""
    yield from _series(run, series_comparison.CLASSIFICATION, TOP1)


def series_regression(run: Run) -> Iterator[Result]:
    """Predict a value of real time series likewise."""
    yield from _series(run, series_comparison.REGRESSION, ERROR)


def _series(run: Run, names: tuple[str, ...], metric: str) -> Iterator[Result]:
    scores = series_comparison.scores(run, run.settings.folders["time-series"], names, metric)
    yield from measurements(scores, dataset="time-series", protocol=PROTOCOL)
    yield from findings(
        scores,
        f"{DILATED} > {PLAIN}: {metric}",
        f"{RESIDUAL} > {PLAIN}: {metric}",
        f"{EVOLVING} > {RESIDUAL}: {metric}",
        f"{DILATED} > {EVOLVING}: {metric}",
    )
