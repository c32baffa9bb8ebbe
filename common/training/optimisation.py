"""Optimizer, schedule and loss of a recipe, from timm."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, get_optimizer_class
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.amp import GradScaler

from common.errors import UserError, nearest
from common.protocols import HasNoLayerAdaptation, HasNoWeightDecay
from common.training.recipe import Recipe

#: timm's names of layer-wise adaptive rates (You et al., "Large Batch Training of Convolutional Networks").
LARS = ("lars", "nlars", "larc", "nlarc")


def make_optimizer(model: nn.Module, recipe: Recipe, *, sharded: bool = False) -> torch.optim.Optimizer:
    """Return timm's optimizer; biases, norms and ``model.no_weight_decay()`` are not decayed.

    LARS adapts the rate of all parameters that would be decayed, also where ``weight_decay`` is 0, but for those that
    ``model.no_layer_adaptation()`` names, which it does not decay either.

    Raises:
        UserError: timm knows no optimizer of that name, or it does not take the recipe's values.
    """
    try:
        accepted = inspect.signature(get_optimizer_class(recipe.optimizer, bind_defaults=False)).parameters
    except ValueError:
        from timm.optim import list_optimizers

        hint = nearest(recipe.optimizer, map(str, list_optimizers()))
        raise UserError(f"timm has no optimizer {recipe.optimizer}.{hint}") from None
    extra: dict[str, Any] = {}
    if "betas" in accepted:
        extra["betas"] = recipe.optimizer_betas
    if "eps" in accepted:
        extra["eps"] = recipe.optimizer_epsilon
    if "fused" in accepted and not sharded:  # torch has not all of them for sharded parameters
        extra["fused"] = True  # one kernel for all tensors: the same update with the least overhead
    try:
        return create_optimizer_v2(
            _lars_groups(model, recipe) if recipe.optimizer in LARS else model,
            opt=recipe.optimizer,
            lr=recipe.rate("learning_rate"),
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            layer_decay=recipe.layer_decay if recipe.layer_decay != 1 else None,
            **extra,
        )
    except ValueError as error:
        raise UserError(f"timm cannot make the optimizer {recipe.optimizer} of this recipe ({error}).") from None


def _lars_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters with plain and with adapted rates: timm ties adaptation to weight decay, which may be 0."""
    if recipe.layer_decay != 1:
        raise UserError(f"{recipe.optimizer} sets the rate of each layer by itself: set layer_decay=1.")
    kept = set(model.no_weight_decay()) if isinstance(model, HasNoWeightDecay) else set()
    kept |= model.no_layer_adaptation() if isinstance(model, HasNoLayerAdaptation) else set()
    plain: list[nn.Parameter] = []
    adapted: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim <= 1 or name in kept else adapted).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": plain, "weight_decay": 0.0, "always_adapt": False},
        {"params": adapted, "weight_decay": recipe.weight_decay, "always_adapt": True},
    ]
    return [group for group in groups if group["params"]]


def update(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], clip: float, scaler: GradScaler | None
) -> None:
    """Do an optimizer's step and clear the gradients.

    Here rather than by accelerate, which looks for packages on the disk at every step.

    Args:
        optimizer: its gradients are those of one whole batch.
        parameters: the model's.
        clip: largest norm of the whole gradient; 0: any.
        scaler: of the loss, in float16; leaves the step out where a gradient has overflown.
    """
    if clip:
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad()


class Schedule:
    """The learning rate as a function of the step alone, so that nothing has to be stored to resume it.

    The schedule ``step`` divides the rate by ten after each third of the epochs. By the unit ``previous_epoch`` the
    first epoch is trained at the schedule's rate 0 and each later one at the rate of the epoch before it, as by scripts
    that call ``scheduler.step(epoch)`` at the end of ``epoch`` (DeiT's and those made from it).
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> None:
        self.optimizer, self.steps_per_epoch = optimizer, steps_per_epoch
        self.by_epoch = recipe.schedule_unit != "step"
        self.epochs_late = int(recipe.schedule_unit == "previous_epoch")
        try:
            self.scheduler, _ = create_scheduler_v2(
                optimizer,
                sched=recipe.schedule,
                num_epochs=recipe.epochs,
                warmup_epochs=recipe.warmup_epochs,  # type: ignore[arg-type]  # fractions are fine by step
                warmup_lr=recipe.rate("warmup_learning_rate"),
                min_lr=recipe.rate("min_learning_rate"),
                cooldown_epochs=recipe.cooldown_epochs,
                decay_epochs=max(1, recipe.epochs // 3),
                decay_rate=0.1,
                step_on_epochs=self.by_epoch,
                updates_per_epoch=steps_per_epoch,
            )
        except (AssertionError, ValueError) as error:
            raise UserError(f"timm cannot make the schedule {recipe.schedule} ({error}).") from None

    def set_rate(self, step: int) -> float:
        """Set the learning rate of the step ``step`` (from 0) and return its largest over the parameter groups."""
        if self.scheduler is not None:
            if not self.by_epoch:
                self.scheduler.step_update(step)
            elif step % self.steps_per_epoch == 0:
                self.restore(step)
        return max(group["lr"] for group in self.optimizer.param_groups)

    def restore(self, step: int) -> None:
        """Set the rate that holds at ``step`` when a run resumes in the middle of an epoch."""
        if self.scheduler is not None and self.by_epoch:
            self.scheduler.step(max(0, step // self.steps_per_epoch - self.epochs_late))


def make_mixing(recipe: Recipe, kind: Callable[..., Mixup] = Mixup) -> Mixup | None:
    """Return timm's mixup/cutmix, or one of another ``kind``; None where the recipe does not mix."""
    if not recipe.mixes:
        return None
    return kind(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mix_probability,
        switch_prob=recipe.mix_switch_probability,
        mode=recipe.mix_mode,
        label_smoothing=recipe.label_smoothing,
        num_classes=recipe.num_classes,
    )


def make_loss(recipe: Recipe) -> nn.Module:
    """Return cross-entropy: with mixed targets, with label smoothing, or plain."""
    if recipe.mixes:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(recipe.label_smoothing) if recipe.label_smoothing else nn.CrossEntropyLoss()
