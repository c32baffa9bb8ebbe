"""Names of TNT's released files: the network itself is timm's.

Han et al., "Transformer in Transformer", NeurIPS 2021, arXiv 2103.00112. The release calls what concerns words (4 x 4
pixels) inner and what concerns sentences (the patches of 16 x 16 pixels that they make up) outer; timm calls them pixel
and patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from common.errors import UserError

#: Parts of released names and timm's; all others are alike.
_PARTS = {
    "inner_pos": "pixel_pos", "outer_pos": "patch_pos", "patch_embed": "pixel_embed",
    "proj_norm1": "norm1_proj", "proj_norm2": "norm2_proj",
    "inner_norm1": "norm_in", "inner_attn": "attn_in", "inner_norm2": "norm_mlp_in", "inner_mlp": "mlp_in",
    "outer_norm1": "norm_out", "outer_attn": "attn_out", "outer_norm2": "norm_mlp", "outer_mlp": "mlp",
}  # fmt: skip
_RELEASED = {ours: released for released, ours in _PARTS.items()}
#: Stored by the release, zeros of (1, patches, width), and read by nothing.
_UNREAD = "outer_tokens"


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Released names to timm's; names of timm stay."""
    ours = {_renamed(name, _PARTS): value for name, value in state_dict.items()}
    positions, words, unread = (ours.get(name) for name in ("patch_pos", "pixel_pos", _UNREAD))
    if positions is not None and positions.ndim == 3:
        _, length, width = positions.shape
        if unread is not None and unread.shape == (1, length - 1, width):
            del ours[_UNREAD]
    grid = model.pixel_pos.shape[2:]
    if words is not None and words.ndim == 3 and words.shape[1] == grid.numel():
        ours["pixel_pos"] = words.transpose(1, 2).unflatten(2, grid)
    return ours


def resize_grid(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Positions of the patches for a model that is built for images of another size, interpolated bicubically."""
    fitting = dict(state_dict)
    positions = fitting.get("patch_pos")
    if positions is not None and positions.ndim == 3 and positions.shape[1] != model.patch_pos.shape[1]:
        places = positions.shape[1] - 1  # without the class token's
        if math.isqrt(places) ** 2 != places:
            raise UserError(f"patch_pos is of {places} places in the file, no square grid, and cannot be resized.")
        fitting["patch_pos"] = resample_abs_pos_embed(positions, list(model.pixel_embed.grid_size))
    return fitting


def released_state_dict(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Names of timm to released ones; the inverse of :func:`checkpoint_filter_fn`.

    What nothing reads becomes zeros, as the release builds it. timm's legacy network, which is that of an earlier
    release, keeps timm's names.
    """
    if model.pixel_embed.legacy:
        return dict(state_dict)
    released = {_renamed(name, _RELEASED): value for name, value in state_dict.items()}
    released["inner_pos"] = released["inner_pos"].flatten(2).transpose(1, 2)
    return {**released, _UNREAD: torch.zeros(1, model.num_patches, model.embed_dim)}


def _renamed(name: str, parts: Mapping[str, str]) -> str:
    return ".".join(parts.get(part, part) for part in name.split("."))
