"""Accuracy and calibration of small models on clean and corrupted images."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pandas as pd
from torch import nn

from common.robustness.embedded.experiment import Contender, table_of
from common.robustness.embedded.images import test_set
from common.robustness.embedded.robustness import per_channel
from common.robustness.metrics.calibration import adaptive_calibration_error, corruption_calibration_error
from common.robustness.prediction import predict
from common.run import Run
from common.training.recipe import Recipe

CALIBRATION_METRICS = ("top1", "corruption_top1", "rms_calibration_error", "corruption_rms_calibration_error")


def compare_calibration(run: Run, contenders: Iterable[Contender], path: Path) -> pd.DataFrame:
    """Train every contender with every seed and measure accuracy and calibration.

    Returns:
        A row a contender and seed (in the index), a column a number, in per cent: ``CALIBRATION_METRICS`` and
        ``corruption_top1/<name>/<severity>`` a cell.
    """
    return table_of(run, list(contenders), path, partial(measure_calibration, quick=run.settings.quick))


def measure_calibration(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, float]:
    """Accuracy and calibration of ``model`` (in eval mode) on the test set; see ``compare_calibration``.

    Calibration errors are root mean squares over bins of 100 images, every bin counted.
    """
    tests = test_set(quick)
    of = partial(predict, model, mean=per_channel(recipe.mean), std=per_channel(recipe.std))
    confidence, correct = of(tests.clean, tests.clean_labels)
    cells = {cell: of(images, tests.labels) for cell, images in tests.corrupted.items()}
    accuracy = {f"corruption_top1/{name}/{s}": 100 * float(right.mean()) for (name, s), (_, right) in cells.items()}
    return {
        "top1": 100 * float(correct.mean()),
        "corruption_top1": sum(accuracy.values()) / len(accuracy),
        "rms_calibration_error": 100 * adaptive_calibration_error(confidence, correct, last_bin=True),
        "corruption_rms_calibration_error": 100 * corruption_calibration_error(cells),
        **accuracy,
    }
