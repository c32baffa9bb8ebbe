"""Random resized crops of images in memory, a batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: Boxes that are drawn for an image before the largest centred one is taken, as torchvision does.
ATTEMPTS = 10


def sample_boxes(
    count: int, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], generator: torch.Generator
) -> Tensor:
    """Boxes for ``count`` crops, int64 (count, 4) as top, left, height, width in pixels.

    The distribution is that of ``torchvision.transforms.RandomResizedCrop``: the area is uniform in ``scale`` (shares
    of the image), the logarithm of width over height uniform in that of ``ratio``; what does not fit is drawn again.
    """
    draws = torch.rand(4, count, ATTEMPTS, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + (high - low) * draws[1]).exp()
    widths, heights = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.long().argmax(dim=1, keepdim=True)  # the first attempt that fits; 0 where none does
    box_height, box_width = (sizes.gather(1, first)[:, 0] for sizes in (heights, widths))
    top = (draws[2].gather(1, first)[:, 0] * (height - box_height + 1)).long()
    left = (draws[3].gather(1, first)[:, 0] * (width - box_width + 1)).long()
    whole_height, whole_width = height, width
    if width / height < ratio[0]:
        whole_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        whole_width = round(height * ratio[1])
    centred = torch.tensor(
        [(height - whole_height) // 2, (width - whole_width) // 2, whole_height, whole_width], dtype=torch.int64
    )
    return torch.where(fits.any(dim=1)[:, None], torch.stack([top, left, box_height, box_width], dim=1), centred)


def resized_crops(images: Tensor, boxes: Tensor, size: int, mode: str = "bilinear") -> Tensor:
    """Cut a box out of each image and resize it to ``size`` x ``size`` pixels.

    Args:
        images: (B, C, H, W), of a floating-point type or uint8, which comes back rounded.
        boxes: (B, 4) on the device of ``images``, see :func:`sample_boxes`.
        size: side of what comes out, in pixels.
        mode: ``bilinear`` or ``bicubic``; neither smooths before it shrinks.
    """
    values = images if images.is_floating_point() else images.float()
    place = (torch.arange(size, device=images.device) + 0.5) / size

    def coordinates(start: Tensor, length: Tensor, whole: int) -> Tensor:
        centre = place * length[:, None] - 0.5  # pixels of the box, (B, size)
        inside = torch.minimum(centre.clamp(min=0), (length[:, None] - 1).to(centre.dtype))  # nothing from beyond it
        return (2 * (start[:, None] + inside) + 1) / whole - 1

    rows = coordinates(boxes[:, 0], boxes[:, 2], images.shape[2])[:, :, None].expand(-1, -1, size)
    columns = coordinates(boxes[:, 1], boxes[:, 3], images.shape[3])[:, None, :].expand(-1, size, -1)
    grid = torch.stack([columns, rows], dim=-1).to(values.dtype)
    crops = F.grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=False)
    return crops if images.is_floating_point() else crops.round_().clamp_(0, 255).to(images.dtype)
