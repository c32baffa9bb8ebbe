"""The vector-quantised autoencoder whose encoder turns an image into a grid of code words.

As released: VQGAN's encoder and decoder (Esser et al., "Taming Transformers for High-Resolution Image Synthesis", CVPR
2021, arXiv 2012.09841) without their attention layers. Images are in [0, 1].

Shapes: B images, H x W pixels, h x w places, K code words of D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: The groups of all norms, and what they add to the variance.
GROUPS, EPSILON = 32, 1e-6


def conv3x3(channels: int, out: int, *, bias: bool = False) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size of a map."""
    return nn.Conv2d(channels, out, 3, padding=1, bias=bias)


class ResBlock(nn.Module):
    """Norm, swish and a 3x3 convolution, twice, beside a shortcut: (B, C, H, W) to (B, out, H, W).

    Where the width changes, the shortcut is a 1x1 convolution of what the block has computed, not of its input.
    """

    def __init__(self, channels: int, out: int, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, channels, EPSILON), conv3x3(channels, out)
        self.norm2, self.conv2 = nn.GroupNorm(groups, out, EPSILON), conv3x3(out, out)
        self.shortcut = nn.Conv2d(out, out, 1, bias=False) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(y))


class Encoder(nn.Module):
    """Images (B, 3, H, W) to features (B, D, h, w); each level after the first has half as many rows and columns.

    Args:
        code_dim: D.
        filters: channels of the first convolution.
        multipliers: channels of each level, in units of ``filters``.
        depth: blocks of a level, and blocks after the last.
        groups: of the norms.
        unshuffle: pixels on a side that the first convolution takes as one place, with so many times the channels.
    """

    def __init__(
        self,
        code_dim: int,
        filters: int,
        multipliers: Sequence[int],
        depth: int,
        groups: int = GROUPS,
        unshuffle: int = 1,
    ) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        self.conv_in = conv3x3(3 * unshuffle**2, filters)
        widths = [filters * multiplier for multiplier in multipliers for _ in range(depth)] + depth * [
            filters * multipliers[-1]
        ]
        self.blocks = nn.ModuleList(
            ResBlock(before, width, groups) for before, width in zip([filters, *widths], widths, strict=False)
        )
        self.pooled = {depth * (level + 1) for level in range(len(multipliers) - 1)}
        self.norm = nn.GroupNorm(groups, widths[-1], EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], code_dim, 1)

    @property
    def patch_size(self) -> int:
        """Pixels on a side of a place."""
        return self.unshuffle * 2 ** len(self.pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images in [0, 1]."""
        x = self.conv_in(F.pixel_unshuffle(images, self.unshuffle))
        for i, block in enumerate(self.blocks):
            x = block(F.avg_pool2d(x, 2) if i in self.pooled else x)
        return self.conv_out(F.silu(self.norm(x)))


class Decoder(nn.Module):
    """The way back, (B, D, h, w) to images (B, 3, H, W), with the arguments of :class:`Encoder`."""

    def __init__(
        self,
        code_dim: int,
        filters: int,
        multipliers: Sequence[int],
        depth: int,
        groups: int = GROUPS,
        unshuffle: int = 1,
    ) -> None:
        super().__init__()
        width = filters * multipliers[-1]
        layers: list[nn.Module] = [conv3x3(code_dim, width, bias=True)]
        layers += [ResBlock(width, width, groups) for _ in range(depth)]
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(depth):
                layers.append(ResBlock(width, filters * multiplier, groups))
                width = filters * multiplier
            if level:
                layers += [nn.Upsample(scale_factor=2), conv3x3(width, width, bias=True)]
        layers += [nn.GroupNorm(groups, width, EPSILON), nn.SiLU()]
        layers += [conv3x3(width, 3 * unshuffle**2, bias=True), nn.PixelShuffle(unshuffle)]
        self.layers = nn.Sequential(*layers)

    def forward(self, codes: Tensor) -> Tensor:
        """Images, mostly in [0, 1]."""
        return self.layers(codes)


def nearest_code(features: Tensor, codebook: Tensor) -> Tensor:
    """The index of the code word that is nearest to each of the features (..., D); of a tie the lowest."""
    # The square of the feature itself is the same for all code words.
    return (codebook.square().sum(dim=1) - 2 * features @ codebook.T).argmin(dim=-1)


def margin(features: Tensor, codebook: Tensor) -> Tensor:
    """How far each of the features (..., D) may move, in any direction, and keep its code word: (...).

    The features that have one code word are a cell whose borders lie half-way to the others: along e' - e, a feature z
    with the code word e meets the border with e' after (|z - e'|^2 - |z - e|^2) / (2 |e' - e|).
    """
    own = codebook[nearest_code(features, codebook)]
    squares = (features[..., None, :] - codebook).square().sum(dim=-1)  # (..., K)
    apart = (own[..., None, :] - codebook).square().sum(dim=-1).sqrt()
    farther = squares - (features - own).square().sum(dim=-1, keepdim=True)
    return torch.where(apart > 0, farther / (2 * apart), torch.inf).amin(dim=-1).clamp_min(0)


def quantisation_loss(
    features: Tensor, codebook: Tensor, commitment: float = 0.25, entropy: float = 0.1, temperature: float = 0.01
) -> tuple[Tensor, Tensor]:
    """What a quantiser adds to the reconstruction error, as released.

    Code words move to the features that chose them, features to their code words, each of which has its weight; the
    entropy of a feature's soft choice shall be small, and that of the mean choice large, so that all words are used.

    Args:
        features: (N, D).
        codebook: (K, D).
        commitment: weight of the features' way.
        entropy: weight of the entropies.
        temperature: of the soft choice.

    Returns:
        The loss, a scalar, and the code words (N, D) with the gradient of the features (straight through).
    """
    chosen = codebook[nearest_code(features, codebook)]
    words = F.mse_loss(chosen, features.detach())
    commit = F.mse_loss(features, chosen.detach())
    squares = features.square().sum(1, keepdim=True) - 2 * features @ codebook.T + codebook.square().sum(1)
    logs = (-squares / temperature).log_softmax(dim=1)
    mean = logs.exp().mean(dim=0)
    single = -(logs.exp() * logs).sum(dim=1).mean()
    together = -(mean * (mean + 1e-5).log()).sum()
    loss = words + commitment * commit + entropy * (single - together)
    return loss, features + (chosen - features).detach()
