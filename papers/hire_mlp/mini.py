"""A small Hire-MLP for the bench: regions and shifts of the publication's first and last stage."""

from __future__ import annotations

from typing import Any

from torch import nn

from common.bench import hosts
from papers.hire_mlp.model import HireMLPNet

#: 14x14 positions in regions of four, then 7x7 in regions of two.
MINI: dict[str, Any] = {
    "num_classes": hosts.CLASSES,
    "depths": (2, 2),
    "dims": (16, 48),
    "regions": (4, 2),
    "shift_periods": (2, 2),
    "shift_steps": (2, 1),
    "mlp_ratio": 2.0,
}


def stem(in_chans: int, dim: int) -> nn.Module:
    """Two 3x3 convolutions, as the bench's hosts begin: images (B, in_chans, H, W) to (B, C, H / 2, W / 2)."""
    return nn.Sequential(
        *hosts.convolution(in_chans, dim, stride=2), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 3, padding=1)
    )


def hire_mini(**changes: Any) -> HireMLPNet:
    """A Hire-MLP of two stages; ``changes`` are arguments of :class:`HireMLPNet` that differ.

    It starts as the bench's hosts do (:func:`hosts.initialise`): linear maps are 1x1 convolutions here.
    """
    model = HireMLPNet(**{**MINI, "stem": stem, "stem_stride": 2, **changes})
    for name, part in model.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.reset_parameters()
        if isinstance(part, nn.Conv2d) and name.endswith(("attn.proj", "mlp.fc2")):
            nn.init.zeros_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return model
