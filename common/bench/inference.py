"""What scores say: means with intervals, and verdicts on hypotheses, over seeds and images together.

The model of a metric is *contender + seed + image*, crossed: the same seed starts all contenders, and all are measured
on the same images. A difference between contenders varies with the seeds (contender x seed, pooled over all contenders
of the table, as in the analysis of variance of a block design) and with the images (contender x image). Seeds are few,
so their part is estimated with few degrees of freedom; images are thousands, so theirs is taken as known.

- Part of the seeds: MS / S for each contender of a difference, MS the mean square of contender x seed with
  (C - 1)(S - 1) degrees of freedom. It has the noise of single trainings on single images in it.
- Part of the images: the covariance of contenders' means over images, less that noise, which would else be counted
  twice (A. B. Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 1, 2007, section 4, has the decomposition). Cells that
  share images are added up by image first; subsets of the test set are strata.
- The two together: the error of a difference is a t variable for the seeds' part plus a normal one for the images',
  and its quantile is read from draws of both (the fiducial solution of Behrens and Fisher). Satterthwaite's degrees of
  freedom give the same for six seeds and more, but for two seeds intervals that cover 88 to 93 % instead of 95 %.
- Hypotheses of one call hold together: their intervals cover all true differences at once with 95 %. Differences to
  the same baseline are correlated (C. W. Dunnett, J. Am. Stat. Assoc. 50, 1955) and share their estimate of the seeds'
  part; both are kept within a metric. Between metrics independence is assumed, which can only make intervals wider
  (T. Royen, "A simple proof of the Gaussian correlation conjecture", 2014).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common import verdicts
from common.bench.scores import SUBSETS, Scores, metric
from common.measurement import Finding, Measurement, Over
from common.statistics import Estimate
from common.verdicts import SMALLEST_EFFECT, signed

CONFIDENCE = 0.95

#: Draws that quantiles are read from; their error moves the coverage by less than 0.2 %.
_DRAWS = 20_000

_HYPOTHESIS = re.compile(r"(?P<a>\S+) (?P<relation>[>=]) (?P<b>\S+): (?P<metric>\S+)")


@dataclass(frozen=True)
class Hypothesis:
    """``A > B: METRIC`` (A is better than B), or ``A = B: METRIC`` (the same within ``SMALLEST_EFFECT``)."""

    text: str
    a: str
    b: str
    metric: str
    equal: bool

    @classmethod
    def parse(cls, text: str) -> Hypothesis:
        """Read a hypothesis.

        Raises:
            ValueError: it has another form, or is an equivalence of what is not told in points.
        """
        match = _HYPOTHESIS.fullmatch(text)
        if match is None:
            raise ValueError(f'hypothesis {text!r}: write "CONTENDER > BASELINE: METRIC", or = for as good as')
        equal = match["relation"] == "="
        if equal and metric(match["metric"]).unit != "%":
            raise ValueError(f"hypothesis {text!r}: only what is in per cent can be equal within one point")
        return cls(text, match["a"], match["b"], match["metric"], equal)

    @property
    def statement(self) -> str:
        """The hypothesis as a sentence."""
        if self.equal:
            return f"{self.a} and {self.b} have the same {self.metric} within {SMALLEST_EFFECT:g} point."
        higher = "higher" if metric(self.metric).sign > 0 else "lower"
        return f"{self.a} has a {higher} {self.metric} than {self.b}."


def findings(scores: Scores, *hypotheses: str, floor: float | None = None) -> Iterator[Finding]:
    """Test hypotheses together, a finding each, whose name is the hypothesis.

    The tested quantity is the difference A - B in the metric's unit, turned so that it is positive where A is better.
    For the rule of verdicts see ``common.verdicts``: an interval above zero holds, however small the difference is.

    Args:
        scores: all contenders of the experiment; those that no hypothesis names help to estimate what seeds do.
        hypotheses: see ``Hypothesis``.
        floor: top-1 accuracy, in per cent, of a classifier that has learnt no features (logistic regression on pixels).
            Where the mean of B is not above it, nothing was learnt and there is no verdict.

    Raises:
        ValueError: a hypothesis is malformed or names what was not measured.
    """
    parsed = [Hypothesis.parse(text) for text in hypotheses]
    for hypothesis, estimate in zip(parsed, _simultaneous(scores, parsed), strict=True):
        yield _finding(scores, hypothesis, estimate, len(parsed), floor)


def difference(scores: Scores, a: str, b: str, name: str) -> Estimate:
    """The difference A - B of a metric in its unit, positive where A is better, with an interval for it alone.

    Args:
        scores: all contenders of the experiment.
        a, b: names of contenders.
        name: of the metric.
    """
    relation = f"{a} > {b}: {name}"
    return _simultaneous(scores, [Hypothesis(relation, a, b, name, equal=False)])[0]


def measurements(
    scores: Scores, metrics: Sequence[str] | None = None, *, dataset: str, protocol: str
) -> Iterator[Measurement]:
    """The mean over seeds of every contender and metric; ``detail`` has every seed's value and the cells' means.

    Args:
        scores: of the experiment.
        metrics: all that are no cells of another one by default.
        dataset: what was measured on.
        protocol: how, with its version.
    """
    if metrics is None:
        metrics = [name for name in scores.metrics if "/" not in name]
    tables = {name: _Table(scores, name) for name in metrics}
    for contender in scores.contenders:
        for name in metrics:
            estimate = tables[name].mean(contender)
            yield Measurement(
                model=contender,
                dataset=dataset,
                metric=name,
                value=estimate.value,
                unit=metric(name).unit,
                weights="trained",
                interval=estimate.interval,
                over=_over(scores, name) if estimate.interval else "",
                seeds=len(scores.seeds),
                n=scores.images(name),
                protocol=protocol,
                detail={
                    "per_seed": scores.per_seed(contender, name),
                    "seeds": list(scores.seeds),
                    **{cell: scores.mean(contender, cell) for cell in scores.cells(name)},
                },
            )


class _Table:
    """Contenders x seeds (x images) of one metric, and what varies in it.

    Attributes:
        values: (C, S), in the metric's unit.
    """

    def __init__(self, scores: Scores, name: str) -> None:
        self.scores, self.name = scores, name
        self.values = scores.by_seed(name)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of contender x seed."""
        contenders, seeds = self.values.shape
        return (contenders - 1) * (seeds - 1)

    @cached_property
    def squares(self) -> tuple[float, float]:
        """Mean squares of seed and of contender x seed; NaN where nothing is left to estimate one from."""
        contenders, seeds = self.values.shape
        of_seed = self.values.mean(axis=0, keepdims=True) - self.values.mean()
        residual = self.values - self.values.mean(axis=1, keepdims=True) - of_seed
        main = contenders * float(np.square(of_seed).sum()) / (seeds - 1) if seeds > 1 else math.nan
        return main, float(np.square(residual).sum()) / self.freedom if self.freedom else math.nan

    def contrasts(self, hypotheses: Sequence[Hypothesis]) -> np.ndarray:
        """Weights (H, C) of the contenders in each difference, positive where A is better."""
        weights = np.zeros((len(hypotheses), len(self.values)))
        for row, hypothesis in zip(weights, hypotheses, strict=True):
            row[self.scores.index(hypothesis.a)] += 1
            row[self.scores.index(hypothesis.b)] -= 1
        return weights * metric(self.name).sign

    def errors(self, contrasts: np.ndarray, generator: np.random.Generator) -> np.ndarray | None:
        """Draws (_DRAWS, H) of the absolute errors of differences; None with one seed, or the same value in all."""
        if not self.freedom or self.squares[1] <= _rounding(float(np.abs(self.values).max())):
            return None
        by_seeds = contrasts @ contrasts.T * self.squares[1] / self.values.shape[1]
        by_images = contrasts @ self.images @ contrasts.T
        return np.abs(_drawn([(by_seeds, self.freedom)], by_images, generator))

    @cached_property
    def images(self) -> np.ndarray:
        """Covariance (C, C) of the contenders' means by images; zeros for a number without images."""
        array = self.scores.array(self.name) * metric(self.name).scale
        count, seeds = array.shape[:2]
        if array.ndim == 2 or array.shape[3] < 2:
            return np.zeros((count, count))
        cells, columns = array.shape[2:]
        # What each image adds to the mean, over all cells that it is in.
        parts = np.zeros((count, seeds, min(cells, SUBSETS), columns))
        for cell in range(cells):
            parts[:, :, cell % SUBSETS] += array[:, :, cell] / (cells * columns)
        # Images are drawn within a subset: what cells differ by is no chance.
        parts -= parts.mean(axis=3, keepdims=True)
        parts *= math.sqrt(columns / (columns - 1))
        parts = parts.reshape(count, seeds, -1)
        means = parts.mean(axis=1)
        covariance = means @ means.T
        if seeds == 1:
            return covariance
        noise = (parts - means[:, None]).reshape(count, -1)
        return _positive(covariance - noise @ noise.T / (seeds * (seeds - 1)))

    def mean(self, contender: str) -> Estimate:
        """The mean of a contender over seeds, with the interval for another draw of seeds and images."""
        place = self.scores.index(contender)
        contenders, seeds = self.values.shape
        by_images = self.images[place : place + 1, place : place + 1]
        value = float(self.values[place].mean())
        if seeds == 1:
            # Of a single training only the images are known to vary.
            known, parts = by_images[0, 0] > 0, []
        else:
            # What a contender varies by from seed to seed, with what all contenders have alike.
            main, residual = self.squares
            parts = [(main / contenders / seeds, seeds - 1)]
            if self.freedom:
                parts.append((residual * (contenders - 1) / contenders / seeds, self.freedom))
            known = sum(part for part, _ in parts) > _rounding(value)
        half = math.inf
        if known:
            estimated = [(np.array([[part]]), freedom) for part, freedom in parts]
            half = float(np.quantile(np.abs(_drawn(estimated, by_images, np.random.default_rng(0))), CONFIDENCE))
        return Estimate(value, value - half, value + half)


def _simultaneous(scores: Scores, hypotheses: Sequence[Hypothesis]) -> list[Estimate]:
    """Differences with intervals that cover all true ones at once with probability ``CONFIDENCE``."""
    generator = np.random.default_rng(0)
    values, halves = np.zeros(len(hypotheses)), np.full(len(hypotheses), np.inf)
    # How far each drawn set of errors is beyond the intervals for single differences, at the worst of them.
    worst = np.zeros(_DRAWS)
    for name in dict.fromkeys(hypothesis.metric for hypothesis in hypotheses):
        places = [place for place, hypothesis in enumerate(hypotheses) if hypothesis.metric == name]
        table = _Table(scores, name)
        contrasts = table.contrasts([hypotheses[place] for place in places])
        values[places] = contrasts @ table.values.mean(axis=1)
        errors = table.errors(contrasts, generator)
        if errors is not None:
            halves[places] = np.quantile(errors, CONFIDENCE, axis=0)
            worst = np.maximum(worst, (errors / halves[places]).max(axis=1))
    halves *= max(1.0, float(np.quantile(worst, CONFIDENCE)))
    return [Estimate(float(v), float(v - half), float(v + half)) for v, half in zip(values, halves, strict=True)]


def _drawn(parts: Sequence[tuple[np.ndarray, int]], known: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws (_DRAWS, H) of the error of H numbers: normal, with variances that are estimated, plus one that is known.

    Args:
        parts: covariances (H, H) and the degrees of freedom that they are estimated with.
        known: covariance (H, H).
        generator: of the draws.
    """

    def normal(covariance: np.ndarray) -> np.ndarray:
        return generator.multivariate_normal(np.zeros(len(covariance)), covariance, _DRAWS, method="eigh")

    total = normal(known)
    for covariance, freedom in parts:
        total += normal(covariance) / np.sqrt(generator.chisquare(freedom, (_DRAWS, 1)) / freedom)
    return total


def _finding(scores: Scores, hypothesis: Hypothesis, estimate: Estimate, together: int, floor: float | None) -> Finding:
    of = metric(hypothesis.metric)
    if hypothesis.equal:
        verdict = verdicts.of_equivalence(estimate)
    else:
        verdict = verdicts.of_difference(estimate, SMALLEST_EFFECT if of.unit == "%" else math.inf)
    evidence = _evidence(scores, hypothesis, estimate, together)
    if floor is not None and (reached := scores.mean(hypothesis.b, "top1")) <= floor:
        verdict = "unclear"
        evidence = (
            f"No verdict: the networks did not learn. {hypothesis.b} reaches {reached:.1f} % top-1, logistic "
            f"regression on the pixels {floor:.1f} %. {evidence}"
        )
    return Finding(
        name=hypothesis.text,
        statement=hypothesis.statement,
        verdict=verdict,
        evidence=evidence,
        value=estimate.value,
        interval=estimate.interval,
        over=_over(scores, hypothesis.metric) if estimate.interval else "",
        seeds=len(scores.seeds),
    )


def _evidence(scores: Scores, hypothesis: Hypothesis, estimate: Estimate, together: int) -> str:
    unit = {"%": " points"}.get(metric(hypothesis.metric).unit, f" {metric(hypothesis.metric).unit}".rstrip())
    spread = "no interval"
    if estimate.interval:
        alike = f", one of {together} at once" if together > 1 else ""
        spread = f"95 % interval {signed(estimate.low)} to {signed(estimate.high)}{alike}"
    count, images = len(scores.seeds), scores.images(hypothesis.metric)
    over = f"{count} {'seed' if count == 1 else 'seeds'}" + (f", {images:,} images" if images else "")
    return f"{signed(estimate.value)}{unit} to the better ({spread}; {over})."


def _over(scores: Scores, name: str) -> Over:
    if scores.images(name) is None:
        return "seeds"
    return "images" if len(scores.seeds) == 1 else "seeds and images"


def _positive(covariance: np.ndarray) -> np.ndarray:
    """The nearest covariance matrix; a difference of two estimates need not be one."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def _rounding(value: float) -> float:
    """A variance as small as rounding makes it: values that all seeds have alike are coarse, not certain."""
    return (1e-12 * max(1.0, abs(value))) ** 2
