"""Bilinear samples of feature maps, at the places that a region's bins ask for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: Feature values gathered at once, which bounds memory (2**25 float32 numbers are 128 MB).
MOST_VALUES = 2**25


def rows_of(features: Tensor) -> Tensor:
    """Return features ``(N, C, H, W)`` as one row a pixel, ``(N * H * W, C)``."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def neighbours(y: Tensor, x: Tensor, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the four pixels around each point, and their bilinear weights.

    A point up to one pixel outside the feature map takes the border's value; further out, all four weights are 0.

    Args:
        y: rows, counted from the centre of the first pixel; any shape.
        x: columns; shape of ``y``.
        height: of the feature map.
        width: of the feature map.

    Yields:
        Index of the pixel in the feature map's rows one after the other, and weight; each of the shape of ``y``.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().floor(), x.detach().floor()
    below, right = y - top, x - left
    for row, row_weight in ((top, 1 - below), ((top + 1).clamp_max(height - 1), below)):
        for column, column_weight in ((left, 1 - right), ((left + 1).clamp_max(width - 1), right)):
            yield (row * width + column).long(), row_weight * column_weight * inside


def sample(features: Tensor, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return values of ``features``, ``(N, C, H, W)``, at points of images.

    Args:
        features: feature maps.
        image: index of each point's image; broadcasts with ``y``.
        y: rows, any shape.
        x: columns, shape of ``y``.

    Returns:
        Shape of ``y``, then channels.
    """
    height, width = features.shape[2:]
    rows, first = rows_of(features), image * (height * width)
    total = rows.new_zeros(())
    for pixel, weight in neighbours(y, x, height, width):
        total = total + rows[first + pixel] * weight[..., None]
    return total


def samples_of_bins(
    corners: Tensor, height: int, width: int, sampling_ratio: int, channels: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Divide regions into bins and bins into samples; yield regions that have equally many samples a bin together.

    Args:
        corners: ``(K, 4)``; ``x1, y1, x2, y2`` in pixels of the features.
        height: bins from top to bottom.
        width: bins from left to right.
        sampling_ratio: samples a bin and axis; 0: one a feature pixel, rounded up.
        channels: of the features, which bounds how many regions come at once.

    Yields:
        Indices ``(k,)`` of the regions, rows and columns of the samples, both ``(k, height, width, samples)``.
    """
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    bin_size = size / size.new_tensor([width, height])
    counts = torch.full_like(size, sampling_ratio) if sampling_ratio > 0 else bin_size.ceil().clamp_min(0)
    for pair in counts.unique(dim=0):
        count_x, count_y = (int(count) for count in pair)
        (same,) = torch.where((counts == pair).all(dim=1))
        most = max(1, MOST_VALUES // max(1, height * width * count_x * count_y * channels))
        for chosen in same.split(most):
            x, y = (
                start[chosen, axis, None, None] + _centres(bins, count, corners) * bin_size[chosen, axis, None, None]
                for axis, (bins, count) in enumerate([(width, count_x), (height, count_y)])
            )
            whole = (len(chosen), height, width, count_y, count_x)
            yield (
                chosen,
                y[:, :, None, :, None].expand(whole).flatten(3),
                x[:, None, :, None, :].expand(whole).flatten(3),
            )


def _centres(bins: int, count: int, like: Tensor) -> Tensor:
    """Return the samples' places in a row of bins, ``(bins, count)``, in bins."""
    inside = (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / max(count, 1)
    return torch.arange(bins, device=like.device, dtype=like.dtype)[:, None] + inside
