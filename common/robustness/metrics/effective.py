"""Effective robustness: accuracy under shift beyond what clean accuracy predicts (Taori et al., arXiv 2007.00644)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

from common.errors import UserError


def effective_robustness(
    clean: float, shifted: float, baseline_clean: Sequence[float], baseline_shifted: Sequence[float]
) -> float:
    """``shifted - beta(clean)``, where beta is a line through the baselines on logit axes (section 2 of the paper).

    Args:
        clean: the model's accuracy without shift, in (0, 1).
        shifted: its accuracy under shift, in (0, 1).
        baseline_clean: accuracies of two or more standard models, in (0, 1).
        baseline_shifted: theirs under shift.

    Returns:
        In [-1, 1]; above 0 means more robust than standard models of the same clean accuracy.
    """
    x, y = np.asarray(baseline_clean, dtype=float), np.asarray(baseline_shifted, dtype=float)
    if x.shape != y.shape or np.unique(x).size < 2:
        raise UserError(
            "effective robustness needs two or more baselines of different clean accuracy, both values each."
        )
    everything = np.concatenate([x, y, [clean, shifted]])
    if not ((everything > 0) & (everything < 1)).all():
        raise UserError("effective robustness needs accuracies strictly between 0 and 1, as shares.")
    slope, intercept = np.polyfit(logit(x), logit(y), 1)
    return float(shifted - expit(slope * logit(clean) + intercept))
