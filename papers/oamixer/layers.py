"""Layers that mix patches, with the mask of OAMixer: attention, ConViT's attention, Mixer's MLP, a shared convolution.

Where a host's layer is linear in its input, the mask multiplies the entries of its matrix; where it is not, it
multiplies those of the linear map that the layer would be without its activations.

Shapes: B images, N patches (n tokens, with a class token where there is one), C channels, H x W places.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models._features_fx import register_notrace_module
from timm.models.convit import GPSA, MHSA
from timm.models.convit import Block as ConViTBlock
from timm.models.mlp_mixer import MixerBlock
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from papers.oamixer.mask import ObjectMask


def padded(distance: Tensor, tokens: int) -> Tensor:
    """Distances (B, N, N) for as many tokens: a class token is at distance 0 from all patches."""
    extra = tokens - distance.shape[-1]
    return F.pad(distance, (extra, 0, extra, 0)) if extra else distance


def reweighted(attention: Tensor, mask: Tensor) -> Tensor:
    """Attention (B, heads, n, n) times a mask (B, n, n), with rows of sum 1."""
    attention = attention * mask[:, None]
    return attention / attention.sum(dim=-1, keepdim=True)


@register_notrace_module
class MaskedAttention(ObjectMask, Attention):
    """A vision transformer's self-attention."""

    @classmethod
    def convert(cls, layer: Any, form: str) -> None:
        """Add the mask to timm's layer; the rest of it stays as it is."""
        layer.__class__ = cls
        layer.add_mask(form)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Mix tokens (B, n, C); ``attn_mask``, which timm's blocks hand on, is the distance (B, N, N) of patches.

        The mask exp(-kappa d) on weights is a bias of -kappa d on their exponents.
        """
        if attn_mask is None:
            return super().forward(x, is_causal=is_causal)
        distance = padded(attn_mask, x.shape[1])
        if self.form == "exp":
            return super().forward(x, attn_mask=(-self.scale_of_mask * distance)[:, None].to(x.dtype))
        B, n, _ = x.shape
        q, k, v = self.qkv(x).view(B, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        attention = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        mixed = self.attn_drop(reweighted(attention, self.mask(distance))) @ v
        return self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(B, n, self.attn_dim)))


class MaskedConViTBlock(ConViTBlock):
    """A block of ConViT that hands distances on to its attention."""

    def forward(self, x: Tensor, distance: Tensor | None = None) -> Tensor:
        """Apply the block to tokens (B, n, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), distance))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@register_notrace_module
class MaskedGPSA(ObjectMask, GPSA):
    """ConViT's gated mixture of attention by content and by position."""

    def forward(self, x: Tensor, distance: Tensor | None = None) -> Tensor:
        """Mix patches (B, N, C)."""
        if distance is None:
            return super().forward(x)
        B, N, C = x.shape
        if self.rel_indices.shape[1] != N:
            self.rel_indices = self.get_rel_indices(N)
        attention = self.attn_drop(reweighted(self.get_attention(x), self.mask(distance)))
        v = self.v(x).view(B, N, self.num_heads, -1).transpose(1, 2)
        return self.proj_drop(self.proj((attention @ v).transpose(1, 2).reshape(B, N, C)))


@register_notrace_module
class MaskedMHSA(ObjectMask, MHSA):
    """The plain attention of ConViT's last blocks."""

    def forward(self, x: Tensor, distance: Tensor | None = None) -> Tensor:
        """Mix tokens (B, n, C)."""
        if distance is None:
            return super().forward(x)
        B, n, C = x.shape
        q, k, v = self.qkv(x).view(B, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attention = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        mixed = self.attn_drop(reweighted(attention, self.mask(padded(distance, n)))) @ v
        return self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(B, n, C)))


class RelativeAttention(nn.Module):
    """The release's stand-in for CoAtNet's attention: a bias by relative position behind a norm; it ignores the mask.

    Args:
        dim, num_heads: C, and the number of heads.
        grid: places on a side.
        mask: whether the scale of a mask is stored, which nothing reads, as released.
    """

    def __init__(self, dim: int, num_heads: int, grid: int, mask: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = nn.Module()
        if mask:
            self.fn.mask_scale = nn.Parameter(torch.zeros(1))
        self.fn.relative_bias_table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2, num_heads))
        self.fn.to_qkv = nn.Linear(dim, 3 * dim)
        self.fn.to_out = nn.Sequential(nn.Linear(dim, dim))
        self.num_heads = num_heads
        at = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")).flatten(1)
        rows, columns = at[:, :, None] - at[:, None, :] + grid - 1
        self.register_buffer("index", rows * (2 * grid - 1) + columns, persistent=False)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Mix patches (B, N, C)."""
        B, N, C = x.shape
        fn: Any = self.fn
        q, k, v = fn.to_qkv(self.norm(x)).view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = fn.relative_bias_table[self.index].permute(2, 0, 1)[None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype).expand(B, -1, -1, -1))
        return fn.to_out(mixed.transpose(1, 2).reshape(B, N, C))


@register_notrace_module
class MaskedTokenMlp(ObjectMask, Mlp):
    """MLP-Mixer's MLP over patches, whose linear part W2 W1 is masked: (B, C, N) -> (B, C, N)."""

    def forward(self, x: Tensor, distance: Tensor | None = None) -> Tensor:
        """Apply the MLP, less what the mask takes from its linear part."""
        mixed = super().forward(x)
        if distance is None:
            return mixed
        linear: Tensor = self.fc2.weight @ self.fc1.weight
        return mixed - x @ (linear * self.excess(distance)).transpose(1, 2)


class MaskedMixerBlock(MixerBlock):
    """A block of MLP-Mixer that hands distances on to its MLP over patches."""

    def forward(self, x: Tensor, distance: Tensor | None = None) -> Tensor:
        """Apply the block to patches (B, N, C)."""
        x = x + self.drop_path(self.mlp_tokens(self.norm1(x).transpose(1, 2), distance).transpose(1, 2))
        return x + self.drop_path(self.mlp_channels(self.norm2(x)))


@register_notrace_module
class SharedConv(nn.Module):
    """A convolution with one kernel for all channels: (B, C, H, W) -> (B, C, H, W).

    Args:
        kernel_size: odd.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, kernel_size, padding="same")
        self.kernel_size = kernel_size

    def matrix(self, height: int, width: int) -> Tensor:
        """The convolution without its bias as a matrix (H W, H W), from places that are read to places written."""
        grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        at = torch.stack(grid).flatten(1).to(self.conv.weight.device)
        rows, columns = at[:, None, :] - at[:, :, None] + self.kernel_size // 2
        inside = (rows >= 0) & (rows < self.kernel_size) & (columns >= 0) & (columns < self.kernel_size)
        kernel = self.conv.weight.flatten()
        return kernel[(rows * self.kernel_size + columns) * inside] * inside

    def forward(self, x: Tensor) -> Tensor:
        """Convolve by one product of matrices, which is faster than a convolution of single channels."""
        return self.product(x, self.matrix(*x.shape[2:]))

    def product(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Mix the places of ``x`` by a matrix (H W, H W), or one an image."""
        bias: Any = self.conv.bias
        return (x.flatten(2) @ matrix.mT + bias).unflatten(2, x.shape[2:])


@register_notrace_module
class MaskedConv(ObjectMask, SharedConv):
    """The same, with the entries of its matrix masked."""

    def __init__(self, kernel_size: int, form: str) -> None:
        super().__init__(kernel_size)
        self.add_mask(form)

    def forward(self, x: Tensor, distance: Tensor | None = None) -> Tensor:
        """Convolve; ``distance`` (B, N, N) is that of the labels of places."""
        if distance is None:
            return super().forward(x)
        return self.product(x, self.matrix(*x.shape[2:]) * self.mask(distance))
