"""What of Swin's release timm lacks: Swin-MLP, and Swin-T with 24 channels a head. All other models are timm's.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021, arXiv 2103.14030.
Swin-MLP is the release's network without attention: the tokens of a window are mixed by one matrix a head, and the
shift fills up with zeros where Swin's is cyclic.

Released names differ from timm's in two places: the downsampling belongs to the end of a stage, and the classifier is
called ``head`` rather than ``head.fc``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models._builder import build_model_with_cfg
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn

from common.errors import UserError, nearest

#: What follows from the sizes and is stored in released files all the same.
_DERIVED = ("relative_position_index", "relative_coords_table", "attn_mask")

_TINY = {"img_size": 256, "window_size": 8, "embed_dim": 96, "depths": (2, 2, 6, 2)}

#: One row a variant. The number behind c is the channels of a head.
VARIANTS: dict[str, dict[str, Any]] = {
    "swin_tiny_c24_patch4_window8_256": {**_TINY, "num_heads": (4, 8, 16, 32)},
    "swin_mlp_tiny_c24_patch4_window8_256": {**_TINY, "num_heads": (4, 8, 16, 32)},
    "swin_mlp_tiny_c12_patch4_window8_256": {**_TINY, "num_heads": (8, 16, 32, 64)},
    "swin_mlp_tiny_c6_patch4_window8_256": {**_TINY, "num_heads": (16, 32, 64, 128)},
    "swin_mlp_base_patch4_window7_224": {
        "img_size": 224, "window_size": 7, "embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32),
    },
}  # fmt: skip


class WindowMLPBlock(SwinTransformerBlock):
    """A Swin block that mixes the tokens of a window by a matrix a head: (B, H, W, C) -> (B, H, W, C)."""

    @classmethod
    def convert(cls, block: SwinTransformerBlock) -> None:
        """Turn a Swin block into one without attention; the rest of it stays as it is."""
        block.__class__ = cls
        heads = block.attn.num_heads
        rows = heads * block.window_area
        block.num_heads = heads
        block.spatial_mlp = nn.Conv1d(rows, rows, 1, groups=heads, device=block.norm1.weight.device)
        block.attn_mask = None
        del block.attn

    def _attn(self, x: Tensor) -> Tensor:
        """Mix the tokens of ``x`` (B, H, W, C) within windows, which begin ``shift_size`` tokens outside of it."""
        height, width = x.shape[1:3]
        before = [
            window - shift if shift else 0 for window, shift in zip(self.window_size, self.shift_size, strict=True)
        ]
        after = [
            -(size + offset) % window
            for size, offset, window in zip((height, width), before, self.window_size, strict=True)
        ]
        x = F.pad(x, (0, 0, before[1], after[1], before[0], after[0]))
        rows, columns = x.shape[1:3]
        windows = window_partition(x, self.window_size).flatten(1, 2)  # (windows, N, C)
        by_head = windows.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (windows, h, N, C / h)
        mixed = self.spatial_mlp(by_head.flatten(1, 2)).unflatten(1, (self.num_heads, -1))
        windows = mixed.transpose(1, 2).flatten(2).unflatten(1, self.window_size)
        x = window_reverse(windows, self.window_size, rows, columns)
        return x[:, before[0] : before[0] + height, before[1] : before[1] + width]

    def set_input_size(self, feat_size: Any, window_size: Any, always_partition: bool | None = None) -> None:
        """A matrix of tokens is of one window.

        Raises:
            UserError: the window changes with the input's size.
        """
        self.input_resolution = tuple(feat_size)
        if self._calc_window_shift(window_size)[0] != self.window_size:
            raise UserError(
                f"Swin-MLP mixes windows of {self.window_size[0]} x {self.window_size[1]} tokens; build the model with "
                "img_size for another size."
            )
        self.shift_size = self._calc_window_shift(window_size)[1]


class SwinMLP(SwinTransformer):
    """Swin-MLP; arguments are those of timm's Swin transformer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for stage in self.layers:
            for block in stage.blocks:
                WindowMLPBlock.convert(block)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to timm's, for Swin, SwinV2 and Swin-MLP; names of timm stay.

    Relative position biases of another window are resized bicubically, as the release does for fine-tuning (utils.py).

    Raises:
        UserError: a SwinV2 scales the distances of tokens by another window than the file's network.
    """
    modules = dict(model.named_modules())
    released = "layers.0.downsample.reduction.weight" in state_dict
    ours = {}
    for name, value in state_dict.items():
        attn = modules.get(name.rpartition(".")[0])
        if name.endswith("relative_coords_table"):
            _check_scale(value, attn)
        if name.endswith(_DERIVED):
            continue
        if name.endswith("relative_position_bias_table"):
            value = _resized(value, attn)
        if released:
            name = re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name)
            name = re.sub(r"^head\.", "head.fc.", name)
        ours[name] = value
    return ours


def resize_grid(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """``state_dict``, whose names are the model's, with relative position biases for the model's windows."""
    modules = dict(model.named_modules())
    return {
        name: _resized(value, modules.get(name.rpartition(".")[0]))
        if name.endswith("relative_position_bias_table")
        else value
        for name, value in state_dict.items()
    }


def _resized(table: Tensor, attn: Any) -> Tensor:
    """A table of biases (distances, heads) for the window of ``attn``; as it is where heads or windows do not fit."""
    own = getattr(attn, "relative_position_bias_table", None)
    side = math.isqrt(len(table))
    if own is None or table.shape == own.shape or table.shape[1:] != own.shape[1:] or side**2 != len(table):
        return table
    size = [2 * window - 1 for window in attn.window_size]
    grid = table.T.unflatten(1, (side, side)).unsqueeze(0)
    return F.interpolate(grid, size=size, mode="bicubic")[0].flatten(1).T


def _check_scale(coordinates: Tensor, attn: Any) -> None:
    """Refuse coordinates (1, rows, columns, 2) of the window of ``attn`` that another pre-training has scaled.

    SwinV2 divides distances by the largest one in the window of pre-training and takes log2(1 + 8 distance) / 3.
    Coordinates of another window than the model's do not matter: the model has its own.
    """
    own = getattr(attn, "relative_coords_table", None)
    if own is None or own.shape != coordinates.shape or coordinates.is_meta or coordinates.shape[1] == 1:
        return
    window = attn.window_size[0]
    scale = attn.pretrained_window_size[0] or window
    stored = 1 + round(8 * (window - 1) / (8 ** float(coordinates[0, -1, 0, 0]) - 1))
    if stored != scale:
        raise UserError(
            f"The file's network was pre-trained with windows of {stored} x {stored} tokens, the model with {scale} x "
            f"{scale}; build the variant that the file is for, or set pretrained_window_sizes."
        )


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Names of timm to released ones; the inverse of :func:`checkpoint_filter_fn`."""

    def released(name: str) -> str:
        name = re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
        return re.sub(r"^head\.fc\.", "head.", name)

    return {released(name): value for name, value in state_dict.items()}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build the variant ``name`` of :data:`VARIANTS`; keyword arguments are those of timm's ``SwinTransformer``.

    Raises:
        UserError: there is no such variant, or ``pretrained`` is set: weights are loaded from a released file.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no Swin called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    arguments = {"patch_size": 4, **VARIANTS[name], **kwargs}
    size = VARIANTS[name]["img_size"]
    cfg = arguments.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, size, size), "pool_size": (size // 32, size // 32),
        "crop_pct": 0.875, "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj", "classifier": "head.fc", "fixed_input_size": True,
    }  # fmt: skip
    features = {"out_indices": arguments.pop("out_indices", (0, 1, 2, 3)), "flatten_sequential": True}
    kind = SwinMLP if name.startswith("swin_mlp") else SwinTransformer
    return build_model_with_cfg(kind, name, False, pretrained_cfg=cfg, feature_cfg=features, **arguments)
