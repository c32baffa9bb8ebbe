"""Dropout as released: one rate after the position embeddings, the attention and both layers of the MLP.

The rate of timm's networks that a recipe's ``drop_rate`` sets is another one, before the classifier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from common.errors import UserError
from common.training.hooks import Hook, Training
from common.training.recipe import Recipe

#: timm's names of the places.
_PLACES = re.compile(r"pos_drop|blocks\.\d+\.(attn\.proj_drop|mlp\.drop[12])")


class Dropout(Hook):
    """Drop activations with probability ``rate`` at all places of the release."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Set the rate."""
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and _PLACES.fullmatch(name):
                module.p = self.rate


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings: ``dropout``, a rate; a recipe without it has none.

    Raises:
        UserError: the rate is no probability below 1.
    """
    rate = float(recipe.method.get("dropout", 0.0))
    if not 0 <= rate < 1:
        raise UserError(f"method.dropout is a rate from 0 to below 1, not {rate:g}.")
    return (Dropout(rate),) if rate else ()
