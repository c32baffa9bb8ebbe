"""Versions of the protocols behind the metrics; a version rises when the same name would give another number."""

from __future__ import annotations

from common.errors import UserError

#: Metric, without what follows a slash, to the version of its protocol.
VERSIONS: dict[str, int] = {
    "top1": 1,
    "top5": 1,
    "clean_top1": 1,
    "ece": 2,
    "rms_calibration_error": 2,
    "rms_calibration_error_released": 1,
    "fgsm_top1": 1,
    "pgd_top1": 1,
    "pgd_eps4_top1": 1,
    "autoattack_eps4_top1": 1,
    "autoattack_l2_eps2_top1": 1,
    "autoattack_l1_eps75_top1": 1,
    "pgd100_eps4_top1": 1,
    "patch_attack_top1": 1,
    "patch_corruption_top1": 1,
    "random_drop_top1": 1,
    "salient_drop_top1": 1,
    "nonsalient_drop_top1": 1,
    "shuffle_top1": 1,
    "low_pass_top1": 1,
    "high_pass_top1": 1,
    "corruption_error": 1,
    "corruption_top1": 1,
    "corruption_top1_19": 1,
    "mce": 1,
    "relative_mce": 1,
    "flip_probability": 1,
    "top5_distance": 1,
    "zipf_distance": 1,
    "mfr": 1,
    "mt5d": 1,
    "auroc": 1,
    "aupr": 1,
    "fpr95": 2,
    "shape_bias": 1,
    "shape_share": 1,
    "texture_share": 1,
}


def versioned(metric: str) -> str:
    """``metric/version``, e.g. ``corruption_error/1`` for ``corruption_error/fog/3``."""
    base = metric.partition("/")[0]
    if base not in VERSIONS:
        raise UserError(f"metric {metric!r} has no protocol version; add it to common/robustness/protocols.py.")
    return f"{base}/{VERSIONS[base]}"
