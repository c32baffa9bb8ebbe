"""Confidence intervals: of means, medians, paired differences and accuracies. All are 95 % by default."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, ndtri, stdtrit

from common.errors import UserError


class Estimate(NamedTuple):
    """A value with its confidence interval.

    Attributes:
        value: the point estimate.
        low, high: ends of the interval; infinite where the observations say nothing about their spread, as a single
            one does.
    """

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """``(low, high)``, or None where there is no finite one."""
        return (self.low, self.high) if math.isfinite(self.low) and math.isfinite(self.high) else None


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Estimate:
    """Mean of independent values (one a seed) with Student's t interval.

    Args:
        values: at least one.
        confidence: probability that the interval covers the true mean, for values that are close to normal.
    """
    sample = np.asarray(values, dtype=float)
    if sample.size == 0:
        raise UserError("a mean needs at least one value.")
    mean = float(sample.mean())
    if sample.size == 1:
        return Estimate(mean, -math.inf, math.inf)
    half = float(stdtrit(sample.size - 1, (1 + confidence) / 2) * sample.std(ddof=1) / math.sqrt(sample.size))
    return Estimate(mean, mean - half, mean + half)


def paired_interval(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean of ``a - b`` over pairs (the same seed, the same image) with Student's t interval.

    An ordering ``a > b`` is supported where the interval lies above 0. Differences that are equal for all pairs, up to
    rounding, have an infinite one: over a handful of seeds they come from the coarseness of a few hundred images, not
    from certainty.
    """
    if len(a) != len(b):
        raise UserError(f"{len(a)} and {len(b)} values cannot be paired; give one of each a seed.")
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    difference = first - second
    if difference.size and np.ptp(difference) <= 1e-12 * max(np.abs(first).max(), np.abs(second).max()):
        return Estimate(float(difference.mean()), -math.inf, math.inf)
    return mean_interval(difference, confidence)


def median_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Estimate:
    """Median of independent values with the interval between two of them, whatever their distribution is.

    The k-th smallest and the k-th largest of n values miss the true median with probability 2 P(Binomial(n, 1/2) < k);
    k is the largest for which that is at most 1 - ``confidence``. Fewer than six values have no 95 % interval.
    """
    sample = np.sort(np.asarray(values, dtype=float))
    if sample.size == 0:
        raise UserError("a median needs at least one value.")
    median = float(np.median(sample))
    missed = [2 * float(bdtr(k - 1, sample.size, 0.5)) for k in range(1, sample.size // 2 + 1)]
    k = sum(miss <= 1 - confidence for miss in missed)
    return Estimate(median, float(sample[k - 1]), float(sample[-k])) if k else Estimate(median, -math.inf, math.inf)


def wilson(correct: int, n: int, confidence: float = 0.95) -> Estimate:
    """Share ``correct / n`` with Wilson's score interval (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927), in [0, 1].

    Unlike the normal interval it stays in [0, 1] and keeps its coverage for shares near 0 and 1.
    """
    if not 0 <= correct <= n or n == 0:
        raise UserError(f"{correct} correct of {n}: a share needs 0 <= correct <= n and n > 0.")
    share, z = correct / n, float(ndtri((1 + confidence) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    # The ends are exact at none and all, where rounding would miss them.
    low = centre - half if correct > 0 else 0.0
    high = centre + half if correct < n else 1.0
    return Estimate(share, low, high)
