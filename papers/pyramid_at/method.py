"""PyramidAT: perturbations of several scales, coarse and strong to fine and weak, that move an image to another class.

A level is a grid of colours, each of which shifts a square of pixels. An image x in [-1, 1] becomes

    x_0 = x,    x_l = clip(x_(l-1) + multiplier_l * up(delta_l), -1, 1),

level by level, and a step of the attack moves all levels at once, by the same step and within the same epsilon:

    delta_l <- clip(delta_l - step * sign(d loss / d delta_l), -epsilon, epsilon)

where the loss is low if the network takes the image for the class of the attack. A single level of pixels is PGD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError


@dataclass(frozen=True)
class PyramidAttack:
    """The attack and its settings.

    Attributes:
        cells: of each level on a side of an image, coarse to fine; each divides the side. None: there is no attack.
        multipliers: of each level.
        epsilon: of a level before its multiplier, in units of images in [-1, 1]: half of that in [0, 1].
        step: likewise.
        steps: number of steps.

    Raises:
        UserError: a value is out of range.
    """

    cells: tuple[int, ...] = (7, 14, 224)
    multipliers: tuple[float, ...] = (20, 10, 1)
    epsilon: float = 6 / 255
    step: float = 1 / 255
    steps: int = 5

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.multipliers):
            raise UserError(f"there are {len(self.cells)} levels and {len(self.multipliers)} multipliers of them.")
        if any(count < 1 for count in self.cells):
            raise UserError(f"a level has at least one cell on a side, not {min(self.cells)}.")
        if self.epsilon < 0 or self.step < 0 or self.steps < 0:
            raise UserError("epsilon, step and steps must not be negative.")

    def zeros(self, images: Tensor) -> list[Tensor]:
        """Levels (B, C, cells, cells) that change nothing of images (B, C, H, W).

        Raises:
            UserError: the cells of a level do not divide the images evenly.
        """
        height, width = images.shape[-2:]
        for count in self.cells:
            if height % count or width % count:
                raise UserError(f"{count} cells on a side do not divide images of {height}x{width} pixels evenly.")
        return [images.new_zeros(*images.shape[:2], count, count) for count in self.cells]

    def apply(self, images: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] with the levels added, each cut to that range before the next one comes."""
        for level, multiplier in zip(levels, self.multipliers, strict=True):
            count = level.shape[-1]
            size = (images.shape[-2] // count, images.shape[-1] // count)
            up = level.repeat_interleave(size[0], dim=-2).repeat_interleave(size[1], dim=-1)
            images = _cut(images + multiplier * up)
        return images

    def moved(self, levels: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """The levels after a step down the gradients of the loss; a gradient that overflowed moves nothing."""
        return [
            (level - self.step * gradient.nan_to_num(nan=0.0).sign()).clamp(-self.epsilon, self.epsilon)
            for level, gradient in zip(levels, gradients, strict=True)
        ]

    def __call__(
        self, images: Tensor, loss: Callable[[Tensor], Tensor], start: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Levels (B, C, cells, cells) that make the loss low.

        Args:
            images: (B, C, H, W) in [-1, 1].
            loss: of images in [-1, 1], a scalar that sums over them.
            start: levels to start from; zeros by default.
        """
        levels = list(start) if start is not None else self.zeros(images)
        for _ in range(self.steps):
            leaves = [level.detach().requires_grad_() for level in levels]
            gradients = torch.autograd.grad(loss(self.apply(images, leaves)), leaves)
            levels = self.moved([leaf.detach() for leaf in leaves], gradients)
        return levels


def _cut(images: Tensor) -> Tensor:
    """Images cut to [-1, 1]. Of a pixel exactly at a bound half of the gradient passes, as in the released code.

    torch.clamp passes all of it, which turns the signs of coarse cells with many black or white pixels.
    """
    low, high = images.new_tensor(-1), images.new_tensor(1)
    return torch.minimum(torch.maximum(images, low), high)
