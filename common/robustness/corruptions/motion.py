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
    """A pixel that is read, counted from the one that is written, and its weight."""

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
    lines = []
    for angle in np.deg2rad(angles.double().cpu().numpy()).tolist():
        rows = [math.ceil(tap * math.sin(angle) - 0.5) for tap in range(count)]
        columns = [math.ceil(tap * math.cos(angle) - 0.5) for tap in range(count)]
        lines.append([Tap(*tap) for tap in zip(rows, columns, weights, strict=True)])
    out = torch.full_like(x, MARGIN)
    if x.device.type == "cpu":
        for image, blurred, taps in zip(x, out, lines, strict=True):
            _by_opencv(blurred, image, taps)
    elif lines:
        _all_at_once(out, x, lines)
    return out


def _all_at_once(out: Tensor, x: Tensor, lines: list[list[Tap]]) -> None:
    """Tap by tap for the whole batch."""
    height, width = x.shape[-2:]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    pixels = x.flatten(2)
    offsets = torch.tensor([[tap[:2] for tap in taps] for taps in lines]).to(x.device)  # (B, taps, 2)
    for place, tap in enumerate(lines[0]):
        down, right = offsets[:, place].split(1, dim=1)
        from_rows, from_columns = (rows + down).clamp_(0, height - 1), (columns + right).clamp_(0, width - 1)
        read = torch.add(from_columns[:, None], from_rows[:, :, None], alpha=width).flatten(1)  # (B, H W)
        out.add_(pixels.gather(2, read[:, None].expand(-1, x.shape[1], -1)).view_as(x), alpha=tap.weight)


def _by_opencv(out: Tensor, image: Tensor, taps: list[Tap]) -> None:
    """One pass over memory for as many taps as a kernel of OpenCV's may span."""
    channels, height, width = out.shape
    rows, columns = [tap.row for tap in taps], [tap.column for tap in taps]
    up, left = min(rows), min(columns)
    padded = F.pad(image[None], (-left, max(columns), -up, max(rows)), "replicate")[0]
    taps = [Tap(tap.row - up, tap.column - left, tap.weight) for tap in taps]
    below = padded.flatten(0, 1).numpy()  # the channels' rows one below the other
    for part in _kernels(taps):
        top, left = min(tap.row for tap in part), min(tap.column for tap in part)
        high, wide = max(tap.row for tap in part) - top + 1, max(tap.column for tap in part) - left + 1
        kernel = np.zeros((high, wide), np.float32)
        for tap in part:
            kernel[tap.row - top, tap.column - left] += tap.weight
        read = below[top:, left : left + width + wide - 1]
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
