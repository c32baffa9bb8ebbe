"""What the contenders are measured by: accuracy behind filters, beside the bench's measure of robustness."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from common import bench
from common.robustness.frequency import FILTERS, RADII
from common.training.recipe import Recipe


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """The metrics of ``bench.robustness``; ``low_pass_top1`` and ``high_pass_top1``, and every radius of theirs."""
    tests, classifier = bench.test_set(quick), bench.normalised(model, recipe)
    found = dict(bench.robustness(model, recipe, quick))
    for metric, change in FILTERS.items():
        images = torch.stack(
            [change(tests.clean[cell].float() / 255, radius) for cell, radius in enumerate(RADII)]
        )  # a cell a radius
        right = bench.correct(classifier, images, tests.labels_of(len(RADII)))
        found[metric] = right
        found |= {f"{metric}/{radius:g}": float(cell.mean()) for radius, cell in zip(RADII, right, strict=True)}
    return found
