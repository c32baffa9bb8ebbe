"""The relief of water in spatter, by OpenCV on a CPU and by the same steps in torch elsewhere."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import cut, pad

#: Gradients at which a pixel may be and is an edge.
LOW, HIGH = 50, 150
#: Distances from the edges are cut at this many pixels.
FARTHEST = 20.0
#: Steps of OpenCV's 5 x 5 distance (Borgefors 1986): the offset, up to symmetry, and the length given to it.
CHAMFER = (((0, 1), 1.0), ((1, 1), 1.4), ((1, 2), 2.1969))

#: Row, column and weight of the filter that lights the water's surface from the lower right.
LIGHT = (((0, 0), -2), ((0, 1), -1), ((1, 0), -1), ((1, 1), 1), ((1, 2), 1), ((2, 1), 1), ((2, 2), 2))
#: Marks are spread this many times before it is asked whether anything changed.
SPREADS = 4
#: Distances are added up in whole multiples of this many pixels, so that 16 bits hold the sum of two.
UNIT = 1 / 800


def relief(levels: Tensor) -> Tensor:
    """Light and shade of the water's surface from the distance to its outlines: whole grey levels, ``(B, H, W)``."""
    return _by_opencv(levels) if levels.device.type == "cpu" else _by_torch(levels)


def _by_opencv(levels: Tensor) -> Tensor:
    light = np.zeros((3, 3), np.float32)
    for place, weight in LIGHT:
        light[place] = weight
    lit = torch.empty_like(levels)
    for image, out in zip(cut(levels).numpy(), lit.numpy(), strict=True):
        distance = cv2.distanceTransform(cv2.bitwise_not(cv2.Canny(image, LOW, HIGH)), cv2.DIST_L2, 5)
        height = cv2.blur(np.minimum(distance, FARTHEST), (3, 3)).astype(np.uint8)
        out[:] = cv2.blur(cv2.filter2D(cv2.equalizeHist(height), -1, light), (3, 3))
    return lit


def _by_torch(levels: Tensor) -> Tensor:
    distance = chamfer_distance(canny(levels, LOW, HIGH), FARTHEST)
    height = equalise((_box3(distance) / 9).to(torch.int16))
    padded = pad(height, 1, "reflect101")
    rows, columns = levels.shape[-2:]
    shaded = torch.zeros_like(height)
    for (row, column), weight in LIGHT:
        shaded.add_(padded[:, row : row + rows, column : column + columns], alpha=weight)
    return torch.round(_box3(shaded.clamp_(0, 255)) / 9)


def _box3(x: Tensor) -> Tensor:
    """Sum over 3 x 3 pixels, border reflect101."""
    padded = pad(x, 1, "reflect101")
    across = (padded[..., :-2] + padded[..., 1:-1]).add_(padded[..., 2:])
    return (across[..., :-2, :] + across[..., 1:-1, :]).add_(across[..., 2:, :])


def canny(levels: Tensor, low: int, high: int) -> Tensor:
    """Canny edges with a 3 x 3 Sobel filter and the L1 gradient, decided in integers as OpenCV does.

    Args:
        levels: whole grey levels ``(B, H, W)``.
        low: weak edges are above this gradient.
        high: strong edges are above this gradient; weak ones stay where they connect to strong ones.

    Returns:
        bool ``(B, H, W)``.
    """
    rows, columns = levels.shape[-2:]
    g = pad(levels.to(torch.int16), 1, "edge")
    across = (g[:, :-2] + g[:, 2:]).add_(g[:, 1:-1], alpha=2)
    along = (g[:, :, :-2] + g[:, :, 2:]).add_(g[:, :, 1:-1], alpha=2)
    dx = across[:, :, 2:] - across[:, :, :-2]
    dy = along[:, 2:] - along[:, :-2]
    size_x, size_y = dx.abs(), dy.abs()
    magnitude = size_x + size_y
    around = F.pad(magnitude, (1, 1, 1, 1))

    def at(row: int, column: int) -> Tensor:
        return around[:, 1 + row : 1 + row + rows, 1 + column : 1 + column + columns]

    flat_limit = size_x.int().mul_(13573)  # tan(22.5 degrees) in units of 2^-15
    scaled = size_y.int().mul_(2**15)
    flat = scaled < flat_limit
    steep = scaled > flat_limit.add_(size_x, alpha=2**16)
    horizontal = (magnitude > at(0, -1)) & (magnitude >= at(0, 1))
    vertical = (magnitude > at(-1, 0)) & (magnitude >= at(1, 0))
    falling = (magnitude > at(-1, -1)) & (magnitude > at(1, 1))
    rising = (magnitude > at(-1, 1)) & (magnitude > at(1, -1))
    opposite = (dx ^ dy) < 0
    diagonal = (opposite & rising) | (~opposite & falling)
    ridge = (flat & horizontal) | (steep & vertical) | (~(flat | steep) & diagonal)
    weak = ridge & (magnitude > low)
    return _connected(weak & (magnitude > high), weak)


def _connected(marks: Tensor, allowed: Tensor) -> Tensor:
    """Spread marks among allowed pixels over their eight neighbours, bool ``(B, H, W)`` each."""
    width = allowed.shape[-1]
    # In one long row per image, a neighbour is a constant offset; a column that is not allowed parts the rows.
    allowed, before = (F.pad(part.view(torch.uint8), (0, 1)).flatten(1) for part in (allowed, marks))
    while True:
        after = before
        for _ in range(SPREADS):
            beside = after.clone()
            beside[:, 1:] |= after[:, :-1]
            beside[:, :-1] |= after[:, 1:]
            after = beside.clone()
            after[:, width + 1 :] |= beside[:, : -width - 1]
            after[:, : -width - 1] |= beside[:, width + 1 :]
            after &= allowed
        if torch.equal(after, before):
            return after.view(*marks.shape[:-1], width + 1)[..., :width].bool()
        before = after


def chamfer_distance(edges: Tensor, farthest: float) -> Tensor:
    """Distance of every pixel to the nearest edge pixel in steps of ``CHAMFER``, cut at ``farthest``.

    A shortest path may take its steps in any order, so one direction after the other is relaxed, by doubling.

    Args:
        edges: bool ``(B, H, W)``.
        farthest: largest distance of interest, in pixels.
    """
    rows, columns = edges.shape[-2:]
    # In one long row per image, a step is a constant offset. The gap keeps a path that leaves its row on one side
    # from coming in on the other: crossing it is as long as ``farthest``.
    gap = math.ceil(farthest)
    field = edges.new_full((len(edges), rows, columns + gap), round(farthest / UNIT), dtype=torch.int16)
    field[..., :columns].masked_fill_(edges, 0)
    flat = field.view(len(edges), -1)
    longer = torch.empty_like(flat)
    for (small, large), length in CHAMFER:
        directions = {(small, large), (small, -large), (large, small), (large, -small)}
        for down, right in {d if d > (0, 0) else (-d[0], -d[1]) for d in directions}:
            steps = 1
            while steps * length < farthest:
                offset = steps * (down * (columns + gap) + right)
                torch.add(flat, round(steps * length / UNIT), out=longer)
                torch.minimum(flat[:, offset:], longer[:, :-offset], out=flat[:, offset:])
                torch.minimum(flat[:, :-offset], longer[:, offset:], out=flat[:, :-offset])
                steps *= 2
    return field[..., :columns].float().mul_(UNIT)


def equalise(levels: Tensor) -> Tensor:
    """Histogram equalisation per image, as OpenCV's: the lowest level becomes 0, the others spread by their rank.

    Args:
        levels: grey levels, int16 ``(B, H, W)``.
    """
    batch, device = len(levels), levels.device
    entries = (levels.int() + torch.arange(batch, dtype=torch.int32, device=device).view(-1, 1, 1) * 256).view(-1)
    counts = torch.bincount(entries, minlength=256 * batch).view(batch, 256)
    lowest = levels.amin((1, 2)).long().view(-1, 1)
    total = levels[0].numel() - counts.gather(1, lowest)
    below = counts.cumsum(1) - counts.gather(1, lowest)
    table = torch.round(below.clamp(min=0).float() * (255 / total.clamp(min=1).float())).clamp_(max=255)
    table = torch.where(total > 0, table, lowest.float()).to(torch.int16)
    return table.view(-1).index_select(0, entries).view(levels.shape)
