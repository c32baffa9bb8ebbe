"""Distillation from a pretrained teacher, as a hook.

Source: Touvron et al., "Training data-efficient image transformers & distillation through attention" (DeiT),
arXiv 2012.12877, section 4 (equations 2 and 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe


class Distillation(Hook):
    """Add the teacher's term to the loss: ``(1 - alpha) x base + alpha x distillation``.

    A model with a distillation head (timm's ``set_distilled_training``) is set to return ``(logits, distillation
    logits)`` in training; the term then applies to the second, otherwise to the logits themselves.

    Args:
        teacher: a classifier of the same classes, on the same normalised images.
        kind: ``"soft"``: temperature^2 x KL(teacher || student) at that temperature, mean over the batch; ``"hard"``:
            cross-entropy with the teacher's decision.
        alpha: share of the distillation term, in [0, 1].
        temperature: of the soft form, positive.
    """

    def __init__(self, teacher: nn.Module, kind: str, alpha: float, temperature: float) -> None:
        self.teacher, self.kind, self.alpha, self.temperature = teacher, kind, alpha, temperature

    @classmethod
    def of(cls, recipe: Recipe, teacher: nn.Module) -> Distillation:
        """As a recipe says, from this teacher."""
        return cls(teacher, recipe.distillation, recipe.distillation_alpha, recipe.distillation_temperature)

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Have the model return the outputs of both its heads in training, where it has two."""
        if hasattr(model, "set_distilled_training"):
            model.set_distilled_training(True)  # type: ignore[operator]

    def start(self, run: Training) -> None:
        """Put the teacher on the run's device, frozen."""
        self.teacher.to(run.device).eval().requires_grad_(False)

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Return the weighted sum."""
        student = batch.outputs[1] if isinstance(batch.outputs, tuple | list) else batch.logits
        with torch.no_grad(), run.accelerator.autocast():
            teacher = self.teacher(batch.images)
        if self.kind == "hard":
            term = F.cross_entropy(student, teacher.argmax(dim=1))
        else:
            at = self.temperature
            term = F.kl_div(
                F.log_softmax(student / at, dim=1),
                F.log_softmax(teacher.float() / at, dim=1),
                reduction="batchmean",
                log_target=True,
            ) * (at * at)
        return (1 - self.alpha) * loss + self.alpha * term


def with_teacher(recipe: Recipe, hooks: Sequence[Hook], teacher: nn.Module) -> list[Hook]:
    """Return the hooks with a teacher: that of the hook that asks for one, by an attribute ``teacher`` that is None, or
    one from which the model learns as the recipe's ``distillation`` says.
    """
    asking = [hook for hook in hooks if getattr(hook, "teacher", hook) is None]
    for hook in asking:
        hook.teacher = teacher  # type: ignore[attr-defined]
    return list(hooks) if asking else [Distillation.of(recipe, teacher), *hooks]


def with_distillation(recipe: Recipe, hooks: Sequence[Hook]) -> list[Hook]:
    """Return the hooks, with the recipe's distillation added unless one of them is a `Distillation` already.

    The teacher is timm's pretrained model; pass a `Distillation` of one's own to use another.

    Raises:
        UserError: timm does not know the teacher, or its weights cannot be had.
    """
    if recipe.distillation == "none" or any(isinstance(hook, Distillation) for hook in hooks):
        return list(hooks)
    name = recipe.distillation_teacher
    try:
        teacher = timm.create_model(name, pretrained=True, num_classes=recipe.num_classes)
    except Exception as error:  # of what downloads, too, which has errors of its own (network, proxy)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"The distillation teacher {name} cannot be loaded ({reason}).") from None
    return [*hooks, Distillation.of(recipe, teacher)]
