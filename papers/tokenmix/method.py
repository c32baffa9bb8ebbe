"""TokenMix: an image is mixed in several separate parts, and its label follows a teacher's activation on what is seen.

Liu et al., "TokenMix: Rethinking Image Mixing for Data Augmentation in Vision Transformers", ECCV 2022, arXiv
2207.08409. From the abstract: the region is partitioned into several parts, at the level of tokens; target scores are
assigned by the neural activation maps of both images from a pre-trained teacher. All else is checked against
github.com/Sense-X/TokenMix @0e17d5d (tokenmix.py).

Notation: tokens of the partner are pasted into an image where the region is True. Axes: B images, K classes.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from common.training.mixing import TokenMixup

#: Sides of a part are as 1 to at most 1 / 0.3.
SMALLEST_ASPECT = 0.3
#: Parts that are tried before the region is left as it is.
ATTEMPTS = 10
#: Keeps a map without any activation from being divided by zero.
EPSILON = 1e-8


class Draws(Protocol):
    """Where random numbers come from."""

    def uniform(self, low: float, high: float) -> float:
        """Draw a number between ``low`` and ``high``."""
        ...

    def randint(self, low: int, high: int) -> int:
        """Draw a whole number from ``low`` to ``high``, both included."""
        ...


class NumpyDraws:
    """Draws from numpy's global generator, as timm's mixing does."""

    def uniform(self, low: float, high: float) -> float:
        """Draw a number between ``low`` and ``high``."""
        return float(np.random.uniform(low, high))  # noqa: NPY002

    def randint(self, low: int, high: int) -> int:
        """Draw a whole number from ``low`` to ``high``, both included."""
        return int(np.random.randint(low, high + 1))  # noqa: NPY002


def token_count(grid: tuple[int, int], share: float, extra: int) -> int:
    """How many tokens of a grid are pasted: a share of them, rounded down, and ``extra`` ones."""
    tokens = grid[0] * grid[1]
    return min(tokens, int(share * tokens) + extra)


def block_region(grid: tuple[int, int], count: int, draws: Draws) -> np.ndarray:
    """A region of rectangles, each of what is left to paste at most, bool of the shape of ``grid``.

    Rectangles may overlap. One that would make too many tokens, none, or span the grid is drawn again; after
    `ATTEMPTS` of them the region stays smaller than ``count`` tokens.
    """
    rows, columns = grid
    region = np.zeros(grid, dtype=bool)
    aspects = (math.log(SMALLEST_ASPECT), math.log(1 / SMALLEST_ASPECT))
    attempts = 0
    while (left := count - int(region.sum())) > 0 and attempts < ATTEMPTS:
        attempts += 1
        area, aspect = draws.uniform(1, left), math.exp(draws.uniform(*aspects))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= columns:
            continue
        top, first = draws.randint(0, rows - height), draws.randint(0, columns - width)
        part = region[top : top + height, first : first + width]
        if 0 < part.size - part.sum() <= left:
            part[:] = True
            attempts = 0
    return region


def scattered_region(grid: tuple[int, int], count: int, permutation: np.ndarray) -> np.ndarray:
    """A region of single tokens: the first ``count`` of a permutation of all, bool of the shape of ``grid``."""
    region = np.zeros(grid, dtype=bool)
    region.flat[permutation[:count]] = True
    return region


class TokenMixing(TokenMixup):
    """timm's mixing of a batch, with TokenMix's regions in place of CutMix's box.

    Args:
        blocks: a region of rectangles, or else of single tokens.
        ratio: share of the tokens that are pasted, ``extra_tokens`` aside; 0 takes the share that mixup draws.
        extra_tokens: see `token_count`.
        arguments: those of `TokenMixup`.
    """

    def __init__(self, *, blocks: bool, ratio: float, extra_tokens: int, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.blocks, self.ratio, self.extra_tokens = blocks, ratio, extra_tokens

    def region(self, share: float) -> np.ndarray:
        """Draw a region, bool of the shape of the grid."""
        count = token_count(self.grid, self.ratio or share, self.extra_tokens)
        if self.blocks:
            return block_region(self.grid, count, NumpyDraws())
        return scattered_region(self.grid, count, np.random.permutation(self.grid[0] * self.grid[1]))  # noqa: NPY002


def activation(teacher: nn.Module, images: Tensor, labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Where a teacher sees the class of each image: its probability at every place of the last feature map.

    Args:
        teacher: a network with timm's ``forward_features``, images to (B, C, h, w), and ``forward_head``.
        images: (B, 3, H, W), normalised, not mixed.
        labels: (B,).
        grid: rows and columns of the map, to which the teacher's is resized.

    Returns:
        (B, rows, columns), in [0, 1].
    """
    features = teacher.forward_features(images)  # type: ignore[operator]
    places = features.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]  # each as an image of one pixel
    logits = teacher.forward_head(places).unflatten(0, (len(images), -1))  # type: ignore[operator]
    own = logits.float().softmax(dim=2).gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
    maps = own.view(len(images), 1, *features.shape[2:])
    return F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)[:, 0]


def stored_activation(scores: Tensor, classes: Tensor, crops: Tensor, labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """The same from maps of whole images that were stored: the scores of the best few classes at every place.

    Args:
        scores: (B, k, h, w), of the classes in ``classes`` (B, k, h, w); all others have score 0.
        crops: (B, 4): left, top, width and height of the crop that is trained on, as shares of the image.
        labels: (B,).
        grid: rows and columns of the map.

    Returns:
        (B, rows, columns).
    """
    own = (scores * (classes == labels[:, None, None, None])).sum(dim=1, keepdim=True)
    corners = torch.cat((crops[:, :2], crops[:, :2] + crops[:, 2:]), dim=1) * scores.shape[3] - 0.5
    return roi_align(own.float(), list(corners.float()[:, None]), output_size=grid)[:, 0]


def visible_scores(activation: Tensor, region: Tensor, normalised: bool = False) -> tuple[Tensor, Tensor]:
    """What of an image's activation, and of its partner's, is seen in the mixed image.

    Args:
        activation: (B, rows, columns), not negative, of the images before mixing; image i has partner B - 1 - i.
        region: (rows, columns) or (B, rows, columns), 1 where the partner is seen.
        normalised: divide both scores by their sum, so that they are shares as CutMix's are.

    Returns:
        Both (B,), in [0, 1]; as released they need not add up to 1: where both objects are seen they make 2.
    """
    density = activation / (activation.sum(dim=(1, 2), keepdim=True) + EPSILON)
    own, partner = (density * (1 - region)).sum(dim=(1, 2)), (density.flip(0) * region).sum(dim=(1, 2))
    if not normalised:
        return own, partner
    total = own + partner
    share = torch.where(total > 0, partner / total.clamp(min=EPSILON), region.float().mean(dim=(-2, -1)))
    return 1 - share, share


def mix_labels(labels: Tensor, own: Tensor, partner: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Targets (B, classes) of a mixed batch from the scores of both images.

    Smoothing takes half of it from each score, whatever that is: a score of less makes a negative target, as released.

    Args:
        labels: (B,), before mixing.
        own: (B,), see `visible_scores`; ``partner`` likewise.
        classes: K.
        smoothing: of the label, in [0, 1].
    """
    off = smoothing / classes
    first = F.one_hot(labels, classes).to(own.dtype)
    second = first.flip(0)
    return first * (own - smoothing / 2)[:, None] + second * (partner - smoothing / 2)[:, None] + off
