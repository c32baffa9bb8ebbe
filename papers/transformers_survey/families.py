"""The families of attention and of what stands in its place, one row a family: modules of this suite and of timm.

All take tokens (B, N, C) of a square grid, N = side x side, and return as many. How multiply-adds grow with N is the
largest power of N in a family's definition, where channels and heads stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from timm.layers import Mlp
from timm.models.efficientvit_mit import LiteMLA
from timm.models.pvt_v2 import Attention as ReducedAttention
from timm.models.sequencer import LSTM2d
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from timm.models.vision_transformer import Attention
from timm.models.xcit import XCA
from torch import Tensor, nn

from common.bench.hosts import PooledAttention
from common.errors import UserError
from papers.cmt.model import LightweightAttention
from papers.fan.layers import ChannelAttention
from papers.hire_mlp.model import HireMLP
from papers.hornet.model import GatedConvolution
from papers.raftmlp.model import AxialMixing
from papers.vars.dynamic import VARSDynamic
from papers.vars.kernelized import KernelizedAttention

#: Positions on a side of a window: Swin's, or, where a grid cannot be cut into those, the next power of two.
WINDOWS = (7, 8)


class OnMap(nn.Module):
    """Tokens as a map (B, C, H, W) for ``mixer``."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens."""
        side = side_of(x)
        return self.mixer(x.transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)


class OnGrid(nn.Module):
    """Tokens as a map (B, H, W, C) for ``mixer``."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens."""
        side = side_of(x)
        return self.mixer(x.unflatten(1, (side, side))).flatten(1, 2)


class WithGrid(nn.Module):
    """``mixer(tokens, (H, W))``."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens."""
        side = side_of(x)
        return self.mixer(x, (side, side))


class Windows(nn.Module):
    """Swin's attention within windows that do not overlap.

    Raises:
        UserError: the grid cannot be cut into windows.
    """

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        whole = [window for window in WINDOWS if side % window == 0]
        if not whole:
            raise UserError(
                f"A grid of {side} x {side} cannot be cut into windows of {' or '.join(map(str, WINDOWS))}."
            )
        self.window = whole[0]
        self.attn = WindowAttention(dim, heads, window_size=self.window)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of each window."""
        side, window = side_of(x), (self.window, self.window)
        parts = window_partition(x.unflatten(1, (side, side)), window).flatten(1, 2)
        mixed = self.attn(parts).unflatten(1, window)
        return window_reverse(mixed, window, side, side).flatten(1, 2)


class Axial(nn.Module):
    """Attention along columns, then along rows (Ho et al., arXiv 1912.12180)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.columns, self.rows = (Attention(dim, heads, qkv_bias=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens."""
        side = side_of(x)
        x = x.unflatten(1, (side, side)).transpose(1, 2).flatten(0, 1)
        x = self.columns(x).unflatten(0, (-1, side)).transpose(1, 2).flatten(0, 1)
        return self.rows(x).unflatten(0, (-1, side)).flatten(1, 2)


class ConvolutionalAttention(nn.Module):
    """CMT's: a depth-wise 3x3 convolution beside a shortcut, attention with keys convolved to half the side.

    Scores by position, which CMT adds, are zero here. With any, PyTorch's attention computes the whole map.
    """

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.attn = LightweightAttention(dim, heads, reduction=2 if side % 2 == 0 else 1)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """Mix a map (B, C, H, W)."""
        x = x + self.local(x)
        return self.attn(x, x.new_zeros(self.heads, 1, 1))


class TokenMlp(nn.Module):
    """MLP-Mixer's mixing of tokens: one MLP for all channels, half as many hidden units as tokens."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.mlp = Mlp(tokens, tokens // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens."""
        return self.mlp(x.transpose(1, 2)).transpose(1, 2)


@dataclass(frozen=True)
class Family:
    """A way to mix tokens.

    Attributes:
        name: identifier.
        group: the heading under which it stands.
        source: where the module is.
        term: the part of its multiply-adds that grows fastest, in N tokens and C channels.
        exponent: the power of N in that part.
        make: the module, from channels, heads and the side of the grid.
        whole: whether one layer connects a token to all others.
        trained: whether it is trained in the host.
    """

    name: str
    group: str
    source: str
    term: str
    exponent: float
    make: Callable[[int, int, int], nn.Module]
    whole: bool = True
    trained: bool = False


FAMILIES: tuple[Family, ...] = (
    Family(
        "global", "global self-attention", "timm, ViT", "2 N^2 C", 2.0,
        lambda dim, heads, side: Attention(dim, heads, qkv_bias=True), trained=True,
    ),
    Family(
        "windows", "local windows", "timm, Swin", "2 x 49 N C", 1.0, Windows, whole=False, trained=True,
    ),
    Family(
        "pooled", "pooled or reduced keys", "the bench, PVT's with means", "N^2 C / 2", 2.0,
        lambda dim, heads, side: PooledAttention(dim, heads, 2 if side % 2 == 0 else 1),
    ),
    Family(
        "fixed_keys", "pooled or reduced keys", "timm, PVTv2 linear", "2 x 49 N C", 1.0,
        lambda dim, heads, side: WithGrid(ReducedAttention(dim, heads, linear_attn=True)),
    ),
    Family(
        "axial", "axial", "timm's attention along each axis", "4 N^1.5 C", 1.5,
        lambda dim, heads, side: Axial(dim, heads), trained=True,
    ),
    Family(
        "random_features", "linear kernels", "vars, Performer's", "N C^2", 1.0,
        lambda dim, heads, side: KernelizedAttention(dim, heads), trained=True,
    ),
    Family(
        "relu_kernel", "linear kernels", "timm, EfficientViT", "N C^2", 1.0,
        lambda dim, heads, side: OnMap(LiteMLA(dim, dim, heads=heads, dim=dim // heads, scales=())),
    ),
    Family(
        "cross_covariance", "channels", "timm, XCiT", "N C^2", 1.0,
        lambda dim, heads, side: XCA(dim, heads, qkv_bias=True), trained=True,
    ),
    Family(
        "channel_gate", "channels", "fan", "N C^2", 1.0,
        lambda dim, heads, side: WithGrid(ChannelAttention(dim, heads, dim)),
    ),
    Family(
        "vars_d", "recurrent and sparse", "vars", "N C^2", 1.0,
        lambda dim, heads, side: VARSDynamic(dim, heads), trained=True,
    ),
    Family(
        "convolutional", "augmented by convolution", "cmt", "N^2 C / 2", 2.0,
        lambda dim, heads, side: OnMap(ConvolutionalAttention(dim, heads, side)), trained=True,
    ),
    Family(
        "gated_convolution", "convolutions that gate", "hornet", "49 N C", 1.0,
        lambda dim, heads, side: OnGrid(GatedConvolution(dim, 3)), whole=False,
    ),
    Family(
        "global_filter", "convolutions that gate", "hornet", "N log N C", 1.0,
        lambda dim, heads, side: OnGrid(GatedConvolution(dim, 3, grid=(side, side))),
    ),
    Family(
        "token_mlp", "MLP mixers", "timm, MLP-Mixer", "N^2 C", 2.0,
        lambda dim, heads, side: TokenMlp(side**2), trained=True,
    ),
    Family(
        "axial_mlp", "MLP mixers", "raftmlp", "8 N^1.5 C", 1.5,
        lambda dim, heads, side: OnGrid(AxialMixing(dim, (side, side), 2, 1.0)),
    ),
    Family(
        "regional_mlp", "MLP mixers", "hire-mlp", "N C^2", 1.0,
        lambda dim, heads, side: OnMap(HireMLP(dim, 2 if side % 2 == 0 else 7)),
    ),
    Family(
        "lstm", "recurrence", "timm, Sequencer", "N C^2", 1.0,
        lambda dim, heads, side: OnGrid(LSTM2d(dim, dim // 4)), whole=False,
    ),
)  # fmt: skip


def family(name: str) -> Family:
    """The row called ``name``."""
    return next(each for each in FAMILIES if each.name == name)


def side_of(x: Tensor) -> int:
    """Rows of the square grid of tokens (B, N, C).

    Raises:
        UserError: they are no square.
    """
    side = math.isqrt(x.shape[1])
    if side**2 != x.shape[1]:
        raise UserError(f"{x.shape[1]} tokens are no square grid; give side x side of them, without a class token.")
    return side
