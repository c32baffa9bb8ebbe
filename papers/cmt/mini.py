"""A small CMT for the bench, of as many parameters as its hierarchical host (to within 3 %)."""

from __future__ import annotations

from typing import Any

from timm.layers import Mlp
from torch import nn

from common.bench import hosts
from papers.cmt.model import CMT, InvertedResidualMlp, Stage

#: 14x14 positions with 7x7 keys, then 7x7 with all.
MINI: dict[str, Any] = {
    "img_size": hosts.SIDE,
    "num_classes": hosts.CLASSES,
    "dims": (16, 48),
    "depths": (1, 1),
    "num_heads": (1, 3),
    "reductions": (2, 1),
    "mlp_ratio": 2.0,
    "patch_sizes": (1, 2),
    "stem_channels": 8,
    "head_channels": 64,
    "drop_rate": 0.0,
    "initialise": False,
}


def cmt_mini(**changes: Any) -> CMT:
    """A CMT of two stages; ``changes`` are arguments of :class:`CMT` that differ.

    As in the bench's hosts, what ends a residual branch starts at zero, and so do the scores by position.
    """
    model = CMT(**{**MINI, **changes})
    hosts.initialise(model)
    for part in model.modules():
        if isinstance(part, Stage):
            nn.init.zeros_(part.position_bias)
        elif isinstance(part, InvertedResidualMlp):
            norm: Any = part.project[1]
            nn.init.zeros_(norm.weight)
        elif isinstance(part, Mlp):
            nn.init.zeros_(part.fc2.weight)
    return model
