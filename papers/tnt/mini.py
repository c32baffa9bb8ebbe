"""A small TNT for the bench, as close to its vision transformer as an inner transformer allows."""

from __future__ import annotations

from typing import Any

from timm.models.tnt import TNT
from torch import Tensor, nn

from common.bench import hosts

WORD = 2  # pixels of an image, on a side, that a word stands for
CHANNELS = 8  # of a word


class Words(nn.Module):
    """The first half of the bench's stem: images (B, 3, H, W) to the 2 x 2 words of patches, (B n, 4, c).

    Words of a plain convolution of each patch, as in TNT, would learn as little within the bench's budget as patches of
    a plain projection. So they see across the borders of patches, as those of TNT's earlier release do.
    """

    def __init__(self) -> None:
        super().__init__()
        side = hosts.SIDE // hosts.PATCH
        self.grid_size, self.num_patches, self.legacy = (side, side), side**2, True
        self.proj = nn.Sequential(
            *hosts.convolution(3, 16, stride=WORD), nn.ReLU(inplace=True), nn.Conv2d(16, CHANNELS, 3, padding=1)
        )

    def forward(self, images: Tensor, positions: Tensor) -> Tensor:
        """Embed ``images`` and add ``positions`` (1, c, 2, 2), which all patches share."""
        words = hosts.PATCH // WORD
        grid = self.proj(images).unflatten(3, (-1, words)).unflatten(2, (-1, words))  # (B, c, rows, 2, columns, 2)
        return (grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2) + positions).flatten(2).transpose(1, 2)


def tnt_mini(positions: bool = True) -> TNT:
    """TNT whose outer transformer is that of ``vit_mini``: 49 patches of 48 channels, each with 4 words of 8 channels.

    Args:
        positions: whether words have position encodings; if not, these are zero and stay it.
    """
    model: Any = TNT(
        img_size=hosts.SIDE,
        patch_size=hosts.PATCH,
        first_stride=WORD,
        num_classes=hosts.CLASSES,
        embed_dim=48,
        inner_dim=CHANNELS,
        depth=3,
        num_heads_inner=1,
        num_heads_outer=3,
        mlp_ratio=2.0,
        qkv_bias=True,
    )
    model.pixel_embed = Words()
    hosts.initialise(model)
    for block in model.blocks:
        # As in vit_mini: the last layers of residual branches start at zero, those of attention as PyTorch has them.
        # What words add to their patch is a residual branch, too.
        for last in (block.mlp_in.fc2, block.norm2_proj, block.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    if not positions:
        nn.init.zeros_(model.pixel_pos)
        model.pixel_pos.requires_grad_(False)
    return model
