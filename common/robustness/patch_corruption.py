"""Patch-wise natural corruption: one corrupted patch in an otherwise clean image (Gu et al., arXiv 2111.10659)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.robustness.attacks import patch_mask
from common.robustness.corruptions import corrupt


def corrupt_patch(
    images: Tensor,
    name: str,
    severity: int,
    *,
    size: int,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | None = None,
    draws: Mapping[str, Tensor] | None = None,
    frost_photos: Path | str | None = None,
) -> Tensor:
    """Images with one corrupted patch, a cell of the grid of ``size`` pixels, in a place drawn for each image.

    The whole image is corrupted and the patch is cut from that, so that the corruption has the strength and scale
    that its severity means for a whole image.

    Args:
        images: ``(B, 3, H, W)``, uint8, or float in [0, 1].
        name: of the corruption, see ``common.robustness.corruptions.corrupt``.
        severity: 1 to 5.
        size: side of the patch in pixels.
        generator: where the position and then the corruption are drawn from.
        seeds: one seed an image instead.
        draws: ``position01`` (B, 2) in [0, 1), and the draws of the corruption, instead.
        frost_photos: folder with the original's frost pictures, see ``common.robustness.corruptions.corrupt``.
    """
    mask = patch_mask(images.float(), size, generator=generator, seeds=seeds, draws=draws).bool()
    others = {key: value for key, value in (draws or {}).items() if key != "position01"}
    corrupted = corrupt(
        images, name, severity, generator=generator, seeds=seeds, draws=others, frost_photos=frost_photos
    )
    return torch.where(mask, corrupted, images)
