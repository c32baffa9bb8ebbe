"""Weights that are tied to a grid of tokens, for images of another size: what fine-tuning at 384 pixels asks for.

What a paper's layers have of this kind is resized by ``resize_grid`` beside the class of its model, a
:class:`common.protocols.Conversion`.
Position embeddings of one vector a place are resized here, for every vision transformer.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping

from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from common.conversions import CONVERSIONS
from common.errors import UserError


def resized(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """``state``, whose names are the model's, with what is tied to a grid of tokens in the sizes of ``model``.

    Files are of square grids; the model's grid may be any.

    Raises:
        UserError: the grid of the file is not square.
    """
    fitting = dict(state)
    for each in type(model).__mro__:
        home = each.__module__
        declared = importlib.import_module(CONVERSIONS[home]) if home in CONVERSIONS else None
        function = getattr(declared, "resize_grid", None) or getattr(sys.modules[home], "resize_grid", None)
        if function is not None:
            fitting = function(fitting, model)
            break
    return _with_positions(fitting, model)


def _with_positions(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """``state`` with the position embeddings (1, N, C) of ``model``, interpolated bicubically as timm does."""
    own, file = getattr(model, "pos_embed", None), state.get("pos_embed")
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if not isinstance(own, Tensor) or file is None or grid is None or own.ndim != 3:
        return state
    if file.shape == own.shape or file.ndim != 3 or file.shape[::2] != own.shape[::2]:
        return state
    prefixed = own.shape[1] - math.prod(grid)  # tokens of no place, such as the class token
    places = file.shape[1] - prefixed
    if prefixed < 0 or places < 1:
        return state
    if math.isqrt(places) ** 2 != places:
        raise UserError(f"pos_embed is of {places} places in the file, no square grid, and cannot be resized.")
    return {**state, "pos_embed": resample_abs_pos_embed(file, list(grid), num_prefix_tokens=prefixed)}
