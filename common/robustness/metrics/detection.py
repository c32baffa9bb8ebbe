"""Detection of unknown classes, with unknown as the positive class (ImageNet-O; Hendrycks et al., arXiv 1907.07174)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Detection(NamedTuple):
    """How well scores tell unknown from known: ``auroc``, ``aupr`` and ``fpr95``, each in [0, 1]."""

    auroc: float
    aupr: float
    fpr95: float


def detection(score_unknown: Any, score_known: Any, *, recall: float = 0.95) -> Detection:
    """Compare anomaly scores, e.g. minus the largest softmax probability.

    Args:
        score_unknown: ``(M,)``, scores of out-of-distribution images; higher is more anomalous.
        score_known: ``(N,)``, scores of in-distribution images.
        recall: where the false positive rate is taken: at the threshold whose recall is nearest.

    Returns:
        Area under the ROC curve, average precision, false positive rate.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve  # here: importing it takes seconds

    score = np.concatenate([np.asarray(score_unknown, dtype=float), np.asarray(score_known, dtype=float)])
    unknown = np.zeros(score.size, dtype=int)
    unknown[: len(score_unknown)] = 1
    false_positive, true_positive, _ = roc_curve(unknown, score, drop_intermediate=False)
    nearest = np.argmin(np.abs(true_positive - recall))
    return Detection(
        auroc=float(roc_auc_score(unknown, score)),
        aupr=float(average_precision_score(unknown, score)),
        fpr95=float(false_positive[nearest]),
    )
