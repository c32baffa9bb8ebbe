"""Corruption errors of ImageNet-C, relative to AlexNet (Hendrycks and Dietterich, arXiv 1903.12261, section 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from common.errors import UserError


@lru_cache(maxsize=1)
def alexnet() -> dict[str, Any]:
    """AlexNet's errors in [0, 1]: ``error`` by corruption, ``error_per_severity``, ``clean_error``, and ``source``."""
    return json.loads(Path(__file__).with_name("alexnet.json").read_text())


def corruption_errors(errors: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """CE of each of the 15 benchmark corruptions, in per cent of AlexNet's error; their order is the benchmark's.

    Args:
        errors: top-1 errors in [0, 1] at severities 1 to 5, by corruption. Others than the 15 are left out.
    """
    return {name: 100 * fmean(values) / alexnet()["error"][name] for name, values in _benchmark(errors).items()}


def mce(errors: Mapping[str, Sequence[float]]) -> float:
    """Mean corruption error: the mean of ``corruption_errors``, in per cent. Not the mean error over ImageNet-C."""
    return fmean(corruption_errors(errors).values())


def relative_corruption_errors(
    errors: Mapping[str, Sequence[float]], clean_error: float, alexnet_clean_error: float | None = None
) -> dict[str, float]:
    """Relative CE of each corruption: the degradation from clean images, in per cent of AlexNet's degradation.

    Args:
        errors: as in ``corruption_errors``.
        clean_error: the model's top-1 error on clean images, in [0, 1].
        alexnet_clean_error: AlexNet's; by default that of torchvision's weights, since the benchmark's code has none.
    """
    if not 0 <= clean_error <= 1:
        raise UserError(f"errors are shares in [0, 1]; the clean error is {clean_error}.")
    reference = alexnet()
    base = reference["clean_error"] if alexnet_clean_error is None else alexnet_clean_error
    return {
        name: 100 * (fmean(values) - clean_error) / (reference["error"][name] - base)
        for name, values in _benchmark(errors).items()
    }


def relative_mce(
    errors: Mapping[str, Sequence[float]], clean_error: float, alexnet_clean_error: float | None = None
) -> float:
    """Relative mean corruption error: the mean of ``relative_corruption_errors``, in per cent."""
    return fmean(relative_corruption_errors(errors, clean_error, alexnet_clean_error).values())


def mean_error(errors: Mapping[str, Sequence[float]]) -> float:
    """Plain mean error over all given corruptions and severities, in per cent: what some papers call ImageNet-C."""
    if not errors:
        raise UserError("the mean corruption error needs at least one corruption.")
    return 100 * fmean(fmean(values) for values in errors.values())


def _benchmark(errors: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    chosen = {}
    for name in alexnet()["error"]:
        if name not in errors:
            raise UserError(f"mCE needs all 15 corruptions at 5 severities; {name} is missing.")
        if len(errors[name]) != 5:
            raise UserError(f"mCE needs severities 1 to 5; {name} has {len(errors[name])} values.")
        if not all(0 <= value <= 1 for value in errors[name]):
            raise UserError(f"errors are shares in [0, 1]; {name} has {tuple(errors[name])}.")
        chosen[name] = errors[name]
    return chosen
