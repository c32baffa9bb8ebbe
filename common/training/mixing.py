"""What mixing made of a batch: timm's mixup and CutMix, with a record from which labels can be mixed anew.

Methods that paste other regions than CutMix's box derive from `TokenMixup` and say which tokens of a grid are pasted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from common.errors import UserError
from common.training.recipe import Recipe


@dataclass(frozen=True)
class Mixed:
    """Labels of the two images behind each mixed one, and where the second is seen.

    Image i of a batch of B is mixed with image B - 1 - i, its partner.

    Attributes:
        first: (B, classes), smoothed labels of the images themselves.
        second: (B, classes), smoothed labels of their partners.
        mask: (B, H, W), share of the partner in each pixel, in [0, 1]: 0 or 1 after CutMix, the same everywhere
            after mixup, 0 where nothing was mixed.
    """

    first: Tensor
    second: Tensor
    mask: Tensor

    @property
    def share(self) -> Tensor:
        """The partner's share of an image's area, (B,), in [0, 1]; 1 - lambda in the notation of mixup and CutMix."""
        return self.mask.mean(dim=(1, 2))

    def labels(self, share: Tensor) -> Tensor:
        """Targets (B, classes) in which the partner has the share (B,) of the label."""
        return self.first.lerp(self.second, share.to(self.first.dtype)[:, None])


class Mixing:
    """Mixes batches by ``mixup`` in place; random draws come from numpy's global generator, as timm's do."""

    def __init__(self, mixup: Mixup) -> None:
        self._mixup = mixup

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Mixed]:
        """Mix ``images`` (B, C, H, W) of ``labels`` (B,), B even.

        Returns:
            Mixed images, targets (B, classes) by area, and the record.
        """
        before = np.random.get_state()  # noqa: NPY002 (timm draws from the global generator)
        images, targets = self._mixup(images, labels)
        # The same draws on an image that is 0 in one half of the batch and 1 in the other show who is where, whatever
        # timm mixes by: boxes or weights, one a batch, a pair or an image.
        np.random.set_state(before)  # noqa: NPY002
        own = torch.zeros_like(images[:, :1])
        own[len(own) // 2 :] = 1
        mixed, _ = self._mixup(own.clone(), labels)
        mask = (mixed - own).abs_()[:, 0]
        first = mixup_target(labels, self._mixup.num_classes, smoothing=self._mixup.label_smoothing)
        return images, targets, Mixed(first, first.flip(0), mask)


class TokenMixup(Mixup, ABC):
    """timm's mixup and CutMix, whose CutMix pastes whole tokens: a region of a grid, one for the batch.

    Args:
        grid: rows and columns of tokens; images are multiples of them.
        arguments: those of timm's ``Mixup``, whose ``mode`` is ``"batch"``.

    Raises:
        UserError: images or labels would be mixed one by one or in pairs, or images do not divide into the grid.
    """

    def __init__(self, *, grid: tuple[int, int], **arguments: Any) -> None:
        super().__init__(**arguments)
        if self.mode != "batch":
            raise UserError(f"Tokens are mixed with one region for a batch: set mix_mode=batch, not {self.mode}.")
        self.grid = grid

    @abstractmethod
    def region(self, share: float) -> np.ndarray:
        """Draw from numpy's global generator which tokens are pasted.

        Args:
            share: of the partner, as mixup draws it, in (0, 1].

        Returns:
            Of the shape of the grid, bool.
        """

    def _mix_batch(self, x: Tensor) -> float:
        """Mix ``x`` (B, C, H, W) in place and return its share of itself, as timm's method of this name does."""
        own, pastes = self._params_per_batch()
        if own == 1.0:
            return 1.0
        if not pastes:
            x.copy_(x.flip(0).lerp_(x, own))
            return own
        region = self.region(1 - own)
        mask = enlarge(torch.from_numpy(region), *x.shape[2:]).to(x.device)
        x.copy_(torch.where(mask, x.flip(0), x))
        return 1 - float(region.mean())


def enlarge(region: Tensor, height: int, width: int) -> Tensor:
    """A region of tokens (..., rows, columns) in pixels, (..., height, width).

    Raises:
        UserError: the image does not divide into such tokens.
    """
    rows, columns = region.shape[-2:]
    if height % rows or width % columns:
        raise UserError(f"Images of {height}x{width} pixels do not divide into {rows}x{columns} tokens.")
    return region.repeat_interleave(height // rows, dim=-2).repeat_interleave(width // columns, dim=-1)


def require_cutmix(recipe: Recipe, method: str, otherwise: str) -> None:
    """Raise a `UserError` where a recipe never makes the CutMix images that a method needs.

    Args:
        recipe: of the training.
        method: its name, which starts the sentence.
        otherwise: the setting that does without.
    """
    if not recipe.mixes or not recipe.cutmix or not (recipe.mix_switch_probability or not recipe.mixup):
        raise UserError(
            f"{method} needs CutMix, which this recipe never does: set cutmix, mix_probability and "
            f"mix_switch_probability above 0, or {otherwise}."
        )
