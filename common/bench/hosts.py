"""Hosts: the small architectures into which papers put what they propose, one a family.

A host is as large as its training and measuring on 28x28 images allow in the bench's budget, and is trained far enough
to be beyond any linear classifier on the same data. A paper changes a host by arguments of its function and by nothing
else, so that two contenders differ in what the paper is about:

    hosts.vit_mini(attention=PooledAttention)        # every block's attention, made as attention(dim, num_heads)
    hosts.vit_mini(depth=2, embed_dim=64)            # whatever timm's VisionTransformer takes
    hosts.resnet_mini(activation=nn.GELU)

Axes: B images, N tokens, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn

#: Makes what mixes tokens, (B, N, C) to (B, N, C), from C and the number of heads.
AttentionMaker = Callable[[int, int], nn.Module]

CLASSES = 10
SIDE = 28  # pixels
PATCH = 4  # pixels of an image that a token of the last stage stands for


class Stem(nn.Module):
    """Three 3x3 convolutions, two of stride 2: images (B, 3, H, W) to tokens (B, H/4 x W/4, C).

    Early convolutions (Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021) are what lets a
    transformer learn within this budget; a plain projection of patches reaches the accuracy of a linear classifier.
    It takes the place of timm's ``PatchEmbed`` and the same arguments.
    """

    def __init__(
        self,
        img_size: int = SIDE,
        patch_size: int = PATCH,
        in_chans: int = 3,
        embed_dim: int = 48,
        *,
        strict_img_size: bool = True,
        output_fmt: str = "NLC",
        **unused: Any,
    ) -> None:
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        self.set_input_size(img_size)
        self.output_fmt = output_fmt
        widths = (16, 32)
        self.proj = nn.Sequential(
            *convolution(in_chans, widths[0], stride=2),
            nn.ReLU(inplace=True),
            *convolution(widths[0], widths[1], stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(widths[1], embed_dim, 3, padding=1),
        )

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens for images of ``img_size`` pixels."""
        return img_size[0] // self.patch_size[0], img_size[1] // self.patch_size[1]

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, patch_size: int | None = None) -> None:
        """Expect images of ``img_size`` pixels; the patch size stays, as timm leaves it where none is given."""
        if img_size is not None:
            self.img_size = img_size if isinstance(img_size, tuple) else (img_size, img_size)
            self.grid_size = self.dynamic_feat_size(self.img_size)
            self.num_patches = self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels of an image for a token, on a side."""
        return max(self.patch_size) if as_scalar else self.patch_size

    def forward(self, x: Tensor) -> Tensor:
        """Embed images as tokens, (B, H/4 x W/4, C), or (B, H/4, W/4, C) where positions may be resized later."""
        x = self.proj(x)
        return x.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else x.flatten(2).transpose(1, 2)


def vit_mini(
    attention: AttentionMaker | None = None, kind: type[VisionTransformer] = VisionTransformer, **changes: Any
) -> VisionTransformer:
    """A vision transformer with class token: 49 tokens of 48 channels, three blocks of three heads.

    Args:
        attention: in place of every block's self-attention.
        kind: a class derived from timm's ``VisionTransformer``.
        changes: arguments of timm's ``VisionTransformer`` that differ.
    """
    settings = {
        "img_size": SIDE,
        "patch_size": PATCH,
        "num_classes": CLASSES,
        "embed_dim": 48,
        "depth": 3,
        "num_heads": 3,
        "mlp_ratio": 2.0,
        "embed_layer": Stem,
        **changes,
    }
    model = kind(**settings)
    if attention is not None:
        for block in model.blocks:
            block.attn = attention(settings["embed_dim"], settings["num_heads"])
    initialise(model)
    for name, module in model.named_modules():
        # A class token has nothing but attention to gather with: it learns sooner where attention does not start at 0.
        if name.endswith("attn.proj") and isinstance(module, nn.Linear):
            module.reset_parameters()
    return model


def mixer_mini(**changes: Any) -> MlpMixer:
    """An MLP-Mixer: 49 tokens of 48 channels, three blocks; ``changes`` are arguments of timm's ``MlpMixer``."""
    settings = {
        "img_size": SIDE,
        "patch_size": PATCH,
        "num_classes": CLASSES,
        "embed_dim": 48,
        "num_blocks": 3,
        "mlp_ratio": (1.0, 2.0),
        **changes,
    }
    model = MlpMixer(**settings)
    model.register_module("stem", Stem(settings["img_size"], settings["patch_size"], embed_dim=settings["embed_dim"]))
    initialise(model)
    return model


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, C, H, W) to (B, out, H/stride, W/stride)."""

    def __init__(self, channels: int, out: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolution(channels, out, stride=stride), activation(), *convolution(out, out))
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else nn.Sequential(*convolution(channels, out, size=1, stride=stride))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.activation(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network (He et al., CVPR 2016) with a stage of one block a width; the first stage has 14x14 places.

    Attributes:
        num_features: channels of ``forward_features``, (B, C, H, W).
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64),
        *,
        num_classes: int = CLASSES,
        in_chans: int = 3,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, widths[-1]
        self.stem = nn.Sequential(*convolution(in_chans, widths[0], stride=2), activation())
        self.stages = nn.Sequential(
            *(
                Residual(before, width, 1 if stage == 0 else 2, activation)
                for stage, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
            )
        )
        self.head = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature map (B, C, H/4, W/4) of images (B, 3, H, W)."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, classes), or the pooled features."""
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.forward_head(self.forward_features(x))


def resnet_mini(**changes: Any) -> ResNet:
    """A residual network of five 3x3 convolutions; ``changes`` are arguments of `ResNet`."""
    # With channels last, convolutions of so few channels take a sixth less time on a CPU.
    return ResNet(**changes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class PooledAttention(Attention):
    """Self-attention whose keys and values are means over squares of ``reduction`` x ``reduction`` tokens."""

    def __init__(self, dim: int, num_heads: int, reduction: int = 1) -> None:
        super().__init__(dim, num_heads, qkv_bias=True)
        self.reduction = reduction

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Mix tokens (B, N, C) of a square grid."""
        B, N, C = x.shape
        if self.reduction == 1:
            return super().forward(x)
        side = round(N**0.5)
        pooled = nn.functional.avg_pool2d(x.transpose(1, 2).unflatten(2, (side, side)), self.reduction)
        pooled = pooled.flatten(2).transpose(1, 2)
        weight_q, weight_kv = self.qkv.weight.split((C, 2 * C))
        bias_q, bias_kv = self.qkv.bias.split((C, 2 * C))
        q = nn.functional.linear(x, weight_q, bias_q).view(B, N, self.num_heads, self.head_dim).transpose(1, 2)
        kv = nn.functional.linear(pooled, weight_kv, bias_kv).view(B, -1, 2, self.num_heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(B, N, C))


class PyramidBlock(nn.Module):
    """Attention and an MLP, each behind a norm and beside a shortcut: (B, N, C) to (B, N, C)."""

    def __init__(self, dim: int, attention: nn.Module, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), attention
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Pyramid(nn.Module):
    """A hierarchical vision transformer without class token: 14x14 tokens, then 7x7 of twice the channels.

    Attention of the first stage looks at means over 2x2 tokens (as PVT's reduces its keys), that of the second at all
    tokens. Positions are known from the convolutions of the stem and between the stages, so any size that is a multiple
    of four pixels works.

    Args:
        attention: makes the attention of a block from C, heads and the stage (0 or 1).
    """

    def __init__(
        self,
        dims: Sequence[int] = (16, 48),
        depths: Sequence[int] = (1, 2),
        num_heads: Sequence[int] = (1, 3),
        *,
        num_classes: int = CLASSES,
        mlp_ratio: float = 2.0,
        attention: Callable[[int, int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, dims[-1]
        make = attention or (lambda dim, heads, stage: PooledAttention(dim, heads, 2 if stage == 0 else 1))
        self.stem = nn.Sequential(
            *convolution(3, 16, stride=2), nn.ReLU(inplace=True), nn.Conv2d(16, dims[0], 3, padding=1)
        )
        self.downsample = nn.Conv2d(dims[0], dims[1], 3, stride=2, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(PyramidBlock(dim, make(dim, heads, stage), mlp_ratio) for _ in range(depth)))
            for stage, (dim, depth, heads) in enumerate(zip(dims, depths, num_heads, strict=True))
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Normed tokens (B, H/4 x W/4, C) of images (B, 3, H, W)."""
        x = self._stage(0, self.stem(x))
        x = self._stage(1, self.downsample(x))
        return self.norm(x.flatten(2).transpose(1, 2))

    def _stage(self, number: int, x: Tensor) -> Tensor:
        tokens = self.stages[number](x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, classes), or the mean token."""
        pooled = x.mean(dim=1)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.forward_head(self.forward_features(x))


def pyramid_mini(**changes: Any) -> Pyramid:
    """A hierarchical vision transformer; ``changes`` are arguments of `Pyramid`."""
    model = Pyramid(**changes)
    initialise(model)
    return model


def convolution(channels: int, out: int, *, size: int = 3, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias, and batch norm."""
    return nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(out)


def initialise(model: nn.Module) -> None:
    """Start a small network so that it learns in a few hundred steps, in place.

    Libraries start linear layers with weights that are 0.02 large, which is right for hundreds of channels and too
    small for 48: PyTorch's own uniform start, whose size follows from the width, takes their place. The last layer of
    each residual branch starts at zero, so that the network starts as its stem and its classifier (Zhang et al.,
    "Fixup Initialization", ICLR 2019). What they bring is in docs/bench.md.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        module.reset_parameters()
        if name.endswith(("attn.proj", "mlp.fc2", "mlp_tokens.fc2", "mlp_channels.fc2")):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
