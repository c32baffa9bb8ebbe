"""Garments on cluttered canvases whose masks are known exactly: how much of a map falls on the object."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.bench.images import test_set
from common.data.composition import Background, place_on_canvas
from common.robustness.corruptions import corrupt

DATASET = "fashion-mnist-canvas"
CLEAN, CORRUPTED = "attention_on_object", "corrupted_attention_on_object"
SIDE = 28  # of the canvas, in pixels
GARMENT = 18  # side of the garment's frame, in pixels
CLUTTER = Background(clutter=4)
CORRUPTION, SEVERITY = "gaussian_noise", 3
CELLS = 2  # subsets of the bench's test images that are put on canvases


@dataclass(frozen=True)
class Canvases:
    """Canvases with one garment each, by subset: images (CELLS, n, 3, H, W) uint8, masks (CELLS, n, H, W) bool."""

    images: Tensor
    masks: Tensor

    def share_of(self, maps: Tensor) -> np.ndarray:
        """Share of each canvas's map that falls on its garment, (CELLS, n).

        Args:
            maps: (CELLS x n, rows, columns), each of sum 1.
        """
        rows, columns = maps.shape[-2:]
        # Share of each token's pixels that belong to the garment.
        covered = F.adaptive_avg_pool2d(self.masks.flatten(0, 1)[:, None].float(), (rows, columns))[:, 0]
        return (maps * covered).sum(dim=(1, 2)).view(self.masks.shape[:2]).numpy()


@lru_cache(maxsize=2)
def test_canvases(quick: bool) -> dict[str, Canvases]:
    """The bench's first test images on canvases, by metric: as they are, and under noise."""
    tests = test_set(quick)
    garments, labels = tests.clean[:CELLS, :, 0], tests.labels[:CELLS]
    drawn = place_on_canvas(
        garments.flatten(0, 1), labels.flatten(), size=SIDE, side=GARMENT, background=CLUTTER,
        generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    images, masks = drawn.images[:, None].repeat(1, 3, 1, 1), drawn.masks[:, 0].unflatten(0, labels.shape)
    noisy = corrupt(images, CORRUPTION, SEVERITY, seeds=range(len(images)))
    return {
        CLEAN: Canvases(images.unflatten(0, labels.shape), masks),
        CORRUPTED: Canvases(noisy.unflatten(0, labels.shape), masks),
    }
