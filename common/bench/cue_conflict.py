"""Shape against texture: test garments' silhouettes, filled with the texture of another class.

Geirhos et al., arXiv 1811.12231, make such conflicts by style transfer between photographs of 16 categories. Here the
garment's pixels are replaced by a piece from the inside of another garment, mirrored at its borders until it covers
them; where the garment is does not change. Whether a network can tell anything by either cue alone is measured
beside it: a silhouette filled with one grey value, and an image covered with texture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from common.bench.images import test_set
from common.bench.measures import correct
from common.data.composition import SPECK
from common.robustness.metrics.shape import shape_bias

#: Side of the piece of texture, in pixels of the original image, whose middle it is cut from.
PIECE = 10
#: Subsets of the test images that cue conflicts are made of.
CELLS = 4


@dataclass(frozen=True, eq=False)
class Conflicts:
    """Cue conflicts.

    Attributes:
        conflict, shape, texture: both cues, the silhouette alone, the texture alone; (N, H, W) uint8.
        labels, texture_labels: (N,), which differ.
    """

    conflict: Tensor
    shape: Tensor
    texture: Tensor
    labels: Tensor
    texture_labels: Tensor


def textures(donors: Tensor, side: int) -> Tensor:
    """The middle of images (N, h, w), mirrored at its borders until it covers (N, side, side)."""
    start = (donors.shape[-1] - PIECE) // 2
    piece = donors[:, start : start + PIECE, start : start + PIECE]
    # Positions 0 1 .. 9 9 .. 1 0 0 1 ..: neighbours stay neighbours.
    there_and_back = torch.cat([torch.arange(PIECE), torch.arange(PIECE).flip(0)])
    positions = there_and_back.repeat(side // len(there_and_back) + 1)[:side]
    return piece[:, positions][:, :, positions]


def partners(labels: Tensor) -> Tensor:
    """For every image the index of one of another class: the next such in the order of the images, (N,)."""
    others = labels[None] != labels[:, None]
    count = len(labels)
    distance = (torch.arange(count)[None] - torch.arange(count)[:, None]) % count
    return torch.where(others, distance, count).argmin(dim=1)


def conflicts(images: Tensor, masks: Tensor, labels: Tensor) -> Conflicts:
    """Cue conflicts of garments.

    Args:
        images: (N, H, W) uint8.
        masks: (N, H, W) bool, where the garments are.
        labels: (N,).
    """
    partner = partners(labels)
    texture = textures(images[partner], images.shape[-1])
    grey = int(images[masks].float().mean())
    return Conflicts(
        conflict=torch.where(masks, texture, images),
        shape=images.masked_fill(masks, grey),
        texture=texture,
        labels=labels,
        texture_labels=labels[partner],
    )


def garments(images: Tensor) -> Tensor:
    """Where uint8 images (N, H, W) show a garment and not the black behind it, (N, H, W) bool."""
    return images > SPECK


@lru_cache(maxsize=2)
def test_conflicts(quick: bool) -> tuple[Conflicts, ...]:
    """Cue conflicts of the bench's first test images, by subset."""
    tests = test_set(quick)
    return tuple(
        conflicts(images[:, 0], garments(images[:, 0]), labels)
        for images, labels in zip(tests.clean[:CELLS], tests.labels[:CELLS], strict=True)
    )


def decisions(classifier: nn.Module, cells: Sequence[Conflicts]) -> dict[str, np.ndarray | float]:
    """What a classifier (of images in [0, 1], in eval mode) decides by.

    Returns:
        ``shape_bias`` and, by image (cells, N), ``shape_share`` and ``texture_share`` on cue conflicts;
        ``silhouette_top1`` and ``texture_top1``, whether it is right by either cue alone.
    """

    def right(name: str, labels: str) -> np.ndarray:
        images = torch.stack([getattr(cell, name) for cell in cells])
        truth = torch.stack([getattr(cell, labels) for cell in cells])
        return correct(classifier, images[:, :, None].repeat(1, 1, 3, 1, 1), truth)

    by_shape, by_texture = right("conflict", "labels"), right("conflict", "texture_labels")
    return {
        "shape_bias": _bias(by_shape, by_texture),
        "shape_share": by_shape,
        "texture_share": by_texture,
        "silhouette_top1": right("shape", "labels"),
        "texture_top1": right("texture", "texture_labels"),
    }


def _bias(by_shape: np.ndarray, by_texture: np.ndarray) -> float:
    """Shape bias in [0, 1] of decisions that are by shape, by texture, or neither."""
    decided = np.where(by_shape, "shape", np.where(by_texture, "texture", "neither")).ravel().tolist()
    return shape_bias(decided, ["shape"] * len(decided), ["texture"] * len(decided)).bias
