"""Weights of the starred RVT for another grid of tokens, for images larger than those that they were trained on.

Position-aware scaling has a factor for each pair of places. Neither publication nor release says how it is resized; it
is interpolated over both places, as position embeddings are over one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError


def resize_grid(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """``state_dict``, whose names are the model's, with scaling for the model's grid; both grids are square.

    Raises:
        UserError: the grid of the file or of the model is not square.
    """
    own = model.state_dict()
    return {
        name: _interpolate(value, own[name].shape[-1], name)
        if name.endswith(".att_mask") and name in own and own[name].shape != value.shape
        else value
        for name, value in state_dict.items()
    }


def _interpolate(scaling: Tensor, tokens: int, name: str) -> Tensor:
    """Logits of factors (h, N, N) for ``tokens`` places: (h, tokens, tokens)."""
    heads, old = scaling.shape[:2]
    side, new = (round(count**0.5) for count in (old, tokens))
    if side * side != old or new * new != tokens:
        raise UserError(f"{name} is resized between square grids only, and has {old} tokens where {tokens} are wanted.")
    for _ in range(2):  # over the last place; the transpose brings the other one there
        maps = scaling.reshape(heads, -1, side, side)
        maps = F.interpolate(maps, (new, new), mode="bicubic", antialias=True, align_corners=False)
        scaling = maps.flatten(2).transpose(1, 2)
    return scaling.contiguous()
