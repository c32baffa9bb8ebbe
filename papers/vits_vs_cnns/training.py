"""Adversarial training as released: one step up the loss, from noise or from the image itself.

The release draws for each pass whether the attack starts from noise: where a number is above the share of passes that
are to start from the image. It draws that number from a normal distribution where a uniform one is meant, so that for
a share of 0.2 it is 58 % of the passes, and for 0 a half, that start from the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from common.bench import per_channel
from common.errors import UserError, nearest
from common.robustness.attacks import Pgd
from common.training.adversarial import AdversarialTraining
from common.training.batch import Batch
from common.training.hooks import Hook, Training
from common.training.recipe import Recipe

DRAWS = ("uniform", "released")


@dataclass(frozen=True)
class AdversarialSettings:
    """The recipe's ``method`` table.

    Attributes:
        epsilon, step: of the attack, in pixel units.
        steps: of the attack; 0 trains plainly.
        from_image: share of passes whose attack starts from the image, in place of noise.
        draw: ``uniform``, or ``released``: see above.

    Raises:
        UserError: a value is out of range.
    """

    epsilon: float
    step: float
    steps: int
    from_image: float
    draw: str

    def __post_init__(self) -> None:
        if self.draw not in DRAWS:
            raise UserError(f"method.draw = {self.draw!r}.{nearest(self.draw, DRAWS)} It is {' or '.join(DRAWS)}.")
        if not 0 <= self.from_image <= 1:
            raise UserError(f"method.from_image = {self.from_image} is no share; give a number from 0 to 1.")

    def from_noise(self) -> bool:
        """Draw, from torch's global generator, whether the attack on a batch starts from noise."""
        drawn = torch.rand(()) if self.draw == "uniform" else torch.randn(())
        return bool(drawn >= self.from_image)


class StartDrawn(AdversarialTraining):
    """Adversarial training whose attack starts, in some passes, from the image itself."""

    def __init__(self, settings: AdversarialSettings, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(Pgd(epsilon=settings.epsilon, step=settings.step, steps=settings.steps), mean, std)
        self.settings = settings

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Draw the start, and attack the images."""
        self.attack = replace(self.attack, random_start=self.settings.from_noise())
        super().on_batch(run, batch)


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings, see ``AdversarialSettings``; none where it attacks nothing.

    Raises:
        UserError: a value is out of range, or a key is none of them.
    """
    if not recipe.method:
        return ()
    method: dict[str, Any] = dict(recipe.method)
    try:
        settings = AdversarialSettings(**method)
    except TypeError as error:
        raise UserError(f"The method table of this recipe is not that of adversarial training: {error}.") from None
    if not settings.steps:
        return ()
    return (StartDrawn(settings, per_channel(recipe.mean), per_channel(recipe.std)),)
