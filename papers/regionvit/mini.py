"""A small RegionViT for the bench: what the last two stages of the publication's models have of regions."""

from __future__ import annotations

from typing import Any

from torch import nn

from common.bench import hosts
from papers.regionvit.model import RegionViT

#: 14x14 local tokens in 2x2 regions, then 7x7 in one.
MINI: dict[str, Any] = {
    "img_size": hosts.SIDE,
    "num_classes": hosts.CLASSES,
    "patch_size": 2,
    "window_size": 7,
    "embed_dim": 16,
    "head_dim": 16,
    "depths": (1, 2),
    "mlp_ratio": 2.0,
}


def stem(in_chans: int, dim: int) -> nn.Module:
    """Two 3x3 convolutions, as the bench's hosts begin: images (B, in_chans, H, W) to (B, C, H / 2, W / 2)."""
    return nn.Sequential(
        *hosts.convolution(in_chans, dim, stride=2), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 3, padding=1)
    )


def regionvit_mini(**changes: Any) -> RegionViT:
    """A RegionViT of two stages; ``changes`` are arguments of :class:`RegionViT` that differ."""
    model = RegionViT(**{**MINI, "stem": stem, **changes})
    hosts.initialise(model)
    return model
