"""What numbers over seeds say: their mean as a measurement, and the rule that turns an interval into a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from common.measurement import Finding, FindingVerdict, Measurement, Over
from common.statistics import Estimate, mean_interval

#: The smallest difference of interest: one point of accuracy (or of any other metric in per cent).
SMALLEST_EFFECT = 1.0


def of_difference(estimate: Estimate, smallest: float = math.inf) -> FindingVerdict:
    """Whether a difference is above zero: the verdict on "better", "more", "higher".

    ``holds``: the interval is above zero, however small the difference; ``does not hold``: it is below;
    ``no difference``: it has zero in it and lies within ``smallest`` either way; ``unclear``: all else.

    Args:
        estimate: the difference with its interval.
        smallest: the smallest difference of interest; infinite (the default) where none is stated, and then nothing
            can be called no difference.
    """
    if estimate.interval is None:
        return "unclear"
    if estimate.low > 0:
        return "holds"
    if estimate.high < 0:
        return "does not hold"
    return "no difference" if math.isfinite(smallest) and _within(estimate, smallest) else "unclear"


def of_equivalence(estimate: Estimate, smallest: float = SMALLEST_EFFECT) -> FindingVerdict:
    """Whether two things are the same but for ``smallest``: the verdict on "equal", "does not change".

    ``holds``: the interval lies within ``smallest`` either way; ``does not hold``: it lies wholly beyond;
    ``unclear``: all else. An interval that only leaves out zero says nothing against equivalence.
    """
    if estimate.interval is None:
        return "unclear"
    if _within(estimate, smallest):
        return "holds"
    return "does not hold" if estimate.low > smallest or estimate.high < -smallest else "unclear"


def of_bound(estimate: Estimate, bound: float) -> FindingVerdict:
    """Whether a quantity is at most ``bound``: the verdict on a cost."""
    if estimate.interval is None:
        return "unclear"
    return "holds" if estimate.high <= bound else "does not hold" if estimate.low > bound else "unclear"


def difference_finding(
    statement: str,
    estimate: Estimate,
    seeds: int,
    unit: str = "points",
    *,
    name: str = "",
    over: Over = "seeds",
) -> Finding:
    """The finding that a difference over seeds is above zero; in points, less than one is no difference."""
    smallest = SMALLEST_EFFECT if unit == "points" else math.inf
    return _finding(statement, of_difference(estimate, smallest), estimate, seeds, unit, name, over)


def mean_measurement(values: Sequence[float], **fields: Any) -> Measurement:
    """The mean over seeds with its t interval, of numbers that a claim measured by itself.

    What comes from the bench has ``common.bench.inference.measurements``, which knows the images, too.

    Args:
        values: one a seed, in the metric's unit; kept in the measurement's ``detail``.
        fields: the measurement's other fields; ``detail`` is added to.
    """
    values = [float(value) for value in values]
    estimate = mean_interval(values)
    return Measurement(
        value=estimate.value,
        interval=estimate.interval,
        over="seeds" if estimate.interval else "",
        seeds=len(values),
        detail={"per_seed": values, **fields.pop("detail", {})},
        **fields,
    )


def signed(value: float) -> str:
    """Two decimals with a sign, and none of a zero."""
    return f"{round(value, 2) + 0.0:+.2f}"


def _finding(
    statement: str, verdict: FindingVerdict, estimate: Estimate, seeds: int, unit: str, name: str, over: Over
) -> Finding:
    spread = "no interval"
    if estimate.interval:
        spread = f"95 % interval {signed(estimate.low)} to {signed(estimate.high)}"
    return Finding(
        name=name,
        statement=statement,
        verdict=verdict,
        evidence=f"Difference {signed(estimate.value)} {unit} ({spread}, {seeds} {'seed' if seeds == 1 else 'seeds'}).",
        value=estimate.value,
        interval=estimate.interval,
        over=over if estimate.interval else "",
        seeds=seeds,
    )


def _within(estimate: Estimate, smallest: float) -> bool:
    return -smallest <= estimate.low and estimate.high <= smallest
