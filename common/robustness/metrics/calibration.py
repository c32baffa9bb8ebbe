"""Calibration: does a confidence of 80 per cent mean right in 80 of 100 cases?

All functions take ``confidence`` (the largest softmax probability) and ``correct`` (0 or 1), each ``(N,)``.
Sources: expected calibration error, Guo et al., arXiv 1706.04599; the errors over bins of equal count, as released
with ImageNet-A (Hendrycks et al., arXiv 1907.07174), ImageNet-R and PixMix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from common.errors import UserError

#: Examples in a bin of the released evaluations.
BIN_SIZE = 100


def ece(confidence: Any, correct: Any, bins: int = 15) -> float:
    """Expected calibration error over ``bins`` intervals of equal width, in [0, 1].

    Guo et al., equation 3: the gap between accuracy and mean confidence in each interval ((m - 1) / M, m / M], weighted
    by its share of the examples; a confidence of exactly 1 is in the last one, of exactly 0 in the first.
    """
    confidence, correct = _checked(confidence, correct)
    which = np.searchsorted(np.linspace(0, 1, bins + 1)[1:], confidence)
    return float(np.abs(np.bincount(which, correct - confidence)).sum() / confidence.size)


def adaptive_calibration_error(
    confidence: Any,
    correct: Any,
    *,
    norm: Literal["rms", "mad", "max"] = "rms",
    bin_size: int = BIN_SIZE,
    last_bin: bool = False,
) -> float:
    """Calibration error over consecutive bins of ``bin_size`` examples sorted by confidence, in [0, 1].

    Args:
        confidence: largest softmax probabilities.
        correct: 0 or 1.
        norm: root mean square, mean absolute or largest gap between a bin's confidence and accuracy.
        bin_size: examples in a bin; what remains joins the last bin.
        last_bin: True counts every bin, as the publications define the error (metric ``rms_calibration_error``). The
            released evaluations leave out the last one (the most confident examples) although they divide by all N
            (metric ``rms_calibration_error_released``).
    """
    confidence, correct = _checked(confidence, correct)
    n = confidence.size
    count = n // bin_size
    if count < 2:
        raise UserError(f"{n} examples are too few for bins of {bin_size}; give at least {2 * bin_size}.")
    order = np.argsort(confidence, kind="stable")
    starts = np.arange(count) * bin_size
    sizes = np.diff(np.append(starts, n))
    gaps = np.abs(np.add.reduceat(confidence[order] - correct[order], starts)) / sizes
    if not last_bin:
        gaps, sizes = gaps[:-1], sizes[:-1]
    if norm == "rms":
        return float(np.sqrt(np.sum(sizes / n * gaps**2)))
    if norm == "mad":
        return float(np.sum(sizes / n * gaps))
    return float(gaps.max())


def corruption_calibration_error(
    cells: Mapping[tuple[str, int], tuple[Any, Any]], *, bin_size: int = BIN_SIZE
) -> float:
    """Root-mean-square calibration error under corruption, in [0, 1].

    The mean over corruptions, each with the examples of all its severities together, of
    `adaptive_calibration_error` with every bin counted.

    Args:
        cells: by corruption and severity, ``(confidence, correct)`` as for the other functions.
        bin_size: examples in a bin.
    """
    names = dict.fromkeys(name for name, _ in cells)
    errors = []
    for name in names:
        parts = [pair for (other, _), pair in cells.items() if other == name]
        confidence, correct = (np.concatenate([np.asarray(p[i], dtype=np.float64) for p in parts]) for i in (0, 1))
        errors.append(adaptive_calibration_error(confidence, correct, bin_size=bin_size, last_bin=True))
    return float(np.mean(errors))


def _checked(confidence: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if confidence.ndim != 1 or confidence.shape != correct.shape or confidence.size == 0:
        raise UserError(f"confidence {confidence.shape} and correct {correct.shape} must be of one length, above 0.")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise UserError("confidences must lie in [0, 1]; pass softmax probabilities, not logits.")
    if not np.isin(correct, (0, 1)).all():
        raise UserError("correct must be 0 or 1 for each example, not a share or a class.")
    return confidence, correct
