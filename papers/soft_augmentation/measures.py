"""What small networks are measured by: calibration, and accuracy with parts of the image out of view."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.robustness.metrics.calibration import ece
from common.robustness.prediction import predict
from common.training.recipe import Recipe
from papers.soft_augmentation.method import crop

METRICS = ("top1", "ece", "occlusion_top1", "crop_top1")
#: Shares of the image in view; the window moves by as many rows as columns, towards each corner.
SHARES = (0.75, 0.5, 0.25)
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
#: The cells of ``crop_top1``: cell r is the r-th pair.
CELLS = tuple(product(SHARES, CORNERS))


def moved(images: Tensor, cell: int) -> Tensor:
    """Images (n, 3, H, W) in a window that shows the cell's share of them; black outside."""
    share, corner = CELLS[cell]
    steps = round(images.shape[-1] * (1 - share**0.5))
    offset = steps * torch.tensor(corner).expand(len(images), 2)
    return crop(images, offset, images.new_zeros(len(images), images.shape[1]))


def measured(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """The metrics of `METRICS`, and each share in view or occluded as ``METRIC/SHARE``."""
    tests, classifier = bench.test_set(quick), bench.normalised(model, recipe)
    mean, std = (bench.per_channel(values) for values in (recipe.mean, recipe.std))
    sure, right = predict(model, tests.clean.flatten(0, 1), tests.labels.flatten(), mean=mean, std=std)
    occluded = bench.correct(classifier, tests.occluded, tests.labels_of(len(bench.OCCLUSION_SHARES)))
    cropped = bench.correct(
        classifier,
        torch.stack([moved(tests.clean[cell % bench.SUBSETS], cell) for cell in range(len(CELLS))]),
        tests.labels_of(len(CELLS)),
    )
    found: dict[str, np.ndarray | float] = {
        "top1": right.reshape(tests.labels.shape),
        "ece": ece(sure, right),
        "occlusion_top1": occluded,
        "crop_top1": cropped,
    }
    for share, hits in zip(bench.OCCLUSION_SHARES, occluded, strict=True):
        found[f"occlusion_top1/{share}"] = float(hits.mean())
    for share, hits in zip(SHARES, cropped.reshape(len(SHARES), -1), strict=True):
        found[f"crop_top1/{share}"] = float(hits.mean())
    return found
