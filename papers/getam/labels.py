"""Pseudo labels of pixels from class maps and a saliency map, completed where saliency misses an object (section 4.2).

Saliency tells object from background, class maps tell which object. A salient object detector overlooks objects that
are small or many; where a class's map is at its strongest, the pixel is taken for the class all the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Label of pixels that are salient, but of no class's map.
IGNORED = 255
#: The background's score is (1 - largest map value) to this power.
BACKGROUND_POWER = 32
#: Pixels above this quantile of a class's positive values are taken for it; 0.95 for COCO in the release.
CUT = 0.9
#: Side of the square by which objects are opened, in pixels of a crop of 256.
OPENING = 10


def normalised(maps: Tensor) -> Tensor:
    """Maps (B, K, H, W) over their maximum each."""
    return maps / (maps.amax(dim=(2, 3), keepdim=True) + 1e-5)


def pseudo_labels(
    maps: Tensor, salient: Tensor, *, cut: float | None = CUT, opening: int = OPENING
) -> tuple[Tensor, Tensor]:
    """Label pixels.

    Args:
        maps: (B, K, H, W) in [0, 1], zeros for classes that the image-level labels do not name.
        salient: (B, H, W) bool.
        cut: quantile of a class's positive values from which completion takes a pixel; None does not complete.
        opening: side in pixels of the square that must fit into an object; 1 leaves objects as they are.

    Returns:
        Labels (B, H, W): 0 for background, 1 + class, or ``IGNORED``; and where completion acted, (B, H, W) bool. A
        pixel that several classes claim is the first one's, as in the release.
    """
    background = (1 - maps.amax(dim=1, keepdim=True)) ** BACKGROUND_POWER
    labels = torch.cat([background, maps], dim=1).argmax(dim=1)
    labels[labels == 0] = IGNORED
    labels[~salient] = 0
    completed = torch.zeros_like(salient)
    if cut is not None:
        strong = maps > _quantile(maps, cut)
        completed = strong.any(dim=1) & (labels == 0)
        labels = torch.where(completed, 1 + strong.int().argmax(dim=1), labels)
    return labels * opened(labels != 0, opening), completed


def _quantile(maps: Tensor, cut: float) -> Tensor:
    """The value (B, K, 1, 1) below which the share ``cut`` of a map's positive values is; infinite without any."""
    values = maps.flatten(2).sort(dim=2).values
    count = (values > 0).sum(dim=2, keepdim=True)
    rank = (count * cut).long()
    chosen = values.gather(2, (values.shape[2] - count + rank).clamp(max=values.shape[2] - 1))
    return torch.where(rank > 0, chosen, torch.inf)[..., None]


def opened(mask: Tensor, side: int) -> Tensor:
    """Morphological opening of (B, H, W) bool by a square; nothing outside of the image erodes it.

    Erosion and dilation have the same anchor, as OpenCV's have: an even square moves what is left by a pixel.
    """
    around = (side // 2, side - 1 - side // 2) * 2
    kept = -F.max_pool2d(F.pad(-mask[:, None].float(), around, value=-1.0), side, 1)
    return F.max_pool2d(F.pad(kept, around), side, 1)[:, 0] > 0
