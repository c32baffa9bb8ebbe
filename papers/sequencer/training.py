"""How the rate of stochastic depth runs over the blocks of a Sequencer in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath
from torch import nn

from common.errors import UserError, nearest
from common.training.hooks import Hook
from common.training.recipe import Recipe

COURSES = ("linear", "constant")


class LinearDropPath(Hook):
    """Let the rate grow from 0 in the first block to ``rate`` in the last, where timm's network has it in all."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def on_model(self, run: Any, model: nn.Module) -> None:
        """Replace the drop path of every block."""
        stages: Any = model.stages
        blocks = [block for stage in stages for block in stage.blocks]
        for index, block in enumerate(blocks):
            block.drop_path = DropPath(self.rate * index / max(len(blocks) - 1, 1))


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings: ``drop_path``, one of :data:`COURSES`.

    Raises:
        UserError: ``drop_path`` is something else.
    """
    course = recipe.method.get("drop_path", "constant")
    if course not in COURSES:
        raise UserError(
            f"method.drop_path is {course!r}; it must be {' or '.join(COURSES)}.{nearest(str(course), COURSES)}"
        )
    return (LinearDropPath(recipe.drop_path_rate),) if course == "linear" else ()
