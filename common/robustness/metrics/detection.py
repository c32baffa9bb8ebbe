"""Detection of unknown classes, with unknown as the positive class (ImageNet-O; Hendrycks et al., arXiv 1907.07174)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from common.errors import UserError


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
        recall: where the false positive rate is taken: at the threshold whose recall is nearest; of several with that
            recall at the lowest, as released.

    Returns:
        Area under the ROC curve, average precision, false positive rate.

    Raises:
        UserError: scores of one kind are missing, or a score is no number.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve  # here: importing it takes seconds

    score = np.concatenate([np.asarray(score_unknown, dtype=float), np.asarray(score_known, dtype=float)])
    if not (len(score_unknown) and len(score_known)) or np.isnan(score).any():
        raise UserError(
            f"detection needs scores of both kinds, all of them numbers; there are {len(score_unknown)} unknown and "
            f"{len(score_known)} known ones, {int(np.isnan(score).sum())} of them NaN."
        )
    unknown = np.zeros(score.size, dtype=int)
    unknown[: len(score_unknown)] = 1
    false_positive, true_positive, _ = roc_curve(unknown, score, drop_intermediate=False)
    # From full recall down, so that the lowest of equal thresholds comes first.
    down = np.arange(np.argmax(true_positive == 1), -1, -1)
    nearest = down[np.argmin(np.abs(true_positive[down] - recall))]
    return Detection(
        auroc=float(roc_auc_score(unknown, score)),
        aupr=float(average_precision_score(unknown, score)),
        fpr95=float(false_positive[nearest]),
    )
