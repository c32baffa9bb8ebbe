"""The embedded experiment: the bench's vision transformer and residual network with patches dropped and shuffled.

Both hosts see the same garments in the same order and are measured on the same images with the same random draws. An
image is 7 x 7 tiles, the patches of the transformer; how much of each is garment is known to the pixel, since the rest
is black.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.bench import cue_conflict
from common.bench.cue_conflict import garments
from common.robustness.occlusion_curves import SHARES, Condition, conditions
from common.training.data import TensorData
from common.training.recipe import Recipe

GRID = bench.hosts.SIDE // bench.hosts.PATCH
#: Grids of shuffled tiles that divide an image.
SHUFFLE_GRIDS = (2, 4, 7, 14)
#: What of the curves is averaged over its shares or grids.
CURVES = ("random_drop_top1", "salient_drop_top1", "nonsalient_drop_top1", "shuffle_top1")


@lru_cache(maxsize=1)
def textured_garments() -> TensorData:
    """The bench's training garments, each with the texture of another one, which says nothing about the label.

    It stands in for Stylized-ImageNet (Geirhos et al., arXiv 1811.12231).
    """
    data = bench.training_data()
    images, labels = data.train
    donors = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    grey = images[:, 0]
    textured = torch.where(garments(grey), cue_conflict.textures(grey[donors], grey.shape[-1]), grey)
    return TensorData(three_channels(textured), labels, *data.validation)


def garment_tiles(images: Tensor) -> Tensor:
    """How much of each tile of images (N, 3, H, W) is garment, (N, 49): what is salient here is known."""
    solid = garments(images[:, 0]).float()[:, None]
    return nn.functional.avg_pool2d(solid, bench.hosts.PATCH)[:, 0].flatten(1)


def three_channels(images: Tensor) -> Tensor:
    """(N, H, W) as three equal channels."""
    return images[:, None].repeat(1, 3, 1, 1)


def all_conditions() -> Mapping[str, Condition]:
    """Everything that is done to the test images, by the metric that it gives."""
    return conditions(grid=GRID, shares=SHARES, shuffle_grids=SHUFFLE_GRIDS, salient=True)


@lru_cache(maxsize=2)
def changed_images(quick: bool) -> Mapping[str, Tensor]:
    """The test images of each cell by its metric, (n, 3, 28, 28) uint8; the cells of a curve take subsets in turn."""
    tests, changed = bench.test_set(quick), {}
    for curve in CURVES:
        cells = {name: change for name, change in all_conditions().items() if name.startswith(f"{curve}/")}
        for cell, (name, change) in enumerate(cells.items()):
            images = tests.clean[cell % bench.SUBSETS]
            first = cell * len(images)
            changed[name] = change(images, range(first, first + len(images)), garment_tiles(images))
    return changed


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """What a model gets right under every condition, and what it decides by on cue conflicts.

    Returns:
        ``top1``; each of ``CURVES`` by image, and its cells (``random_drop_top1/0.5``); what
        ``cue_conflict.decisions`` returns.
    """
    tests, classifier = bench.test_set(quick), bench.normalised(model, recipe)
    found: dict[str, np.ndarray | float] = {"top1": bench.correct(classifier, tests.clean, tests.labels)}
    changed = changed_images(quick)
    for curve in CURVES:
        names = [name for name in changed if name.startswith(f"{curve}/")]
        images = torch.stack([changed[name] for name in names])
        right = bench.correct(classifier, images, tests.labels_of(len(names)))
        found[curve] = right
        found |= {name: float(cell.mean()) for name, cell in zip(names, right, strict=True)}
    return found | cue_conflict.decisions(classifier, cue_conflict.test_conflicts(quick))
