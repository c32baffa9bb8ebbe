"""HAT as a hook: passes on clean and on perturbed images before the loop's own, which is the last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.hat.method import HatSettings, moved


class Hat(Hook):
    """Train on clean images and on such with perturbed high frequencies, for the first epochs.

    Args:
        settings: see ``HatSettings``.
        std: of the normalisation of images, in pixel units.
        epochs: of the whole training.
    """

    def __init__(self, settings: HatSettings, std: Sequence[float], epochs: float) -> None:
        self.settings = settings
        self.copies = 1 + (settings.passes - 1) * min(1.0, settings.adversarial_epochs / epochs)
        pixel = torch.tensor(std).view(-1, 1, 1) if settings.form == "published" else torch.ones(1, 1, 1)
        self._step, self._epsilon = settings.step / pixel, settings.epsilon / pixel  # in units of normalised images
        self._pass: int | None = None  # of a step that HAT trains
        self._clean = torch.empty(0)  # logits (B, classes) of the first pass

    def start(self, run: Training) -> None:
        """Have the steps on the run's device."""
        self._step, self._epsilon = self._step.to(run.device), self._epsilon.to(run.device)

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Make all passes but the last, and leave the perturbed images to the loop, which makes that one."""
        if self.settings.passes == 1 or run.step >= self.settings.adversarial_epochs * run.steps_per_epoch:
            return
        images, delta = batch.images, torch.zeros_like(batch.images)
        for number in range(self.settings.passes - 1):
            self._pass = number
            delta.requires_grad_()
            extra = replace(batch, images=self.settings.perturbed(images, delta))
            with run.accelerator.no_sync(run.model):  # the loop's backward sums over processes
                gradient = self._backward(run, run.loss(extra), delta)
            delta = moved(delta.detach(), gradient, self._step, self._epsilon)
        self._pass = self.settings.passes - 1
        batch.images = self.settings.perturbed(images, delta)

    def _backward(self, run: Training, loss: Tensor, delta: Tensor) -> Tensor:
        """The gradient of ``delta``, and that of the parameters where this pass trains them."""
        if self._pass == 0 or self.settings.form == "released":
            run.backward(loss)
            assert delta.grad is not None
            return delta.grad
        scaler = run.accelerator.scaler  # in half precision small gradients would vanish
        return torch.autograd.grad(loss if scaler is None else scaler.scale(loss), delta)[0]

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """The plain loss of the clean pass, and ``HatSettings.loss`` of the others."""
        if self._pass is None:
            return loss
        if self._pass == 0:
            self._clean = batch.logits.detach()
            return loss
        if self._pass == self.settings.passes - 1:
            self._pass = None
        return self.settings.loss(loss, self._clean, batch.logits)


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings, see ``HatSettings``.

    Raises:
        UserError: a value is out of range, or a key is none of them.
    """
    method: dict[str, Any] = dict(recipe.method)
    try:
        settings = HatSettings(**method)
    except TypeError as error:
        raise UserError(f"The method table of this recipe is not HAT's: {error}.") from None
    return (Hat(settings, recipe.std, recipe.total_epochs),)
