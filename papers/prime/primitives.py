"""The three primitives of PRIME: random smooth transformations of space, of colours and of the spectrum.

Each is drawn from the distribution of maximum entropy among those of a given smoothness or strength, which makes its
coefficients Gaussian. What chance decides is drawn apart (`papers.prime.draws`) from what is done with it here.

Axes: N images, C channels, H x W pixels, K frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError


@dataclass(frozen=True)
class Displacement:
    """A smooth displacement of space, one for all images of a batch.

    Attributes:
        x, y: coefficients of its columns and rows, (K, K) standard normal; entry (i, j) is of the mode with i + 1 half
            waves across and j + 1 down.
        temperature: square of its strength; 0 is the identity.
    """

    x: Tensor
    y: Tensor
    temperature: float


@dataclass(frozen=True)
class Colours:
    """Smooth maps from colours to colours, one for each image and channel.

    Attributes:
        coefficients: (N, C, K), standard normal.
        first: the lowest of the K frequencies, from 1.
        strength: variance of a coefficient; 0 is the identity.
    """

    coefficients: Tensor
    first: int
    strength: float


@dataclass(frozen=True)
class Filters:
    """Filters that are noise around the identity, one for each image.

    Attributes:
        noise: (N, k, k), standard normal.
        sigma: of the noise; 0 is the identity, if it is centred.
        centred: whether the identity is in the middle of the kernel, k odd. In the released code it is at ``ceil(k /
            2)``, counted from 0: a pixel off the middle, so that images move up and to the left by one.
    """

    noise: Tensor
    sigma: float
    centred: bool = True


def displace(images: Tensor, drawn: Displacement) -> Tensor:
    """Sample square images (N, C, H, H) at displaced places, bilinearly; nothing comes from beyond the border.

    Raises:
        UserError: the images are not square.
    """
    height, side = images.shape[2:]
    if height != side:
        raise UserError(f"Displacements are of square images; these have {height} x {side} pixels.")
    x, y = (field(coefficients, side) * (drawn.temperature**0.5 * side) for coefficients in (drawn.x, drawn.y))
    place = torch.arange(side, device=images.device, dtype=x.dtype)
    columns, rows = (place - x).clamp(0, side - 1), (place[:, None] - y).clamp(0, side - 1)
    left, top = columns.floor(), rows.floor()
    across, down = columns - left, rows - top
    left, top = left.long(), top.long()
    right, bottom = (left + 1).clamp(max=side - 1), (top + 1).clamp(max=side - 1)
    flat = images.flatten(2)

    def pixels(row: Tensor, column: Tensor) -> Tensor:
        return flat[:, :, (row * side + column).flatten()].view_as(images)

    above = pixels(top, left).lerp(pixels(top, right), across)
    return above.lerp(pixels(bottom, left).lerp(pixels(bottom, right), across), down)


def field(coefficients: Tensor, side: int) -> Tensor:
    """A random field (side, side) of sine waves that vanishes at the border.

    Petrini et al., "Relative stability toward diffeomorphisms indicates performance in deep nets", NeurIPS 2021: of all
    fields with the same expected norm of the gradient, this has the largest entropy. Mode (i, j) has variance
    ``1 / (i^2 + j^2)``, and modes beyond a circle are left out.

    Args:
        coefficients: (K, K), standard normal.
        side: in pixels; the first and the last one are on the border.
    """
    scale, waves = _modes(len(coefficients), side, coefficients)
    return waves @ (coefficients * scale).T @ waves.T


def _modes(count: int, side: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations of the modes, (count, count), and sine waves, (side, count)."""
    waves = torch.arange(1, count + 1, dtype=like.dtype, device=like.device)
    norm = (waves[:, None] ** 2 + waves**2).sqrt()
    place = torch.linspace(0, 1, side, dtype=like.dtype, device=like.device)
    return (norm < count + 0.5) / norm, (math.pi * place[:, None] * waves).sin()


def temperatures(side: int, cut: int) -> tuple[float, float]:
    """The range of temperatures for images of ``side`` pixels and fields of ``cut`` modes.

    At the lower one a pixel typically moves by half its size; above the upper one places change their order.
    """
    logarithm = math.log(cut + 1e-6)  # of one mode alone it would be 0
    return 1 / (math.pi * side**2 * logarithm), 4 / (math.pi**3 * (cut + 1e-6) ** 2 * logarithm)


def recolour(images: Tensor, drawn: Colours) -> Tensor:
    """Add to each colour value v of images in [0, 1] a sum of ``sin(pi k v)``, which vanishes at 0 and 1."""
    changed = images.clone()
    scaled = (drawn.coefficients * drawn.strength**0.5)[..., None, None]
    for position in range(scaled.shape[2]):
        wave = (images * (drawn.first + position)).mul_(math.pi).sin_()  # in the release's order: angles are large
        changed.addcmul_(scaled[:, :, position], wave)
    return changed.clamp_(0, 1)


def refilter(images: Tensor, drawn: Filters) -> Tensor:
    """Convolve each image in [0, 1] with its filter, with black around."""
    count, size = drawn.noise.shape[:2]
    middle = size // 2 if drawn.centred else math.ceil(size / 2)
    kernels = drawn.sigma * drawn.noise
    kernels[:, middle, middle] += 1
    filtered = F.conv2d(images.transpose(0, 1), kernels[:, None], padding="same", groups=count)
    return filtered.transpose(0, 1).clamp(0, 1)
