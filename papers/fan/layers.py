"""Attention over tokens and over channels: what a fully attentional network (FAN) is made of.

Zhou et al., "Understanding The Robustness in Vision Transformers", ICML 2022, arXiv 2204.12451. A block attends over
tokens as any vision transformer does and, in place of the MLP, over channels:

    y = x + gamma_1 * SA(norm(x)),    z = y + gamma_2 * CA(norm(y))

    SA(x) = softmax(q k^T / sqrt(d)) v W                                         tokens attend to tokens
    CA(x) = temperature_h * sigmoid(softmax_n(q)^T mean_d(softmax_n(x))) * norm(MLP(x))     channels attend to tokens

``softmax_n`` normalises each channel over the tokens and ``mean_d`` averages over the channels of a head, so channel
attention is one gate per image and channel and its cost is linear in tokens and in channels. Its MLP has two 3x3
depth-wise convolutions inside.

Names of modules and parameters are those of the released checkpoints (github.com/NVlabs/FAN).

Shapes: B images, N = H * W tokens of C channels, h heads of d = C / h channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm, LayerNorm2d, Mlp, trunc_normal_
from timm.models.convnext import ConvNeXtStage
from torch import Tensor, nn

from common.errors import UserError
from common.linear import Linear

Grid = tuple[int, int]
#: What processes channels: the paper's channel attention; its MLP with depth-wise convolutions but no attention; the
#: plain MLP of a vision transformer. The last two are what channel attention is compared with.
ChannelProcessing = Literal["attention", "convolution", "mlp"]


def heads(x: Tensor, num_heads: int) -> Tensor:
    """Tokens (B, N, C) to heads (B, h, N, d)."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def init_linear(module: nn.Module) -> None:
    """Start every linear map in ``module`` from a truncated normal of 0.02 and a zero bias."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class TokenAttention(nn.Module):
    """Softmax self-attention of tokens: (B, N, C) -> (B, N, C).

    Args:
        dim: C.
        num_heads: h.
        qkv_bias: whether the projections to q, k, v have a bias.
        attn_drop: dropout of the attention map.
        proj_drop: dropout of the output.
        grid: accepted for uniformity with attentions that are tied to a grid of tokens.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        grid: Grid | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(dim, dim, bias=qkv_bias)
        self.kv = Linear(dim, 2 * dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def attention_matrix(self, x: Tensor) -> Tensor:
        """How much token i takes from token j, rows summing to 1: (B, N, C) -> (B, h, N, N)."""
        q, k = heads(self.q(x), self.num_heads), heads(self.kv(x).chunk(2, dim=-1)[0], self.num_heads)
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)

    def attention_map(self, x: Tensor) -> Tensor:
        """The share of all attention that each token receives, summing to 1: (B, N, C) -> (B, h, N)."""
        return self.attention_matrix(x).mean(dim=-2)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; ``x`` has shape (B, N, C)."""
        k, v = self.kv(x).chunk(2, dim=-1)
        q, k, v = heads(self.q(x), self.num_heads), heads(k, self.num_heads), heads(v, self.num_heads)
        dropout = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))


class DepthwiseConvolutions(nn.Module):
    """3x3 depth-wise convolution, GELU, batch norm, 3x3 depth-wise convolution: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.act = nn.GELU()
        self.bn = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        for conv in (self.conv1, self.conv2):
            # He initialisation by fan-out, which is 9 for a depth-wise convolution.
            nn.init.normal_(conv.weight, std=math.sqrt(2 / 9))
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Filter ``x`` (B, C, H, W) and multiply each channel by ``scale`` (C,)."""
        x = self.bn(self.act(self.conv1(x)))
        # The scale goes into the last convolution's weights: a few numbers instead of a pass over the features.
        weight, bias = self.conv2.weight * scale[:, None, None, None], self.conv2.bias * scale
        return F.conv2d(x, weight, bias, padding=1, groups=self.conv2.groups)


class ConvolutionalMlp(nn.Module):
    """Linear, scaled depth-wise convolutions, linear: (B, N, C) -> (B, N, C).

    Args:
        dim: C.
        hidden_dim: channels between the linear maps.
        drop: dropout after the convolutions and of the output.
        shortcut: whether the convolutions have a residual connection around them (FAN-ViT and FAN-Hybrid have,
            FAN-Swin has not).
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0, shortcut: bool = True) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.fc1 = Linear(dim, hidden_dim)
        self.dwconv = DepthwiseConvolutions(hidden_dim)
        self.gamma = nn.Parameter(torch.ones(hidden_dim))
        self.fc2 = Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Transform tokens ``x`` (B, N, C) that lie on ``grid`` = (H, W) row by row."""
        x = self.fc1(x)
        # Channels stay last in memory, so that neither the way to images nor the way back copies anything.
        y = self.dwconv(x.unflatten(1, grid).permute(0, 3, 1, 2), self.gamma)
        y = self.drop(y.permute(0, 2, 3, 1).flatten(1, 2))
        return self.drop(self.fc2(x + y if self.shortcut else y))


class ChannelAttention(nn.Module):
    """Attentional channel processing: (B, N, C) -> (B, N, C); equations in the module's docstring.

    Args:
        dim: C.
        num_heads: h.
        hidden_dim: of the MLP.
        qkv_bias: whether the projection to q has a bias.
        attn_drop: dropout of the gate.
        drop: dropout in the MLP.
        shortcut: see :class:`ConvolutionalMlp`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        drop: float = 0.0,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.mlp_v = ConvolutionalMlp(dim, hidden_dim, drop, shortcut)
        self.norm_v = LayerNorm(dim, eps=1e-5)
        self.q = Linear(dim, dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        init_linear(self)

    def gate(self, x: Tensor) -> Tensor:
        """What each channel is multiplied by, within (0, temperature): (B, N, C) -> (B, h, d)."""
        q = self.q(x).softmax(dim=1)
        key = x.softmax(dim=1).unflatten(2, (self.num_heads, -1)).mean(dim=-1)
        agreement = torch.einsum("bnhd,bnh->bhd", q.unflatten(2, (self.num_heads, -1)), key)
        return agreement.sigmoid() * self.temperature.squeeze(-1)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Process tokens ``x`` (B, N, C) that lie on ``grid``."""
        gate = self.attn_drop(self.gate(x)).flatten(1).unsqueeze(1)
        return gate * self.norm_v(self.mlp_v(x, grid))


class GridMlp(Mlp):
    """timm's MLP under the signature of channel attention."""

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Transform tokens ``x`` (B, N, C); ``grid`` makes no difference."""
        return super().forward(x)


def channel_processing(
    kind: ChannelProcessing, dim: int, num_heads: int, hidden_dim: int, qkv_bias: bool, attn_drop: float, drop: float
) -> nn.Module:
    """The part of a block that mixes channels; see :data:`ChannelProcessing`."""
    if kind == "attention":
        return ChannelAttention(dim, num_heads, hidden_dim, qkv_bias, attn_drop, drop)
    if kind == "convolution":
        return ConvolutionalMlp(dim, hidden_dim, drop)
    if kind == "mlp":
        return GridMlp(dim, hidden_dim, drop=drop)
    raise UserError(f"channel_processing is {kind!r}; it is 'attention', 'convolution' or 'mlp'.")


class Downsample(nn.Module):
    """A 3x3 convolution with stride 2 and a norm, between blocks of different width: (B, N, C) -> (B, N', C')."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1)
        self.norm = LayerNorm(out_dim, eps=1e-5)
        nn.init.normal_(self.proj.weight, std=math.sqrt(2 / (9 * out_dim)))
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Halve the resolution, rounding up; returns tokens and their grid."""
        x = self.proj(x.unflatten(1, grid).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(x.flatten(1, 2)), (x.shape[1], x.shape[2])


class Block(nn.Module):
    """Token attention, then channel processing, each normalised, scaled and residual: (B, N, C) -> (B, N, C).

    Args:
        dim: C.
        num_heads: h, of both attentions.
        mlp_ratio: hidden over token channels.
        channels: see :data:`ChannelProcessing`.
        qkv_bias: whether the projections to q, k, v have a bias.
        proj_drop, attn_drop: dropout.
        drop_path: stochastic depth.
        eta: start of the scales gamma_1 and gamma_2.
        norm: builds a norm from ``dim``.
        out_dim: width of the next block; a different one adds ``downsample``, which the model runs after the block.
        attention: builds token attention from ``(dim, num_heads=, qkv_bias=, attn_drop=, proj_drop=)``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        channels: ChannelProcessing = "attention",
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        eta: float = 1.0,
        norm: Callable[[int], nn.Module] = LayerNorm,
        out_dim: int | None = None,
        attention: Callable[..., nn.Module] = TokenAttention,
    ) -> None:
        super().__init__()
        self.gamma1 = nn.Parameter(torch.full((dim,), eta))
        self.gamma2 = nn.Parameter(torch.full((dim,), eta))
        self.norm1 = norm(dim)
        self.attn = attention(dim, num_heads=num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm(dim)
        self.mlp = channel_processing(channels, dim, num_heads, int(dim * mlp_ratio), qkv_bias, attn_drop, proj_drop)
        self.downsample = Downsample(dim, out_dim) if out_dim not in (None, dim) else None

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Transform tokens ``x`` (B, N, C) that lie on ``grid``."""
        x = x + self.drop_path(self.gamma1 * self.attn(self.norm1(x)))
        return x + self.drop_path(self.gamma2 * self.mlp(self.norm2(x), grid))


class ConvolutionalEmbedding(nn.Module):
    """Patches by 3x3 convolutions with stride 2, each with a batch norm: (B, in_chans, height, width) -> (B, C, H, W).

    Args:
        patch_size: side of a patch in pixels, 2, 4, 8, ...; that many convolutions double the width up to ``dim``.
        in_chans: image channels.
        dim: C.
    """

    def __init__(self, patch_size: int, in_chans: int, dim: int) -> None:
        super().__init__()
        steps = patch_size.bit_length() - 1
        if patch_size < 2 or patch_size != 2**steps:
            raise UserError(f"patch_size is {patch_size}; it must be a power of two of at least 2.")
        widths = [in_chans, *(dim // 2**step for step in reversed(range(steps)))]
        layers: list[nn.Module] = []
        for width, out_width in pairwise(widths):
            conv = nn.Conv2d(width, out_width, 3, stride=2, padding=1, bias=False)
            layers += [nn.Sequential(conv, nn.BatchNorm2d(out_width)), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embed images; the list of pyramid features is empty."""
        return self.proj(x), []


class UnbiasedLayerNorm(nn.LayerNorm):
    """Layer norm with the unbiased variance: (..., C) -> (..., C).

    The release takes the variance over C - 1 where features lie with channels last in memory, which in a hybrid they
    do behind the first norm. The outputs are smaller than layer norm's by the factor sqrt((C - 1) / C).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` over its last axis."""
        # Layer norm computes the biased variance; the ratio of the two goes into epsilon and weight.
        ratio = 1 - 1 / self.normalized_shape[0]
        weight = self.weight * math.sqrt(ratio)
        return F.layer_norm(x, self.normalized_shape, weight, self.bias, self.eps * ratio)


class UnbiasedLayerNorm2d(UnbiasedLayerNorm):
    """:class:`UnbiasedLayerNorm` over channels: (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (B, C, H, W) over its channels."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtStem(nn.Module):
    """The first stages of a ConvNeXt, made of timm's: (B, in_chans, height, width) -> features of strides 4, 8, ...

    The 1x1 convolutions of the release are linear maps here, which is faster.

    Args:
        in_chans: image channels.
        depths: blocks a stage.
        widths: channels a stage.
        unbiased_norm: whether all norms but the first are :class:`UnbiasedLayerNorm2d`, as released, or layer norms.
    """

    def __init__(
        self, in_chans: int, depths: tuple[int, ...], widths: tuple[int, ...], unbiased_norm: bool = True
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, widths[0], 4, stride=4), LayerNorm2d(widths[0], eps=1e-6))
        # Norms of (B, C, H, W) and of (B, H, W, C).
        norms = (UnbiasedLayerNorm2d, UnbiasedLayerNorm) if unbiased_norm else (LayerNorm2d, LayerNorm)
        norm, norm_last = (partial(cls, eps=1e-6) for cls in norms)
        self.stages = nn.Sequential()
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            before, stride = (widths[stage - 1], 2) if stage else (width, 1)
            self.stages.append(
                ConvNeXtStage(
                    before, width, stride=stride, depth=depth, ls_init_value=1e-6, norm_layer=norm,
                    norm_layer_cl=norm_last,
                )
            )  # fmt: skip
        init_linear(self)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features of every stage."""
        features = [self.stem(x)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[1:]


class HybridEmbedding(nn.Module):
    """Two ConvNeXt stages (strides 4 and 8), then 2x2 patches: (B, in_chans, height, width) -> (B, C, H, W).

    Args:
        in_chans: image channels.
        dim: C.
        depths: blocks of the two stages.
        unbiased_norm: see :class:`ConvNeXtStem`.
        widths: channels of the two stages.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        depths: tuple[int, int],
        unbiased_norm: bool = True,
        widths: tuple[int, int] = (128, 256),
    ) -> None:
        super().__init__()
        self.backbone = ConvNeXtStem(in_chans, depths, widths, unbiased_norm)
        self.widths = widths
        self.proj = nn.Conv2d(widths[-1], dim, 2, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embed images; also returns the features of the two stages."""
        pyramid = self.backbone(x)
        return self.proj(pyramid[-1]), pyramid
