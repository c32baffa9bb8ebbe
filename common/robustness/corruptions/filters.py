"""Linear filters and resampling on batches of images, with the border rules of the original's libraries."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Output rows per product in ``apply_banded``: small enough to skip most zeros, large enough for fast products.
BAND = 16


def to_bytes(values: Tensor) -> Tensor:
    """Grey levels in [0, 255], cut (not rounded) to uint8 as ``np.uint8`` does; float error at integers is forgiven.

    Works in place on ``values``.
    """
    return values.add_(1e-4).clamp_(0, 255).to(torch.uint8)


def border_indices(size: int, before: int, after: int, mode: str) -> NDArray[np.int64]:
    """Which pixel each position of a padded axis reads.

    Args:
        size: pixels of the axis.
        before: positions added in front.
        after: positions added behind.
        mode: ``"edge"`` (aaa|abc|ccc), ``"reflect101"`` (cb|abc|ba) or ``"reflect"`` (ba|abc|cb). The reflections may
            wrap around several times.
    """
    index = np.arange(-before, size + after)
    if mode == "edge":
        return np.clip(index, 0, size - 1)
    if mode == "reflect":
        index = np.mod(index, 2 * size)
        return np.where(index >= size, 2 * size - 1 - index, index)
    if size == 1:
        return np.zeros_like(index)
    index = np.mod(index, 2 * size - 2)
    return np.where(index >= size, 2 * size - 2 - index, index)


def pad(x: Tensor, amount: int, mode: str) -> Tensor:
    """Pad the last two axes by ``amount`` on every side; modes as in ``border_indices``."""
    height, width = x.shape[-2:]
    rows = torch.from_numpy(border_indices(height, amount, amount, mode)).to(x.device)
    columns = torch.from_numpy(border_indices(width, amount, amount, mode)).to(x.device)
    wide = x.new_empty((*x.shape[:-1], width + 2 * amount))
    wide[..., amount : amount + width] = x
    wide[..., :amount] = x.index_select(-1, columns[:amount])
    wide[..., amount + width :] = x.index_select(-1, columns[amount + width :])
    return wide.index_select(-2, rows)


def gaussian_taps(sigma: float, truncate: float = 4.0) -> NDArray[np.float64]:
    """Taps of a Gaussian filter cut at ``truncate`` standard deviations, of sum 1 (as scipy.ndimage makes them)."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return taps / taps.sum()


class Banded:
    """A linear map along one axis, as a matrix whose nonzero entries lie near the diagonal.

    The matrix holds the border rule too, so that filtering and area resampling need no padding.

    Args:
        matrix: ``(outputs, inputs)``.
    """

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        self.outputs = matrix.shape[0]
        self._blocks: list[tuple[slice, slice, Tensor]] = []
        for start in range(0, self.outputs, BAND):
            rows = slice(start, min(start + BAND, self.outputs))
            used = np.flatnonzero(matrix[rows].any(axis=0))
            columns = slice(int(used[0]), int(used[-1]) + 1)
            block = torch.from_numpy(np.ascontiguousarray(matrix[rows, columns])).float()
            self._blocks.append((rows, columns, block))

    def down(self, x: Tensor) -> Tensor:
        """Apply along the rows' axis: ``(..., inputs, W)`` to ``(..., outputs, W)``."""
        out = x.new_empty((*x.shape[:-2], self.outputs, x.shape[-1]))
        for rows, columns, block in self._blocks:
            out[..., rows, :] = block.to(x.device) @ x[..., columns, :]
        return out

    def across(self, x: Tensor) -> Tensor:
        """Apply along the columns' axis: ``(..., H, inputs)`` to ``(..., H, outputs)``."""
        out = x.new_empty((*x.shape[:-1], self.outputs))
        for rows, columns, block in self._blocks:
            out[..., rows] = x[..., columns] @ block.to(x.device).T
        return out


@lru_cache(maxsize=64)
def _gaussian_matrix(size: int, sigma: float, truncate: float, mode: str) -> Banded:
    taps = gaussian_taps(sigma, truncate)
    radius = len(taps) // 2
    reads = border_indices(size, radius, radius, mode)
    matrix = np.zeros((size, size))
    for row in range(size):
        np.add.at(matrix[row], reads[row : row + len(taps)], taps)
    return Banded(matrix)


def gaussian(x: Tensor, sigma: float, truncate: float = 4.0, mode: str = "edge") -> Tensor:
    """Gaussian filter over the last two axes, as skimage.filters.gaussian (per channel).

    Args:
        x: float ``(..., H, W)``.
        sigma: standard deviation in pixels; 0 leaves the image as it is.
        truncate: cut the filter at this many standard deviations.
        mode: border rule, see ``border_indices``.
    """
    if len(gaussian_taps(sigma, truncate)) == 1:
        return x
    x = _gaussian_matrix(x.shape[-2], sigma, truncate, mode).down(x)
    return _gaussian_matrix(x.shape[-1], sigma, truncate, mode).across(x)


@lru_cache(maxsize=64)
def _box_matrix(inputs: int, outputs: int) -> Banded:
    scale = inputs / outputs
    matrix = np.zeros((outputs, inputs))
    for row in range(outputs):
        centre = (row + 0.5) * scale
        # A pixel belongs to the box if its centre does; at least one does, since scale >= 1.
        first, last = max(0, int(centre - scale / 2 + 0.5)), min(inputs, int(centre + scale / 2 + 0.5))
        offsets = (np.arange(first, last) - centre + 0.5) / scale
        weights = ((offsets > -0.5) & (offsets <= 0.5)).astype(float)
        matrix[row, first:last] = weights / weights.sum()
    return Banded(matrix)


def box_shrink(x: Tensor, height: int, width: int) -> Tensor:
    """Shrink to ``(height, width)`` by averaging whole pixels, as Pillow's BOX filter on 8 bits.

    Args:
        x: uint8 ``(..., H, W)``.
        height: new number of rows, at most H.
        width: new number of columns, at most W.

    Returns:
        float32 of integer grey levels; like Pillow, columns first, rounded to 8 bits after each axis.
    """
    narrow = _box_matrix(x.shape[-1], width).across(x.float()).add_(0.5 + 1e-4).floor_()
    return _box_matrix(x.shape[-2], height).down(narrow).add_(0.5 + 1e-4).floor_()


def correlate(x: Tensor, kernel: NDArray[np.float64]) -> Tensor:
    """Correlate uint8 ``(B, C, H, W)`` with a small kernel, border reflect101; float32 grey levels.

    Pixels under equal weights are added as integers first: exact, and fast for kernels with few distinct weights.

    Args:
        x: uint8 images.
        kernel: ``(2 r + 1, 2 r + 1)``, symmetric from left to right.
    """
    reach = kernel.shape[0] // 2
    height, width = x.shape[-2:]
    padded = pad(x, reach, "reflect101").to(torch.int16)
    pairs = [padded[..., reach : reach + width].contiguous()]  # the sum of the pixels `offset` to either side
    for offset in range(1, reach + 1):
        pairs.append(padded[..., reach - offset :][..., :width] + padded[..., reach + offset :][..., :width])
    runs = [pairs[0]]  # the sum of all pixels up to `offset` away
    for pair in pairs[1:]:
        runs.append(runs[-1] + pair)
    out = torch.zeros(x.shape, device=x.device)
    for weight, terms, taps in _equal_weights(kernel):
        total = torch.zeros(x.shape, dtype=torch.int16 if taps * 255 < 2**15 else torch.int32, device=x.device)
        for row, offset, run in terms:
            total += (runs if run else pairs)[offset][..., row : row + height, :]
        out.add_(total.float(), alpha=weight)
    return out


def _equal_weights(kernel: NDArray[np.float64]) -> list[tuple[float, list[tuple[int, int, bool]], int]]:
    """Split a kernel into groups of equal weights.

    Returns:
        For each weight: the weight; its terms (row, offset, run), where a run stands for all offsets up to its own,
        else for the pair of pixels at the offset; the number of pixels.
    """
    half = kernel[:, kernel.shape[1] // 2 :]
    groups = []
    used = np.abs(half) > 1e-9
    keys = (half * 1e8).round().astype(np.int64)
    for key in np.unique(keys[used]):
        equal = (keys == key) & used
        terms = []
        for row, marks in enumerate(equal):
            run = int(np.argmin(np.append(marks, False)))
            if run:
                terms.append((row, run - 1, True))
            terms += [(row, int(offset), False) for offset in np.flatnonzero(marks) if offset >= run]
        taps = int(2 * equal.sum() - equal[:, 0].sum())
        groups.append((float(half[equal].mean()), terms, taps))
    return groups


def motion(x: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """Motion blur as ImageMagick 6 computes it, cut to whole grey levels.

    A one-sided Gaussian of 2 ceil(radius) + 1 taps along a line of pixels, edges replicated.

    Args:
        x: float32 grey levels ``(B, C, H, W)``.
        radius: radius of the filter in pixels.
        sigma: standard deviation in pixels.
        angles: ``(B,)`` in degrees.
    """
    count = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(count) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    height, width = x.shape[-2:]
    padded = pad(x, count, "edge")
    out = torch.zeros_like(x)
    for image, angle in enumerate(np.deg2rad(angles.double().cpu().numpy())):
        for tap, weight in enumerate(weights):
            column = count + math.ceil(tap * math.cos(angle) - 0.5)
            row = count + math.ceil(tap * math.sin(angle) - 0.5)
            out[image].add_(padded[image, :, row : row + height, column : column + width], alpha=float(weight))
    return out.add_(0.002).floor_()


def clipped_zoom(x: Tensor, factor: float) -> Tensor:
    """Zoom into the centre, size kept: crop, scipy.ndimage.zoom of order 1, trim.

    Args:
        x: float ``(B, C, H, W)``.
        factor: at least 1.
    """
    return _zoom_matrix(x.shape[-1], factor).across(_zoom_matrix(x.shape[-2], factor).down(x))


@lru_cache(maxsize=256)
def _zoom_matrix(size: int, factor: float) -> Banded:
    crop = math.ceil(size / factor)
    zoomed = round(crop * factor)
    # First and last pixels of the crop and of the zoom fall together.
    first = (zoomed - size) // 2
    position = np.arange(first, first + size) * ((crop - 1) / max(1, zoomed - 1))
    left = np.minimum(position.astype(int), crop - 1)
    right = np.minimum(left + 1, crop - 1)
    matrix = np.zeros((size, size))
    start = (size - crop) // 2
    np.add.at(matrix, (np.arange(size), start + left), 1 - (position - left))
    np.add.at(matrix, (np.arange(size), start + right), position - left)
    return Banded(matrix)


@cache
def _disk(radius: float) -> NDArray[np.float64]:
    """The pixels whose centres lie within ``radius``, each with the same weight, of sum 1."""
    squares = np.arange(-int(radius), int(radius) + 1) ** 2
    disk = (squares[:, None] + squares[None, :] <= radius**2).astype(np.float64)
    return disk / disk.sum()


@cache
def _smoothing(radius: float, sigma: float) -> NDArray[np.float64]:
    """The Gaussian with which the original smooths the disk: 3 taps, or 5 for radii over 8."""
    half = 1 if radius <= 8 else 2
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    return taps / taps.sum()


@cache
def _rim(radius: float, sigma: float) -> NDArray[np.float64]:
    """What the original's smoothed disk has beyond the disk convolved with the Gaussian.

    It smooths on a grid of 17 pixels (2 radius + 1 for radii over 8), where the largest disks touch the border.
    """
    disk, taps = _disk(radius), _smoothing(radius, sigma)
    half = len(taps) // 2
    side = 17 if radius <= 8 else disk.shape[0]
    grid = np.pad(disk, (side - disk.shape[0]) // 2)
    around = np.pad(grid, half, mode="reflect")
    smooth = np.zeros_like(grid)
    for (row, column), weight in np.ndenumerate(np.outer(taps, taps)):
        smooth += weight * around[row : row + side, column : column + side]
    free = np.zeros((side + 2 * half,) * 2)
    for (row, column), weight in np.ndenumerate(np.outer(taps, taps)):
        free[row : row + side, column : column + side] += weight * grid
    return np.pad(smooth, half) - free


def defocus(x: Tensor, radius: float, sigma: float) -> Tensor:
    """Correlate uint8 ``(B, C, H, W)`` with a smoothed disk, border reflect101; float32 grey levels.

    Args:
        x: uint8 images.
        radius: of the disk, in pixels.
        sigma: of the Gaussian that smooths it, in pixels.
    """
    blurred = correlate(x, _disk(radius))
    taps = _smoothing(radius, sigma)
    if taps[0] > 1e-9:
        half = len(taps) // 2
        padded = pad(blurred, half, "reflect101")
        height, width = x.shape[-2:]
        lines = torch.zeros_like(padded[..., :height, :])
        blurred = torch.zeros_like(blurred)
        for index, tap in enumerate(taps.tolist()):
            lines.add_(padded[..., index : index + height, :], alpha=tap)
        for index, tap in enumerate(taps.tolist()):
            blurred.add_(lines[..., index : index + width], alpha=tap)
    rim = _rim(radius, sigma)
    return blurred if np.abs(rim).max() < 1e-9 else blurred + correlate(x, rim)
