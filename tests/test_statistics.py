"""Confidence intervals: known answers and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from common.errors import UserError
from common.statistics import mean_interval, median_interval, paired_interval, wilson


def test_mean_interval_of_three_seeds() -> None:
    estimate = mean_interval([1.0, 2.0, 3.0])
    # Student's t quantile 0.975 with 2 degrees of freedom is 4.302653; the standard error is 1 / sqrt(3).
    half = 4.302653 / math.sqrt(3)
    assert estimate.value == 2
    assert estimate.interval == pytest.approx((2 - half, 2 + half), rel=1e-6)


def test_one_value_has_no_interval() -> None:
    assert mean_interval([5.0]).interval is None


def test_wilson_known_answer() -> None:
    # 81 of 263: the worked example of Newcombe (Statistics in Medicine 17, 1998, method 3).
    estimate = wilson(81, 263)
    assert estimate.interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    for correct, n in ((0, 10), (3, 7), (49_999, 50_000)):
        reference = binomtest(correct, n).proportion_ci(method="wilson")
        assert wilson(correct, n).interval == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    assert 0 < wilson(0, 10).high < 0.35


def test_pairing_removes_what_pairs_share() -> None:
    noise = np.random.default_rng(0).normal(0, 10, 5)
    shift = np.array([0.9, 1.0, 1.1, 1.0, 1.0])
    assert paired_interval(noise + shift, noise) == pytest.approx(mean_interval(shift))
    assert paired_interval(noise + shift, noise).low > 0.8
    assert mean_interval(noise + shift).low < mean_interval(noise).high


@pytest.mark.parametrize("difference", [0.0, 1.0, 0.1])
def test_a_difference_that_all_pairs_have_alike_has_no_interval(difference: float) -> None:
    scores = np.array([81.3, 80.7, 82.1])
    estimate = paired_interval(scores + difference, scores)
    assert estimate.value == pytest.approx(difference)
    assert estimate.interval is None
    shifts = np.array([difference, difference, difference + 1e-6])
    assert paired_interval(scores + shifts, scores).interval is not None


def test_coverage_of_t_interval() -> None:
    rng = np.random.default_rng(0)
    covered = [mean_interval(rng.normal(3, 2, 4)) for _ in range(1000)]
    share = np.mean([e.low <= 3 <= e.high for e in covered])
    assert 0.93 < share < 0.97


def test_median_interval_known_answers() -> None:
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]).interval is None
    assert median_interval([6.0, 2.0, 3.0, 4.0, 5.0, 1.0]) == (3.5, 1.0, 6.0)
    # From 9 values on the second is tight enough, from 12 the third (tables of the sign test).
    assert median_interval(range(1, 10)) == (5.0, 2.0, 8.0)
    assert median_interval(range(1, 13)) == (6.5, 3.0, 10.0)


def test_coverage_of_the_median_interval() -> None:
    rng = np.random.default_rng(0)
    covered = [median_interval(rng.exponential(1, 15)) for _ in range(1000)]
    assert 0.95 < np.mean([e.low <= math.log(2) <= e.high for e in covered]) < 0.98


@pytest.mark.parametrize(
    "call",
    [
        lambda: mean_interval([]),
        lambda: median_interval([]),
        lambda: paired_interval([1.0], [1.0, 2.0]),
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
    ],
)
def test_bad_samples_are_named(call) -> None:
    with pytest.raises(UserError):
        call()
