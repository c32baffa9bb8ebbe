"""Blurs: defocus, glass, motion, zoom, Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from . import filters
from .draws import Draws
from .filters import to_bytes
from .parameters import Parameters


def defocus_blur(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Correlation with a slightly smoothed disk."""
    return to_bytes(filters.defocus(x, p["radius"], p["alias_sigma"]))


def gaussian_blur(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Gaussian filter."""
    return to_bytes(filters.gaussian(x.float(), p["sigma"]))


def motion_blur(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Motion blur at an angle of -45 to 45 degrees. Draw: ``motion_angle`` (), u with angle = -45 + 90 u."""
    angles = draws.uniform("motion_angle").mul(90).sub(45)
    return to_bytes(filters.motion(x.float(), p["radius"], p["sigma"], angles))


def zoom_blur(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Mean of the image and its zooms."""
    image = x.float()
    total = image * 2  # the image itself, and the zoom by 1
    step = (1 + p["step"]) - 1  # as np.arange has it: sizes below hang on the rounding
    count = int(p["count"])
    for index in range(1, count):
        total += filters.clipped_zoom(image, 1 + index * step)
    return to_bytes(total / (count + 1))


def glass_blur(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Gaussian filter, local copying of pixels, Gaussian filter.

    Pixels are visited from the lower right, each taking the present value of a random neighbour (the original means
    to swap the two but copies). Draw: ``glass`` (iterations, H - 2 reach, W - 2 reach, 2), offsets (dx, dy) in
    [-reach, reach) in the order of the visits.
    """
    reach, iterations = int(p["reach"]), int(p["iterations"])
    height, width = x.shape[-2:]
    offsets = draws.integers("glass", -reach, reach, iterations, height - 2 * reach, width - 2 * reach, 2)
    source = _glass_sources(offsets, height, width, reach)
    blurred = to_bytes(filters.gaussian(x.float(), p["sigma"])).flatten(2)
    copied = blurred.gather(2, source[:, None].expand(-1, 3, -1)).view(x.shape)
    return to_bytes(filters.gaussian(copied.float(), p["sigma"]))


def _glass_sources(offsets: Tensor, height: int, width: int, reach: int) -> Tensor:
    """The pixel of the original image that ends up in each place, ``(B, H W)``.

    Visits go through decreasing positions. A pixel that reads an already visited one (a larger position) gets what
    that one read; the chains of such reads are followed by doubling: after n rounds, 2^n links.
    """
    position = torch.arange(height * width, device=offsets.device).view(height, width)
    rows, columns = slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1)
    source: Tensor | None = None
    moves = (offsets[..., 0].int() + offsets[..., 1].int() * width).flip(2, 3)
    for step in moves.unbind(1):
        read = position.repeat(len(offsets), 1, 1)
        read[:, rows, columns] += step
        read = read.flatten(1)
        link = torch.maximum(read, position.view(1, -1))
        while True:
            further = link.gather(1, link)
            if torch.equal(further, link):
                break
            link = further
        taken = read.gather(1, link)
        source = taken if source is None else source.gather(1, taken)
    assert source is not None
    return source
