"""Linear filters and resampling on batches of images, with the border rules of the original's libraries."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

#: Output rows per product in ``apply_banded``: small enough to skip most zeros, large enough for fast products.
BAND = 32


def to_bytes(values: Tensor) -> Tensor:
    """Grey levels in [0, 255], cut (not rounded) to uint8 as ``np.uint8`` does; float error at integers is forgiven."""
    return values.add(1e-4).clamp_(0, 255).to(torch.uint8)


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
    if mode == "edge" and x.is_floating_point():
        return F.pad(x, (amount,) * 4, mode="replicate")
    rows = torch.from_numpy(border_indices(x.shape[-2], amount, amount, mode)).to(x.device)
    columns = torch.from_numpy(border_indices(x.shape[-1], amount, amount, mode)).to(x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


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


def correlate(x: Tensor, kernel: NDArray[np.floating]) -> Tensor:
    """Correlate uint8 ``(B, C, H, W)`` with a small kernel, border reflect101; float32 grey levels.

    Pixels under equal weights are added as integers first: exact, and fast for kernels with few distinct weights.
    """
    reach = kernel.shape[0] // 2
    height, width = x.shape[-2:]
    groups: dict[float, list[tuple[int, int]]] = {}
    for (row, column), weight in np.ndenumerate(kernel):
        if weight > 1e-9:
            groups.setdefault(float(np.float32(weight)), []).append((row, column))
    padded = pad(x, reach, "reflect101").to(torch.int16)
    wide = padded.int() if max(map(len, groups.values())) * 255 > 32767 else padded
    out = torch.zeros(x.shape, device=x.device)
    for weight, taps in groups.items():
        source = wide if len(taps) * 255 > 32767 else padded
        total = torch.zeros(x.shape, dtype=source.dtype, device=x.device)
        for row, column in taps:
            total += source[..., row : row + height, column : column + width]
        out.add_(total.float(), alpha=weight)
    return out


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
    height, width = x.shape[-2:]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    crop = x[..., top : top + rows, left : left + columns]
    zoomed = round(rows * factor), round(columns * factor)
    if zoomed == (rows, columns):
        out = crop
    else:
        out = F.interpolate(crop, size=zoomed, mode="bilinear", align_corners=True)
    top, left = (zoomed[0] - height) // 2, (zoomed[1] - width) // 2
    return out[..., top : top + height, left : left + width]


@cache
def defocus_kernel(radius: float, alias_sigma: float) -> NDArray[np.float32]:
    """A disk of whole pixels, smoothed by a Gaussian of 3 pixels (5 for radii over 8), of sum about 1."""
    half, taps = (8, 3) if radius <= 8 else (math.ceil(radius), 5)
    squares = np.arange(-half, half + 1) ** 2
    disk = (squares[:, None] + squares[None, :] <= radius**2).astype(np.float32)
    disk /= disk.sum()
    smooth = np.exp(-0.5 * (np.arange(taps) - taps // 2) ** 2 / alias_sigma**2)
    smooth /= smooth.sum()
    reads = border_indices(2 * half + 1, taps // 2, taps // 2, "reflect101")
    blur = np.zeros((2 * half + 1,) * 2)
    for row in range(2 * half + 1):
        np.add.at(blur[row], reads[row : row + taps], smooth)
    kernel = blur @ disk @ blur.T
    empty = int(np.flatnonzero(kernel.max(axis=0) > 1e-9)[0])
    return kernel[empty : 2 * half + 1 - empty, empty : 2 * half + 1 - empty].astype(np.float32)
