"""Frame sequences of garments that change little from frame to frame: does a prediction stay?

The idea of ImageNet-P (Hendrycks and Dietterich, arXiv 1903.12261), with four of its perturbations: noise that is drawn
anew for each frame, brightness, a translation and a rotation that go on.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from common import bench

FRAMES = 9
#: Cell r of the flip rate is the r-th perturbation.
PERTURBATIONS = ("gaussian_noise", "brightness", "translate", "rotate")
#: Standard deviation of the noise; from the first to the last frame: change of brightness, pixels, degrees.
NOISE, BRIGHTNESS, PIXELS, DEGREES = 0.06, 0.4, 8, 16


@lru_cache(maxsize=2)
def sequences(quick: bool) -> Tensor:
    """The test images of a subset for each perturbation, (perturbations, n, FRAMES, 3, 28, 28) uint8."""
    clean = bench.test_set(quick).clean[: len(PERTURBATIONS)].float() / 255
    made = [_MAKE[name](images) for name, images in zip(PERTURBATIONS, clean, strict=True)]
    return torch.stack([(255 * frames).round().clamp(0, 255).to(torch.uint8) for frames in made])


def _course(length: float) -> Tensor:
    """From minus to plus half of ``length`` in equal steps, (FRAMES,)."""
    return torch.linspace(-length / 2, length / 2, FRAMES)


def _noisy(images: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return images[:, None] + NOISE * torch.randn(len(images), FRAMES, *images.shape[1:], generator=generator)


def _brightened(images: Tensor) -> Tensor:
    return images[:, None] + _course(BRIGHTNESS).view(-1, 1, 1, 1)


def _translated(images: Tensor) -> Tensor:
    return _mapped(images, [(0.0, 2 * float(pixels) / images.shape[-1]) for pixels in _course(PIXELS)])


def _rotated(images: Tensor) -> Tensor:
    return _mapped(images, [(math.radians(float(degrees)), 0.0) for degrees in _course(DEGREES)])


def _mapped(images: Tensor, maps: list[tuple[float, float]]) -> Tensor:
    """Each image turned by an angle and moved across by a share of half its side, with black around."""
    frames = []
    for angle, shift in maps:
        cosine, sine = math.cos(angle), math.sin(angle)
        matrix = torch.tensor([[cosine, -sine, shift], [sine, cosine, 0.0]]).expand(len(images), 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        frames.append(F.grid_sample(images, grid, align_corners=False))
    return torch.stack(frames, dim=1)


_MAKE = {"gaussian_noise": _noisy, "brightness": _brightened, "translate": _translated, "rotate": _rotated}
