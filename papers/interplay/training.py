"""Adversarial training by PGD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.bench import per_channel
from common.errors import UserError
from common.robustness.attacks import Pgd
from common.training.adversarial import AdversarialTraining
from common.training.hooks import Hook
from common.training.recipe import Recipe


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The attack whose settings are a recipe's ``method`` table; none where it makes no step.

    Raises:
        UserError: a value is out of range, or a key is none of ``Pgd``.
    """
    if not recipe.method:
        return ()
    settings: dict[str, Any] = dict(recipe.method)
    try:
        attack = Pgd(**settings)
    except TypeError as error:
        raise UserError(f"The method table of this recipe is not that of PGD: {error}.") from None
    if not attack.steps:
        return ()
    return (AdversarialTraining(attack, per_channel(recipe.mean), per_channel(recipe.std)),)
