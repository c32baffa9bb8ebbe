"""Linear filters and resampling on batches of images, with the border rules of the original's libraries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def to_bytes(values: Tensor) -> Tensor:
    """Grey levels in [0, 255], cut (not rounded) to uint8 as ``np.uint8`` does; float error at integers is forgiven.

    Works in place on ``values``.
    """
    return cut(values.add_(1e-4).clamp_(0, 255))


def cut(values: Tensor) -> Tensor:
    """Cut grey levels that lie in [0, 256) to uint8. Two steps, since float to uint8 is several times slower."""
    return values.to(torch.int16).to(torch.uint8)


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


def pad_columns(x: Tensor, amount: int, mode: str) -> Tensor:
    """Pad the last axis by ``amount`` on both sides; modes as in ``border_indices``."""
    width = x.shape[-1]
    reads = torch.from_numpy(border_indices(width, amount, amount, mode)).to(x.device)
    wide = x.new_empty((*x.shape[:-1], width + 2 * amount))
    wide[..., amount : amount + width] = x
    wide[..., :amount] = x.index_select(-1, reads[:amount])
    wide[..., amount + width :] = x.index_select(-1, reads[amount + width :])
    return wide


def pad(x: Tensor, amount: int, mode: str) -> Tensor:
    """Pad the last two axes by ``amount`` on every side; modes as in ``border_indices``."""
    rows = torch.from_numpy(border_indices(x.shape[-2], amount, amount, mode)).to(x.device)
    return pad_columns(x, amount, mode).index_select(-2, rows)


def gaussian_taps(sigma: float, truncate: float = 4.0) -> NDArray[np.float64]:
    """Taps of a Gaussian filter cut at ``truncate`` standard deviations, of sum 1 (as scipy.ndimage makes them)."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return taps / taps.sum()


class RowMap:
    """A linear map along one axis of images, of which every output is made of few inputs.

    It holds the border rule too, so that filtering and resampling need no padding.

    Args:
        matrix: ``(outputs, inputs)``.
    """

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        self.outputs, self.inputs = matrix.shape
        terms = max(1, int((matrix != 0).sum(axis=1).max()))
        # Stable sorting keeps neighbours together; rows with fewer terms are filled up with weights of 0.
        order = np.sort(np.argsort(matrix == 0, axis=1, kind="stable")[:, :terms], axis=1)
        self._reads = torch.from_numpy(order)
        self._weights = torch.from_numpy(np.take_along_axis(matrix, order, axis=1)).float()
        self._prepared: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def down(self, x: Tensor) -> Tensor:
        """Apply along the rows' axis: float32 ``(..., inputs, W)`` to ``(..., outputs, W)``."""
        planes = math.prod(x.shape[:-2])
        reads, weights = self._for(planes, x.device)
        rows = F.embedding_bag(reads, x.reshape(-1, x.shape[-1]), mode="sum", per_sample_weights=weights)
        return rows.view(*x.shape[:-2], self.outputs, x.shape[-1])

    def across(self, x: Tensor) -> Tensor:
        """Apply along the columns' axis: ``(..., H, inputs)`` to ``(..., H, outputs)``."""
        columns = self.down(transposed(x.flatten(0, -2)))  # all images side by side
        return transposed(columns).view(*x.shape[:-1], self.outputs)

    def _for(self, planes: int, device: torch.device) -> tuple[Tensor, Tensor]:
        key = planes, device
        if key not in self._prepared:
            if len(self._prepared) >= 4:
                self._prepared.clear()
            first = torch.arange(planes).view(-1, 1, 1) * self.inputs
            reads = (first + self._reads).flatten(0, 1).int().to(device)
            self._prepared[key] = reads, self._weights.repeat(planes, 1).to(device)
        return self._prepared[key]


def transposed(x: Tensor) -> Tensor:
    """Rows and columns of ``(H, W)`` exchanged, in memory too."""
    if x.device.type != "cpu":
        return x.T.contiguous()
    out = x.new_empty(x.shape[1], x.shape[0])
    cv2.transpose(x.numpy(), out.numpy())  # several times as fast as torch's
    return out


@lru_cache(maxsize=64)
def _filter_map(size: int, taps: tuple[float, ...], mode: str) -> RowMap:
    radius = len(taps) // 2
    reads = border_indices(size, radius, radius, mode)
    matrix = np.zeros((size, size))
    for row in range(size):
        np.add.at(matrix[row], reads[row : row + len(taps)], taps)
    return RowMap(matrix)


def gaussian(x: Tensor, sigma: float, truncate: float = 4.0, mode: str = "edge") -> Tensor:
    """Gaussian filter over the last two axes, as skimage.filters.gaussian (per channel).

    Args:
        x: float ``(..., H, W)``.
        sigma: standard deviation in pixels; 0 leaves the image as it is.
        truncate: cut the filter at this many standard deviations.
        mode: border rule, see ``border_indices``.
    """
    taps = gaussian_taps(sigma, truncate)
    return x if len(taps) == 1 else separable(x, taps, mode)


def separable(x: Tensor, taps: NDArray[np.float64], mode: str) -> Tensor:
    """Filter columns and rows of float ``(..., H, W)`` by the same symmetric taps; modes as in ``border_indices``."""
    return _filter_by_opencv(x, taps, mode) if x.device.type == "cpu" else _filter_by_maps(x, taps, mode)


def _filter_by_opencv(x: Tensor, taps: NDArray[np.float64], mode: str) -> Tensor:
    border = {"edge": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT, "reflect101": cv2.BORDER_REFLECT101}[mode]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    for plane, result in zip(x.flatten(0, -3).numpy(), out.flatten(0, -3).numpy(), strict=True):
        cv2.sepFilter2D(plane, -1, taps, taps, dst=result, borderType=border)
    return out


def _filter_by_maps(x: Tensor, taps: NDArray[np.float64], mode: str) -> Tensor:
    down, across = (_filter_map(size, tuple(taps.tolist()), mode) for size in x.shape[-2:])
    return across.across(down.down(x))


@lru_cache(maxsize=64)
def _box_map(inputs: int, outputs: int) -> RowMap:
    scale = inputs / outputs
    matrix = np.zeros((outputs, inputs))
    for row in range(outputs):
        centre = (row + 0.5) * scale
        # A pixel belongs to the box if its centre does; at least one does, since scale >= 1.
        first, last = max(0, int(centre - scale / 2 + 0.5)), min(inputs, int(centre + scale / 2 + 0.5))
        offsets = (np.arange(first, last) - centre + 0.5) / scale
        weights = ((offsets > -0.5) & (offsets <= 0.5)).astype(float)
        matrix[row, first:last] = weights / weights.sum()
    return RowMap(matrix)


def box_shrink(x: Tensor, height: int, width: int) -> Tensor:
    """Shrink to ``(height, width)`` by averaging whole pixels, as Pillow's BOX filter on 8 bits.

    Args:
        x: uint8 ``(..., H, W)``.
        height: new number of rows, at most H.
        width: new number of columns, at most W.

    Returns:
        uint8; like Pillow, columns first, rounded to 8 bits after each axis.
    """
    narrow = cut(_box_map(x.shape[-1], width).down(transposed(x.flatten(0, -2)).float()).add_(0.5 + 1e-4))
    narrow = transposed(narrow).view(*x.shape[:-1], width)
    return cut(_box_map(x.shape[-2], height).down(narrow.float()).add_(0.5 + 1e-4))


def correlate(x: Tensor, kernel: NDArray[np.float64]) -> Tensor:
    """Correlate uint8 ``(B, C, H, W)`` with a small kernel, border reflect101; float32 grey levels.

    A row of the kernel is a sum of runs, each constant up to some distance from the centre: a disk's rows are one
    run each. So the sums of all pixels up to each distance are made first (of integers, exact), then weighted.

    Args:
        x: uint8 images.
        kernel: ``(2 r + 1, 2 r + 1)``, symmetric from left to right.
    """
    reach, (height, width) = kernel.shape[0] // 2, x.shape[-2:]
    reaches, mixed = _runs_map(height, kernel.shape[0], kernel.tobytes())
    padded = pad_columns(x.to(torch.int16), reach, "reflect101")
    runs = torch.empty(*x.shape[:-2], len(reaches), height, width, device=x.device)
    run = padded[..., reach : reach + width].contiguous()
    for distance in range(reaches[-1] + 1):
        if distance:
            run += padded[..., reach - distance :][..., :width]
            run += padded[..., reach + distance :][..., :width]
        if distance in reaches:
            runs.select(-3, reaches.index(distance)).copy_(run)
    return mixed.down(runs.flatten(-3, -2))


@lru_cache(maxsize=16)
def _runs_map(size: int, side: int, kernel: bytes) -> tuple[list[int], RowMap]:
    """How far the runs of a kernel reach, and the map that weights the runs' rows, stacked one run after the other."""
    weights = np.frombuffer(kernel).reshape(side, side)[:, side // 2 :]
    steps = weights - np.pad(weights, ((0, 0), (0, 1)))[:, 1:]
    steps = np.where(np.abs(steps) > 1e-9, steps, 0)
    reaches = np.flatnonzero(steps.any(axis=0)).tolist()
    reads = border_indices(size, side // 2, side // 2, "reflect101")
    matrix = np.zeros((size, len(reaches), size))
    for row in range(size):
        for index, distance in enumerate(reaches):
            np.add.at(matrix[row, index], reads[row : row + side], steps[:, distance])
    return reaches, RowMap(matrix.reshape(size, -1))


def zoom_window(size: int, factor: float) -> slice:
    """The part of an axis that zooming into the centre by ``factor`` enlarges."""
    crop = math.ceil(size / factor)
    return slice((size - crop) // 2, (size - crop) // 2 + crop)


def zoom(x: Tensor, height: int, width: int, factor: float) -> Tensor:
    """Enlarge a crop to (height, width): scipy.ndimage.zoom of order 1, trimmed around the centre.

    Args:
        x: float ``(..., h, w)``, the ``zoom_window`` of both axes.
        height: rows of the whole image.
        width: columns of the whole image.
        factor: at least 1.
    """
    return _zoom_map(width, factor).across(_zoom_map(height, factor).down(x))


@lru_cache(maxsize=64)
def _zoom_map(size: int, factor: float) -> RowMap:
    return RowMap(_zoom_matrix(size, factor)[:, zoom_window(size, factor)])


def _zoom_matrix(size: int, factor: float) -> NDArray[np.float64]:
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
    return matrix


def mean_zoom(x: Tensor, factors: Sequence[float]) -> Tensor:
    """Mean of an image's zooms into its centre, size kept, float32 ``(..., H, W)``."""
    height, width = x.shape[-2:]
    total = x.new_zeros(width, x[..., 0].numel())
    for factor in factors:
        rows, columns = _zoom_map(height, factor), _zoom_map(width, factor)
        tall = rows.down(x[..., zoom_window(height, factor), :]).flatten(0, -2)
        total += columns.down(transposed(tall[:, zoom_window(width, factor)]))
    return transposed(total.div_(len(factors))).view(x.shape)


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
        blurred = separable(blurred, taps, "reflect101")
    rim = _rim(radius, sigma)
    return blurred if np.abs(rim).max() < 1e-9 else blurred.add_(correlate(x, rim))


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
