"""Noise: Gaussian, shot, impulse, speckle."""

from __future__ import annotations

from functools import cache

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from .draws import Draws
from .filters import to_bytes
from .parameters import Parameters

#: Cells of the unit interval in the table that inverts the Poisson distribution.
CELLS = 2048
#: Marks a cell in which the value changes.
AMBIGUOUS = -1


def gaussian_noise(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Add N(0, std) to x. Draw: ``noise_normal`` (H, W, 3), standard normal."""
    return to_bytes(draws.normal_image("noise_normal", *x.shape[-2:], std=255 * p["std"]).add_(x.float()))


def speckle_noise(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Add x N(0, std) to x. Draw: ``noise_normal`` (H, W, 3), standard normal."""
    return to_bytes(draws.normal_image("noise_normal", *x.shape[-2:], mean=1, std=p["std"]).mul_(x.float()))


def impulse_noise(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Each value turns 0 or 255 with probability amount / 2 each. Draw: ``noise_uniform`` (H, W, 3), u in [0, 1)."""
    u = draws.uniform_image("noise_uniform", *x.shape[-2:])
    half = p["amount"] / 2
    black, white = (u < half).view(torch.uint8), (u >= 1 - half).view(torch.uint8)
    return (black.sub_(1) & x) | white.neg_()  # 0 - 1 is 255 in eight bits; several times faster than masks


def shot_noise(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Poisson(x photons) / photons, by inversion. Draw: ``noise_uniform`` (H, W, 3), u in [0, 1).

    The count is the smallest k with u < P(count <= k). A table gives what becomes of it for every grey level and cell
    of u in which it is constant; the few others are compared with the distribution itself. Counts above ``photons``
    are white and need no distinction.
    """
    u = draws.uniform_image("noise_uniform", *x.shape[-2:])
    table, distribution, values = (part.to(x.device) for part in _poisson(int(p["photons"])))
    cells = (u * CELLS).to(torch.int32).add_(x.to(torch.int32), alpha=CELLS).reshape(-1)
    levels = table.index_select(0, cells)
    open_cells = (levels == AMBIGUOUS).nonzero().squeeze(1)
    thresholds = distribution[x.reshape(-1).index_select(0, open_cells).long()]
    counts = (u.reshape(-1).index_select(0, open_cells)[:, None] >= thresholds).sum(1)
    levels.index_copy_(0, open_cells, values.index_select(0, counts))
    return levels.to(torch.uint8).view(x.shape)


@cache
def _poisson(photons: int) -> tuple[Tensor, Tensor, Tensor]:
    """What Poisson counts become.

    Returns:
        the grey level for each (grey level, cell of u), flat int16; P(count <= k) for k < photons, (256, photons); the
        grey level for each count, int16.
    """
    rate = np.arange(256)[:, None] / 255 * photons
    distribution = scipy.stats.poisson.cdf(np.arange(photons)[None, :], rate).astype(np.float32)
    edges = (np.arange(CELLS + 1) / CELLS).astype(np.float32)
    values = np.floor(np.arange(photons + 1) * (255 / photons) + 1e-4).astype(np.int16)
    table = np.empty((256, CELLS), np.int16)
    for level in range(256):
        first = np.searchsorted(distribution[level], edges[:-1], side="right")
        last = np.searchsorted(distribution[level], edges[1:], side="left")
        table[level] = np.where(first == last, values[first], AMBIGUOUS)
    return torch.from_numpy(table.reshape(-1)), torch.from_numpy(distribution), torch.from_numpy(values)
