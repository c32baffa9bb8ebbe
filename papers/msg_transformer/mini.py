"""A small MSG-Transformer for the bench."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from common.bench import hosts
from papers.msg_transformer.model import MSGTransformer

#: 14x14 local tokens in one region of 2x2 windows, then 7x7 in one window.
MINI: dict[str, Any] = {
    "img_size": hosts.SIDE,
    "num_classes": hosts.CLASSES,
    "patch_size": 2,
    "window_size": 7,
    "shuffle_sizes": (2, 1),
    "embed_dim": 16,
    "head_dim": 16,
    "depths": (2, 1),
    "mlp_ratio": 2.0,
}


class Stem(nn.Module):
    """Two 3x3 convolutions, as the bench's hosts begin: images (B, in_chans, H, W) to (B, H / 2, W / 2, C)."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            *hosts.convolution(in_chans, dim, stride=2), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        return self.proj(x).permute(0, 2, 3, 1)


def msg_mini(**changes: Any) -> MSGTransformer:
    """An MSG-Transformer of two stages; ``changes`` are arguments of :class:`MSGTransformer` that differ."""
    model = MSGTransformer(**{**MINI, "stem": Stem, **changes})
    hosts.initialise(model)
    return model
