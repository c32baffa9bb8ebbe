"""What a classifier must return."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from common.errors import UserError


def logits_of(output: object) -> Tensor:
    """``output`` of a model, which must be the tensor of its logits and nothing around it.

    Raises:
        UserError: it is a tuple, a dict or another object.
    """
    if isinstance(output, Tensor):
        return output
    named = (isinstance(output, Mapping) and "logits" in output) or hasattr(output, "logits")
    raise UserError(
        f"the model returns a {type(output).__name__} where the tensor of its logits (B, K) is needed: wrap it in a "
        f"module that returns {'its logits' if named else 'the part that holds them'} alone."
    )
