"""What the released pre-training has beside a recipe's settings: a loss, the start of the classifier, and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError, nearest
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.vit import training as vit

LOSSES = ("cross_entropy", "sigmoid")


class SigmoidLoss(Hook):
    """A yes or no for each class, summed over classes, mean over images; mixed images have shares of a yes."""

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Return this loss in place of the cross-entropy."""
        logits, targets = batch.logits, batch.targets
        shares = F.one_hot(targets, logits.shape[1]) if targets.ndim == 1 else targets
        return F.binary_cross_entropy_with_logits(logits, shares.to(logits.dtype), reduction="sum") / len(logits)


class HeadBias(Hook):
    """Start the biases of the classifier at ``value``, such that each class is unlikely at first."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Set the biases; a run that is resumed takes its own after that."""
        classifier: Any = model.get_classifier()  # type: ignore[operator]
        nn.init.constant_(classifier.bias, self.value)


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings; a recipe without any has none.

    ``loss``: one of `LOSSES`. ``head_bias``: what the classifier's biases start at; 0 leaves them as they are.
    ``dropout``: see `papers.vit.training`.

    Raises:
        UserError: an unknown loss, or a wrong rate of dropout.
    """
    loss = str(recipe.method.get("loss", "cross_entropy"))
    if loss not in LOSSES:
        raise UserError(f"method.loss must be one of {', '.join(LOSSES)}, not {loss!r}.{nearest(loss, LOSSES)}")
    chosen: list[Hook] = [SigmoidLoss()] if loss == "sigmoid" else []
    if bias := float(recipe.method.get("head_bias", 0.0)):
        chosen.append(HeadBias(bias))
    return [*chosen, *vit.hooks(recipe)]
