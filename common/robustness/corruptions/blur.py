"""Blurs: defocus, glass, motion, zoom, Gaussian."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from . import filters
from .draws import Draws
from .filters import to_bytes
from .motion import motion
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
    return to_bytes(motion(x.float(), p["radius"], p["sigma"], angles))


def zoom_blur(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Mean of the image and its zooms, the first of which is by 1."""
    step = (1 + p["step"]) - 1  # as np.arange has it: sizes below hang on the rounding
    factors = (1.0, *(1 + index * step for index in range(int(p["count"]))))
    return to_bytes(filters.mean_zoom(x.float(), factors))


def glass_blur(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Gaussian filter, local copying of pixels, Gaussian filter.

    Pixels are visited from the lower right, each taking the present value of a random neighbour (the original means
    to swap the two but copies). Draw: ``glass`` (iterations, H - 2 reach, W - 2 reach, 2), offsets (dx, dy) in
    [-reach, reach) in the order of the visits.
    """
    reach, iterations = int(p["reach"]), int(p["iterations"])
    height, width = x.shape[-2:]
    visits = iterations, height - 2 * reach, width - 2 * reach
    if draws.has("glass"):
        moves = draws.look_up("glass", (*visits, 2)).int()
        moves = moves[..., 0] + moves[..., 1] * width
    else:
        moves = draws.choose(_glass_moves(reach, width).to(x.device), *visits)
    source = _glass_sources(moves, height, width, reach)
    blurred = to_bytes(filters.gaussian(x.float(), p["sigma"]))
    copied = torch.stack([channel.flatten().index_select(0, source) for channel in blurred.unbind(1)])
    return to_bytes(filters.gaussian(copied.view(3, -1, height, width).transpose(0, 1).float(), p["sigma"]))


@lru_cache(maxsize=16)
def _glass_moves(reach: int, width: int) -> Tensor:
    """A table of 65536 random moves dx + dy width, dx and dy in [-reach, reach); int32."""
    choice = torch.arange(2**16) * (2 * reach) ** 2 // 2**16
    return (choice % (2 * reach) - reach + (choice // (2 * reach) - reach) * width).int()


def _glass_sources(moves: Tensor, height: int, width: int, reach: int) -> Tensor:
    """The pixel of the original images that ends up in each place, int32 ``(B H W,)``.

    Visits go through decreasing positions. A pixel that reads an already visited one (a larger position) gets what
    that one read; the chains of such reads are followed by doubling: after n rounds, 2^n links.

    Args:
        moves: int32 ``(B, iterations, H - 2 reach, W - 2 reach)``, how far away each visited pixel reads.
        height: H.
        width: W.
        reach: pixels that are left out at the upper and left border, one less than at the others.
    """
    position = torch.arange(len(moves) * height * width, dtype=torch.int32, device=moves.device)
    inner = slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1)
    source: Tensor | None = None
    for step in moves.flip(2, 3).unbind(1):
        read = position.clone()
        read.view(len(moves), height, width)[:, inner[0], inner[1]] += step
        link = torch.maximum(read, position)
        while True:
            further = link.index_select(0, link)
            if torch.equal(further, link):
                break
            link = further
        taken = read.index_select(0, link)
        source = taken if source is None else source.index_select(0, taken)
    assert source is not None
    return source
