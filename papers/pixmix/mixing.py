"""Ways to mix two images in [0, 1], (N, C, H, W), with weights a and b of each pair, (N,).

PixMix uses the first two; the released code has the others as well, and does not use them. Results may leave [0, 1],
and are cut off there by `papers.pixmix.method.pixmix`.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The smallest base of a power, so that none with a negative exponent is infinite.
SMALLEST = 1e-37


def add(first: Tensor, second: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a x + b y`` of images in [-1, 1], brought back to [0, 1]."""
    return (_each(a) * (2 * first - 1) + _each(b) * (2 * second - 1) + 1) / 2


def multiply(first: Tensor, second: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``x^a y^b`` of images in [0, 2], brought back to [0, 1]: grey changes nothing."""
    return (2 * first) ** _each(a) * (2 * second).clamp(min=SMALLEST) ** _each(b) / 2


def screen(first: Tensor, second: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`multiply` of the inverted images, inverted."""
    return 1 - multiply(1 - first, 1 - second, a, b)


def overlay(
    first: Tensor, second: Tensor, multiplied: tuple[Tensor, Tensor], screened: tuple[Tensor, Tensor], dark: bool
) -> Tensor:
    """`multiply` where the first image is dark, or where it is bright, and `screen` elsewhere.

    Args:
        first, second: images.
        multiplied, screened: the weights (a, b) of each.
        dark: whether it is multiplied where the first image is below 0.5, else above.
    """
    chosen = first < 0.5 if dark else first > 0.5
    return torch.where(chosen, multiply(first, second, *multiplied), screen(first, second, *screened))


def darken_or_lighten(first: Tensor, second: Tensor, darken: bool) -> Tensor:
    """The darker, or the brighter, of two values."""
    return torch.minimum(first, second) if darken else torch.maximum(first, second)


def swap_channel(first: Tensor, second: Tensor, channel: int) -> Tensor:
    """The first image with one channel of the second."""
    swapped = first.clone()
    swapped[:, channel] = second[:, channel]
    return swapped


def _each(weight: Tensor) -> Tensor:
    return weight.view(-1, 1, 1, 1)
