"""What PRIME changes about training: augmented images, and AugMix's term that makes predictions for them agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.training.hooks import Hook, Training
from common.training.recipe import Recipe
from papers.augmix.training import EXCLUDED, Consistent, DecayAll
from papers.prime.draws import Draws, PrimeSettings
from papers.prime.method import augment

#: Keys of a recipe's method table that are no settings of the augmentation.
OTHER_KEYS = ("prime", "consistency", "decay_all")


class Prime(Consistent):
    """Train on PRIME's images, see `papers.augmix.training.Consistent`.

    Args:
        settings: of the augmentation.
        consistency: weight of the Jensen-Shannon term.
        mean, std: with which the images of a batch are normalised.
    """

    def __init__(
        self, settings: PrimeSettings, consistency: float, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(consistency)
        self.settings = settings
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def start(self, run: Training) -> None:
        """Have the statistics on the run's device."""
        self._mean, self._std = self._mean.to(run.device), self._std.to(run.device)

    def augmented(self, images: Tensor) -> Tensor:
        """An augmented image for each of (B, C, H, W), both normalised; draws follow torch's global generator."""
        pixels = (images * self._std + self._mean).clamp_(0, 1)
        return augment(pixels, Draws.sample(pixels, self.settings)).sub_(self._mean).div_(self._std)


def settings_of(recipe: Recipe) -> PrimeSettings:
    """The settings of the augmentation in a recipe's method table.

    Raises:
        UserError: a value is out of range, or a key is not PRIME's.
    """
    method: dict[str, Any] = {key: value for key, value in recipe.method.items() if key not in OTHER_KEYS}
    try:
        return PrimeSettings(**method)
    except TypeError as error:
        raise UserError(f"The method table of this recipe is not PRIME's: {error}.") from None


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings.

    ``prime``: whether images are augmented; ``consistency``: weight of the Jensen-Shannon term, 0 trains on one
    augmented image in place of each clean one; ``decay_all``: let weight decay act on biases and norms too; all others
    are those of `draws.PrimeSettings`.

    Raises:
        UserError: a value is out of range, or the recipe changes images in a way that PRIME cannot follow.
    """
    settings = settings_of(recipe)
    chosen: list[Hook] = [DecayAll(recipe.weight_decay)] if recipe.method["decay_all"] else []
    if not recipe.method["prime"]:
        return chosen
    for key in EXCLUDED:
        if getattr(recipe, key):
            raise UserError(f"PRIME needs images as they are: set {key}=0, or method.prime=false.")
    if recipe.distillation != "none":
        raise UserError("PRIME has no form with distillation: set distillation=none, or method.prime=false.")
    return [*chosen, Prime(settings, float(recipe.method["consistency"]), recipe.mean, recipe.std)]
