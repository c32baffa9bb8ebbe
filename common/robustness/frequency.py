"""Images without their high, or without their low, spatial frequencies.

How accuracy falls with the radius of such a filter shows which frequencies a classifier uses, as in Bai et al.,
"Improving Vision Transformers by Revisiting High-frequency Components", arXiv 2204.00993. ``conditions`` go into
``common.robustness.occlusion_curves.accuracies`` for any classifier and any labelled images; the benchmarks
``imagenet-frequency`` and ``images-frequency`` measure the same, resumable and by several processes.

A radius is in units of the highest frequency along an axis, half a cycle a pixel, so that it means the same at every
size: 0.25 is 28 cycles over an image of 224 pixels, and 3.5 over one of 28. The corners of the spectrum lie at
the square root of 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from common.errors import UserError
from common.robustness.occlusion_curves import Condition

#: Of the curves.
RADII = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.75)


def low_pass(images: Tensor, radius: float) -> Tensor:
    """What images have of frequencies up to ``radius``, the mean included.

    Args:
        images: (..., H, W), real.
        radius: at least 0, see above.

    Returns:
        The same shape, float32 or float64. It may lie beyond the range of the images, since edges swing over.
    """
    if radius < 0:
        raise UserError(f"the radius of a filter is a frequency of at least 0, not {radius}.")
    images = images if images.dtype == torch.float64 else images.float()
    height, width = images.shape[-2:]
    # In cycles a pixel; twice that is 1 at the highest frequency along an axis.
    rows = 2 * torch.fft.fftfreq(height, device=images.device)
    columns = 2 * torch.fft.rfftfreq(width, device=images.device)
    kept = rows[:, None].square() + columns.square() <= radius**2
    return torch.fft.irfft2(torch.fft.rfft2(images) * kept, s=(height, width))


def high_pass(images: Tensor, radius: float) -> Tensor:
    """What images (..., H, W) have of frequencies above ``radius``, around zero: the image less its ``low_pass``."""
    return images - low_pass(images, radius)


def without_high(images: Tensor, radius: float) -> Tensor:
    """Images (..., H, W) in [0, 1] without frequencies above ``radius``, cut to [0, 1]."""
    return low_pass(images, radius).clamp(0, 1)


def without_low(images: Tensor, radius: float) -> Tensor:
    """Images (..., H, W) in [0, 1] without frequencies up to ``radius``, cut to [0, 1].

    The mean of each channel stays: without it half of the values would be below black.
    """
    return (high_pass(images, radius) + images.mean(dim=(-2, -1), keepdim=True)).clamp(0, 1)


#: By the metric that it gives.
FILTERS: dict[str, Callable[[Tensor, float], Tensor]] = {"low_pass_top1": without_high, "high_pass_top1": without_low}


def conditions(radii: Sequence[float] = RADII) -> dict[str, Condition]:
    """Both filters at every radius, by the name of the metric that each gives (``low_pass_top1/0.25``)."""
    return {
        f"{metric}/{radius:g}": partial(_filtered, change=change, radius=radius)
        for metric, change in FILTERS.items()
        for radius in radii
    }


def _filtered(
    images: Tensor,
    seeds: Sequence[int],
    saliency: Tensor | None,
    *,
    change: Callable[[Tensor, float], Tensor],
    radius: float,
) -> Tensor:
    return change(images, radius)
