"""A small FCViT for the bench, which halves images as its hierarchical host does."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from common.bench import hosts
from papers.fcvit.model import Block, FCViT

#: 14x14 positions, then 7x7; a convolution covers about as much of them as one of 11x11 does of the publication's maps.
MINI: dict[str, Any] = {
    "num_classes": hosts.CLASSES,
    "dims": (16, 64),
    "depths": (1, 1),
    "mlp_ratios": (2, 4),
    "kernel_size": 5,
    "num_heads": 4,
    "stem_stride": 2,
    "ls_init_value": 1.0,
}


def fcvit_mini(**changes: Any) -> FCViT:
    """An FCViT of two stages; ``changes`` are arguments of :class:`FCViT` that differ.

    As in the bench's hosts, what ends a residual branch starts at zero, in place of the publication's small scales.
    """
    settings = {**MINI, **changes}
    dim = settings["dims"][0]
    stem = nn.Sequential(*hosts.convolution(3, 16, stride=2), nn.ReLU(inplace=True), nn.Conv2d(16, dim, 3, padding=1))
    model = FCViT(**settings, stem=stem)
    hosts.initialise(model)
    for block in model.modules():
        if isinstance(block, Block):
            nn.init.zeros_(block.channel_mixer.fc2.weight)
            last: Any = block.token_mixer.fc2[2]
            nn.init.zeros_(last.weight)
    # With channels last, depth-wise convolutions of so few channels take two thirds of the time on a CPU.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
