"""Pixel-adaptive mask refinement (PAMR): maps are smoothed where the image is smooth.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, section 3.3, in the form in which
GETAM takes it over: one standard deviation over the windows of all dilations, no weight for the pixel itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)
ITERATIONS = 10


def refine(
    images: Tensor, maps: Tensor, *, iterations: int = ITERATIONS, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """Replace each pixel of a map, again and again, by a mean over neighbours that look alike.

    Args:
        images: (B, C, H, W) in any unit, since differences count relative to their standard deviation.
        maps: (B, K, rows, columns); resized to H x W bilinearly, corners aligned.
        iterations: how often.
        dilations: distances of the eight neighbours, in pixels.

    Returns:
        (B, K, H, W).
    """
    maps = F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=True)
    around = _neighbours(images, dilations)  # (B, C, P, H, W)
    window = torch.cat([around, images[:, :, None].expand(-1, -1, len(dilations), -1, -1)], dim=2)
    scale = 1e-8 + 0.1 * window.std(dim=2, keepdim=True)
    affinity = (-(around - images[:, :, None]).abs() / scale).mean(dim=1, keepdim=True).softmax(dim=2)
    for _ in range(iterations):
        maps = (_neighbours(maps, dilations) * affinity).sum(dim=2)
    return maps


def _neighbours(x: Tensor, dilations: Sequence[int]) -> Tensor:
    """The eight neighbours at each distance, of (B, C, H, W): (B, C, P, H, W); borders are repeated."""
    height, width = x.shape[-2:]
    found = []
    for step in dilations:
        padded = F.pad(x, (step,) * 4, mode="replicate")
        for down in (0, step, 2 * step):
            for right in (0, step, 2 * step):
                if (down, right) != (step, step):
                    found.append(padded[..., down : down + height, right : right + width])
    return torch.stack(found, dim=2)
