"""Textures of the suite's own making: styles for the embedded experiments that restyle images.

A texture is noise with a random spectrum: a band of frequencies, in one direction or in all, of random contrast and
brightness; every second one has hard edges, as brush strokes have. None says anything about a class.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Shortest and longest wave, in pixels.
WAVES = (2.5, 14.0)


def textures(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Random textures, (count, side, side) uint8."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    frequency = torch.exp(uniform(-math.log(WAVES[1]), -math.log(WAVES[0])))  # cycles per pixel
    angle, spread = uniform(0, math.pi), frequency * uniform(0.15, 0.5)
    rows, columns = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    radius = torch.hypot(rows, columns)
    # The distance of a frequency to the band: to a point and its mirror image, or to a ring.
    along = (columns * angle.cos() + rows * angle.sin()).abs()
    across = rows * angle.cos() - columns * angle.sin()
    oriented = torch.hypot(along - frequency, across)
    distance = torch.where(uniform(0, 1) < 0.6, oriented, (radius - frequency).abs())
    noise = torch.fft.rfft2(torch.randn(count, side, side, generator=generator))
    field = torch.fft.irfft2(noise * torch.exp(-((distance / spread) ** 2) / 2), s=(side, side))
    field = field / field.std(dim=(1, 2), keepdim=True)
    hard = torch.tanh(uniform(1, 6) * field)
    field = torch.where(uniform(0, 1) < 0.5, hard, field / 2)
    shade = uniform(0.25, 0.75) + uniform(0.1, 0.4) * field
    return (255 * shade).round().clamp(0, 255).to(torch.uint8)
