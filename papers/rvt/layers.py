"""Layers of RVT other than attention: norms, the convolutional stem, the feed-forward network, downsampling.

Mao et al., "Towards Robust Vision Transformer", CVPR 2022, arXiv 2105.07926. Names of modules and parameters are those
of the released checkpoints. Shapes: B images, N = H * W tokens of C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from timm.models import register_notrace_module
from torch import Tensor, nn

from common.errors import UserError
from common.linear import Linear, activated, convolution_gelu, linear
from papers.rvt import compiled

Grid = tuple[int, int]


def layer_norm(dim: int) -> nn.Module:
    """The layer norm of a block, with the epsilon of the release."""
    return LayerNorm(dim, eps=1e-6)


def folds(norm: nn.Module) -> bool:
    """Whether to fold a batch norm into the map before it: in eval mode, on a CPU.

    There it saves a pass over features; to a GPU the small operations that make the folded weights are the dearer ones.
    """
    return not norm.training and norm.weight.device.type == "cpu"


def folded_batch_norm(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """``(scale, shift)`` with which a batch norm in eval mode multiplies and adds, each of shape (C,)."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class TokenBatchNorm(nn.Module):
    """Batch normalisation over images and tokens: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel; ``x`` has shape (B, N, C)."""
        # As one row of pixels, channels last in memory: the fast path of torch's batch norm, without a copy.
        return self.bn(x.unsqueeze(1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).squeeze(1)


@register_notrace_module  # symbolic tracing has no device to choose by
class ConvStem(nn.Module):
    """Convolution, batch norm, max pooling, patch projection: (B, in_chans, height, width) -> (B, C, H, W).

    Args:
        in_chans: image channels.
        embed_dim: channels of a token.
        strides: of the 7x7 convolution, the pooling and the projection (whose kernel is its stride). Their product
            is the side of a patch: (2, 2, 4) makes patches of 16 pixels as published, (1, 2, 2) patches of 4 pixels
            for small images, 7x7 tokens at 28 pixels.
        width: channels of the first convolution.
    """

    def __init__(self, in_chans: int, embed_dim: int, strides: tuple[int, int, int] = (2, 2, 4), width: int = 32):
        super().__init__()
        first, pool, patch = strides
        # The release pads its stride-2 convolution by 2; without a stride, 3 keeps the size.
        padding = 3 if first == 1 else 2
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, width, 7, stride=first, padding=padding),
            nn.BatchNorm2d(width),
            nn.MaxPool2d(3, stride=pool, padding=1),
            nn.Conv2d(width, embed_dim, patch, stride=patch),
        )
        self.strides, self.padding = strides, padding

    def grid(self, height: int, width: int) -> Grid:
        """The grid of tokens for an image of this size in pixels.

        Raises:
            UserError: the image is smaller than one patch.
        """
        first, pool, patch = self.strides

        def side(pixels: int) -> int:
            pixels = (pixels + 2 * self.padding - 7) // first + 1
            return ((pixels - 1) // pool + 1) // patch

        if min(side(height), side(width)) < 1:
            raise UserError(
                f"An image of {height}x{width} pixels is smaller than one patch of {first * pool * patch} pixels; "
                f"use larger images or smaller stem_strides."
            )
        return side(height), side(width)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images; see the class for shapes."""
        conv, norm, pool, patch = self.proj
        x = x.contiguous(memory_format=torch.channels_last)
        if not folds(norm):
            return self.proj(x)
        scale, shift = folded_batch_norm(norm)
        bias = shift if conv.bias is None else torch.addcmul(shift, conv.bias, scale)
        x = F.conv2d(x, conv.weight * scale[:, None, None, None], bias, conv.stride, conv.padding)
        return patch(pool(x))


@register_notrace_module  # as Linear
class TokenMlp(nn.Module):
    """RVT's feed-forward network, with or without its depth-wise convolution: (B, N, C) -> (B, N, C).

    ``conv=True``: linear, norm, GELU, 3x3 depth-wise convolution, norm, GELU, linear, norm, where every norm is a
    batch norm. ``conv=False``: linear, GELU, linear.

    The 1x1 convolutions of the release are linear maps of tokens; their weights keep the shape (out, in, 1, 1). In
    eval mode the batch norms are folded into the maps before them.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0, conv: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.drop = nn.Dropout(drop)
        if conv:
            self.fc1 = nn.Conv2d(dim, hidden_dim, 1)
            self.bn1 = nn.BatchNorm2d(hidden_dim)
            self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
            self.bn2 = nn.BatchNorm2d(hidden_dim)
            self.fc2 = nn.Conv2d(hidden_dim, dim, 1)
            self.bn3 = nn.BatchNorm2d(dim)
        else:
            self.fc1 = Linear(dim, hidden_dim)
            self.fc2 = Linear(hidden_dim, dim)

    def _pointwise(self, x: Tensor, layer: nn.Module, norm: nn.Module) -> Tensor:
        """A 1x1 convolution of tokens ``x`` (B, H, W, C) and its norm, as (B, C, H, W), channels last in memory."""
        return norm(linear(x, layer.weight.flatten(1), layer.bias).permute(0, 3, 1, 2))

    def _folded_pointwise(self, x: Tensor, layer: nn.Module, norm: nn.Module, gelu: bool = False) -> Tensor:
        """The same in eval mode, as (B, H, W, C), and its GELU on request."""
        scale, shift = folded_batch_norm(norm)
        return linear(x, layer.weight.flatten(1) * scale[:, None], torch.addcmul(shift, layer.bias, scale), gelu)

    def _folded_depthwise(self, x: Tensor) -> Tensor:
        """The GELU of the depth-wise convolution and its norm in eval mode: (B, H, W, C) -> (B, H, W, C)."""
        scale, shift = folded_batch_norm(self.bn2)
        weight, bias = self.dwconv.weight * scale[:, None, None, None], torch.addcmul(shift, self.dwconv.bias, scale)
        x = convolution_gelu(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=self.dwconv.groups)
        return x.permute(0, 2, 3, 1)

    def _hidden(self, x: Tensor) -> Tensor:
        """All but the last map and norm: (B, H, W, C) -> (B, H, W, hidden_dim)."""
        dropping = self.drop.training and self.drop.p > 0
        if torch.is_grad_enabled() and not dropping and compiled.serves(x, self.bn1, self.bn2):
            return compiled.middle(
                linear(x, self.fc1.weight.flatten(1)), self.fc1.bias, self.bn1, self.dwconv, self.bn2
            )
        if folds(self.bn1):
            return self._folded_depthwise(self.drop(self._folded_pointwise(x, self.fc1, self.bn1, gelu=True)))
        x = self.drop(activated(self._pointwise(x, self.fc1, self.bn1)))
        return activated(self.bn2(self.dwconv(x))).permute(0, 2, 3, 1)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Transform tokens ``x`` (B, N, C) that lie on ``grid`` = (H, W) row by row."""
        if not self.conv:
            return self.drop(self.fc2(self.drop(self.fc1(x, gelu=True))))
        x = self._hidden(x.unflatten(1, grid))
        if folds(self.bn3):
            x = self._folded_pointwise(x, self.fc2, self.bn3)
        else:
            x = self._pointwise(x, self.fc2, self.bn3).permute(0, 2, 3, 1)
        return self.drop(x).flatten(1, 2)


@register_notrace_module  # as the stem
class Downsample(nn.Module):
    """A 3x3 depth-wise convolution with stride 2 that widens the tokens: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution, rounding up."""
        return self.conv(x) if self.conv.weight.device.type == "cpu" else self._by_repetition(x)

    def _by_repetition(self, x: Tensor) -> Tensor:
        """The same with every channel repeated: cuDNN takes channels with several outputs one after the other."""
        conv = self.conv
        pixels = x.permute(0, 2, 3, 1).unsqueeze(-1)
        repeated = pixels.expand(-1, -1, -1, -1, conv.out_channels // conv.in_channels).flatten(3).permute(0, 3, 1, 2)
        return F.conv2d(repeated, conv.weight, conv.bias, conv.stride, conv.padding, groups=conv.out_channels)
