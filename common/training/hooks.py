"""How a paper changes a training step without touching the loop.

A paper derives from `Hook` and overrides what it needs; the loop calls the hooks of a run in the order given. A
module of the model needs no hook to be told of an optimizer step, see :class:`common.protocols.ListensToSteps`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from common.errors import UserError
from common.training.batch import Batch
from common.training.data import Plan
from common.training.preparation import Preparation
from common.training.recipe import Recipe


class Training(Protocol):
    """What a hook sees of the training that calls it."""

    recipe: Recipe
    plan: Plan
    device: torch.device
    accelerator: Accelerator
    plain_model: nn.Module  # as it was given
    model: nn.Module  # wrapped for several devices
    optimizer: torch.optim.Optimizer
    criterion: nn.Module  # logits and targets to a scalar
    prepare: Preparation  # images as the data has them to a batch
    step: int  # steps done
    steps_per_epoch: int
    total_steps: int

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""

    def loss(self, batch: Batch) -> Tensor:
        """Run the model on a batch and return the loss, a scalar; fills in ``outputs`` and ``logits``."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, weighted for accumulation and scaled for the precision."""


class Hook:
    """Base of the hooks; each method does nothing unless overridden.

    Attributes:
        views: into how many images each one is augmented, independently. A hook that asks for more than one makes
            what the model takes of ``Batch.images`` in ``on_batch``.
        copies: how many images the model takes for each one of the batch, as a mean over the training; estimates of
            cost ask.
    """

    views: int = 1
    copies: float = 1

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Before the model is put on its devices and has an optimizer: freeze or convert modules, in place."""

    def start(self, run: Training) -> None:
        """Before the first step of this process: ``run.model`` and ``run.device`` are ready."""

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Before the forward pass: change images and targets (mixing, an adversarial inner loop, an extra pass)."""

    def on_output(self, run: Training, batch: Batch) -> None:
        """After the forward pass and before the loss: change logits or targets (labels mixed by attention)."""

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Return the loss to be minimised, a scalar (a consistency or distillation term added)."""
        return loss

    def on_step(self, run: Training) -> None:
        """After each step of the optimizer; ``run.step`` is the number of steps done."""

    def finish(self, run: Training) -> None:
        """After the last step of this process, also where the run was interrupted or failed."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a resume, as tensors and plain data."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


class ExtraPass(Hook):
    """Train on a changed copy of each batch as well, in a pass of its own before the clean one.

    Args:
        change: images (B, C, H, W), normalised, to changed images of the same shape.
        gradient: ``"kept"`` adds the gradient of the loss on the changed images to that of the clean loss.
            ``"discarded"`` runs the changed images through the model for its batch statistics alone: what code does
            that back-propagates the extra loss and then clears the gradients, at a third of the cost.
    """

    def __init__(self, change: Callable[[Tensor], Tensor], gradient: str = "kept") -> None:
        if gradient not in ("kept", "discarded"):
            raise UserError(f"The gradient of an extra pass is kept or discarded, not {gradient!r}.")
        self.change = change
        self.gradient = gradient

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Make the extra pass."""
        images = self.change(batch.images)
        if self.gradient == "discarded":
            with torch.no_grad():
                run.model(images)
            return
        extra = Batch(images, batch.labels, batch.targets, batch.mixed)
        with run.accelerator.no_sync(run.model):  # the clean pass's backward sums over processes
            run.backward(run.loss(extra))
