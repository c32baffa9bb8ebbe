"""Noise2Net: an image through a small residual network with random weights, others for each image.

DeepAugment's form that needs no trained network. All images of a batch go through one pass: their channels lie beside
each other, and grouped convolutions keep them apart, so that batch norm in training mode is over one image's places.
The block is that of Res2Net (Gao et al., arXiv 1904.01169) with four parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from papers.imagenet_r.draws import Draws

#: Parts of a block's channels, of which all but the last pass a convolution.
PARTS = 4
BLOCKS = 4


class Block(nn.Module):
    """A chain of convolutions of random reach: (1, B x 3, H, W) to the same.

    Args:
        batch: images B.
        hidden: channels of a part.
        reach: kernel size and dilation of each convolution of the chain.
    """

    def __init__(self, batch: int, hidden: int, reach: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.batch, self.hidden = batch, hidden
        width = batch * hidden
        self.conv1 = nn.Conv2d(3 * batch, PARTS * width, 1, bias=False, groups=batch)
        self.bn1 = nn.BatchNorm2d(PARTS * width)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, size, padding=(size // 2) * dilation, dilation=dilation, groups=batch)
            for size, dilation in reach
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in reach)
        self.conv3 = nn.Conv2d(PARTS * width, 3 * batch, 1, bias=False, groups=batch)
        self.bn3 = nn.BatchNorm2d(3 * batch)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        height, width = x.shape[2:]
        x = self.bn1(self.conv1(x)).relu()
        # From an image's parts beside each other to a part's images beside each other.
        parts = x.view(self.batch, PARTS, self.hidden, height, width).transpose(0, 1).flatten(1, 2)[:, None]
        done, carried = [], torch.zeros_like(parts[0])
        for part, convolution, norm in zip(parts[:-1], self.convs, self.bns, strict=True):
            carried = norm(convolution(carried + part)).relu()
            done.append(carried)
        joined = torch.cat([*done, parts[-1]]).view(PARTS, self.batch, self.hidden, height, width)
        return self.bn3(self.conv3(joined.transpose(0, 1).reshape(1, -1, height, width)))


class Noise2Net(nn.Module):
    """Images (B, 3, H, W), normalised, to changed ones.

    Args:
        batch: images B.
        draws: reach of the convolutions: kernels of 1 or 3, dilations of 1 to 3.
        hidden: channels of a part of a block.
    """

    def __init__(self, batch: int, draws: Draws, hidden: int = 16) -> None:
        super().__init__()

        def reach() -> list[tuple[int, int]]:
            return [(draws.choice((1, 3)), draws.choice((1, 2, 3))) for _ in range(PARTS - 1)]

        self.block1, self.block2, self.block3, self.block4 = (Block(batch, hidden, reach()) for _ in range(BLOCKS))

    def reset(self) -> None:
        """Draw all weights anew, from torch's generator."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, images: Tensor, strength: float) -> Tensor:
        """Add ``strength`` times what each block gives, one block after another."""
        x = images.reshape(1, -1, *images.shape[2:])
        for block in (self.block1, self.block2, self.block3, self.block4):
            x = x + strength * block(x)
        return x.view_as(images)
