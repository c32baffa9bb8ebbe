"""Motion blur along a line of pixels, as ImageMagick 6 computes it."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: Added to every grey level, so that rounding of sums takes none of them below a whole one.
MARGIN = 0.002
#: OpenCV filters directly up to 129 taps, zeros included, and by slow Fourier transforms beyond.
LARGEST_KERNEL = 121


class Tap(NamedTuple):
    """A pixel that is read, counted from the upper left corner of all that are, and its weight."""

    row: int
    column: int
    weight: float


def motion(x: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """Motion blur; ImageMagick's result is this cut to whole grey levels.

    A one-sided Gaussian of 2 ceil(radius) + 1 taps along a line of pixels, edges replicated.

    Args:
        x: float32 grey levels ``(B, C, H, W)``.
        radius: radius of the filter in pixels.
        sigma: standard deviation in pixels.
        angles: ``(B,)`` in degrees.
    """
    count = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(count) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).tolist()
    add_taps = _by_opencv if x.device.type == "cpu" else _one_by_one
    out = torch.full_like(x, MARGIN)
    for image, blurred, angle in zip(x, out, np.deg2rad(angles.double().cpu().numpy()).tolist(), strict=True):
        rows = [math.ceil(tap * math.sin(angle) - 0.5) for tap in range(count)]
        columns = [math.ceil(tap * math.cos(angle) - 0.5) for tap in range(count)]
        top, left = min(rows), min(columns)
        padded = F.pad(image[None], (-left, max(columns), -top, max(rows)), "replicate")[0]
        places = zip(rows, columns, weights, strict=True)
        taps = [Tap(row - top, column - left, weight) for row, column, weight in places]
        add_taps(blurred, padded, taps)
    return out


def _one_by_one(out: Tensor, padded: Tensor, taps: list[Tap]) -> None:
    height, width = out.shape[1:]
    for row, column, weight in taps:
        out.add_(padded[:, row : row + height, column : column + width], alpha=weight)


def _by_opencv(out: Tensor, padded: Tensor, taps: list[Tap]) -> None:
    """One pass over memory for as many taps as a kernel of OpenCV's may span."""
    channels, height, width = out.shape
    below = padded.flatten(0, 1).numpy()  # the channels' rows one below the other
    for part in _kernels(taps):
        top, left = min(tap.row for tap in part), min(tap.column for tap in part)
        rows, columns = max(tap.row for tap in part) - top + 1, max(tap.column for tap in part) - left + 1
        kernel = np.zeros((rows, columns), np.float32)
        for tap in part:
            kernel[tap.row - top, tap.column - left] += tap.weight
        read = below[top:, left : left + width + columns - 1]
        filtered = torch.from_numpy(cv2.filter2D(read, -1, kernel, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT))
        line = filtered.stride(0)
        out += filtered.as_strided((channels, height, width), (padded.shape[1] * line, line, 1))


def _kernels(taps: list[Tap]) -> list[list[Tap]]:
    """Split a line of taps into parts whose bounding boxes are at most ``LARGEST_KERNEL``."""
    parts: list[list[Tap]] = []
    for tap in taps:
        # A line is monotonic in rows and columns, so a part's first tap and this one span the box.
        first = parts[-1][0] if parts else tap
        if parts and (abs(tap.row - first.row) + 1) * (abs(tap.column - first.column) + 1) <= LARGEST_KERNEL:
            parts[-1].append(tap)
        else:
            parts.append([tap])
    return parts
