"""FAN-Swin: timm's Swin transformer with channel attention in place of the MLP in all stages but the last.

Zhou et al., "Understanding The Robustness in Vision Transformers", ICML 2022, arXiv 2204.12451. Unlike in FAN-ViT, the
convolutions in the MLP of channel attention have no residual connection around them, and nothing scales the residual
branches of a block.

Released names differ from timm's in two places: the downsampling belongs to the end of a stage, and the classifier
is called ``head`` rather than ``head.fc``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resize_rel_pos_bias_table
from timm.models._builder import build_model_with_cfg
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn

from papers.fan.layers import ChannelAttention, heads

#: One row a variant; widths, depths and heads are those of Swin. Windows have 7x7 tokens.
VARIANTS: dict[str, dict[str, Any]] = {
    "fan_swin_tiny_patch4_window7_224": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "fan_swin_small_patch4_window7_224": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "fan_swin_base_patch4_window7_224": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "fan_swin_large_patch4_window7_224": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}


class ChannelAttentionBlock(SwinTransformerBlock):
    """A Swin block whose MLP is channel attention: (B, H, W, C) -> (B, H, W, C)."""

    @classmethod
    def convert(cls, block: SwinTransformerBlock) -> None:
        """Turn a Swin block into one with channel attention; the rest of it stays as it is."""
        block.__class__ = cls
        block.mlp = ChannelAttention(
            block.mlp.fc1.in_features,
            block.attn.num_heads,
            block.mlp.fc1.out_features,
            qkv_bias=block.attn.qkv.bias is not None,
            attn_drop=block.attn.attn_drop.p,
            drop=block.mlp.drop1.p,
            shortcut=False,
        )

    def after_tokens(self, x: Tensor) -> Tensor:
        """What channel attention sees: ``x`` (B, H, W, C) after attention within windows."""
        return x + self.drop_path1(self._attn(self.norm1(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``x`` (B, H, W, C)."""
        x = self.after_tokens(x)
        grid = (x.shape[1], x.shape[2])
        x = x.flatten(1, 2)
        return (x + self.drop_path2(self.mlp(self.norm2(x), grid))).unflatten(1, grid)


class FullyAttentionalSwin(SwinTransformer):
    """FAN-Swin; arguments are those of timm's Swin transformer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for stage in self.layers[:-1]:
            for block in stage.blocks:
                ChannelAttentionBlock.convert(block)

    def _blocks(self, x: Tensor) -> Iterator[tuple[SwinTransformerBlock, Tensor]]:
        """Run the model; yields each block and its input (B, H, W, C)."""
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage.downsample(x)
            for block in stage.blocks:
                yield block, x
                x = block(x)

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """Where each block's tokens attend: images (B, in_chans, height, width) to (B, h, H, W) a block.

        A value is the share that a token receives of the attention in its own window.
        """
        return [_window_map(block, block.norm1(before)) for block, before in self._blocks(x)]

    def channel_attention(self, x: Tensor) -> list[Tensor]:
        """By what each block multiplies its channels: images to (B, h, d) a block, all stages but the last."""
        return [
            block.mlp.gate(block.norm2(block.after_tokens(before).flatten(1, 2)))
            for block, before in self._blocks(x)
            if isinstance(block, ChannelAttentionBlock)
        ]


def _window_map(block: SwinTransformerBlock, x: Tensor) -> Tensor:
    """The share of its window's attention that each token of ``x`` (B, H, W, C) receives: (B, h, H, W)."""
    height, width = x.shape[1:3]
    window, attn = block.window_size, block.attn
    x = torch.roll(x, [-shift for shift in block.shift_size], dims=(1, 2))
    x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    padded = x.shape[1:3]
    tokens = window_partition(x, window).flatten(1, 2)
    q, k, _ = (heads(part, attn.num_heads) for part in attn.qkv(tokens).chunk(3, dim=-1))
    bias = attn.relative_position_bias_table[attn.relative_position_index].permute(2, 0, 1)
    scores = (q * attn.scale) @ k.transpose(-2, -1) + bias
    mask = block.get_attn_mask(x)
    if mask is not None:
        scores = (scores.unflatten(0, (-1, mask.shape[0])) + mask.unsqueeze(1)).flatten(0, 1)
    share = scores.softmax(dim=-1).mean(dim=-2).transpose(1, 2).unflatten(1, window)
    share = window_reverse(share, window, *padded)[:, :height, :width]
    return torch.roll(share, block.shift_size, dims=(1, 2)).permute(0, 3, 1, 2)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to timm's.

    Tables of positions and masks are left out, since they follow from the sizes; relative position biases of another
    window are resized to the model's.
    """
    ours = {}
    for name, value in resize_grid(state_dict, model).items():
        if name.endswith(("relative_position_index", "attn_mask")):
            continue
        name = re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name)
        ours[re.sub(r"^head\.", "head.fc.", name)] = value
    return ours


def resize_grid(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """``state_dict``, whose names are the model's, with relative position biases for the model's windows."""
    own, fitting = model.state_dict(), dict(state_dict)
    for name, value in state_dict.items():
        if name.endswith("relative_position_bias_table") and name in own and len(value) != len(own[name]):
            window = model.get_submodule(name.rpartition(".")[0]).window_size
            fitting[name] = resize_rel_pos_bias_table(value, window, own[name].shape)
    return fitting


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Names of timm to released ones; the inverse of :func:`checkpoint_filter_fn`."""

    def released(name: str) -> str:
        name = re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
        return re.sub(r"^head\.fc\.", "head.", name)

    return {released(name): value for name, value in state_dict.items()}


def default_cfg(**overlay: Any) -> dict[str, Any]:
    """Preprocessing of the release, as timm's pretrained configuration."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head.fc",
        **overlay,
    }


def create(name: str, cfg: Any = None, **kwargs: Any) -> Any:
    """Build the variant ``name`` of :data:`VARIANTS`; ``cfg`` overrides its preprocessing."""
    out_indices = kwargs.pop("out_indices", (0, 1, 2, 3))
    return build_model_with_cfg(
        FullyAttentionalSwin, name, False, pretrained_cfg=cfg or default_cfg(architecture=name),
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"}, **{**VARIANTS[name], **kwargs},
    )  # fmt: skip
