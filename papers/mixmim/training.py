"""What MixMIM changes about training: in pre-training a mask and a loss, in fine-tuning the start of the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError, nearest
from common.training.hooks import Batch, Hook, Training
from common.training.randomness import generator
from common.training.recipe import Recipe
from papers.mixmim.method import mask_of
from papers.mixmim.model import MixMIMPretraining

STAGES = ("pretrain", "finetune")


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings.

    ``stage``: ``pretrain`` or ``finetune``. Of pre-training alone: ``mask_ratio``, the share of an image's places that
    the other one fills; ``normalise_pixels``, whether patches are predicted without their own mean and deviation.

    Raises:
        UserError: a value is out of range, or the recipe asks for what pre-training has no form of.
    """
    method = recipe.method
    stage = str(method["stage"])
    if stage not in STAGES:
        raise UserError(f"stage must be one of {', '.join(STAGES)}, not {stage!r}.{nearest(stage, STAGES)}")
    if stage == "finetune":
        return [FreshClassifier()]
    for key in ("mixup", "cutmix", "label_smoothing"):
        if getattr(recipe, key):
            raise UserError(f"Pre-training has no labels to mix or smooth: set {key}=0.")
    ratio = float(method["mask_ratio"])
    if not 0 < ratio < 1:
        raise UserError(f"The share of masked places lies between 0 and 1, not at {ratio}: set method.mask_ratio.")
    return [Mixing(ratio, bool(method["normalise_pixels"]))]


class FreshClassifier(Hook):
    """Start with a classifier that is almost zero, as the release does."""

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Draw its weights."""
        classifier: Any = model.get_classifier  # timm's convention
        for parameter in classifier().parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=2e-5)
            else:
                nn.init.zeros_(parameter)


class Mixing(Hook):
    """Pre-train without labels: mix each image with its mirror in the batch, and reconstruct both.

    Labels train a classifier on the features of an image's own places, whose gradient stops there, so that a run shows
    how it goes; the encoder learns nothing from them.

    Args:
        mask_ratio: share of an image's places that the other one fills.
        normalise: see ``method.reconstruction_loss``.
    """

    def __init__(self, mask_ratio: float, normalise: bool) -> None:
        self.mask_ratio, self.normalise = mask_ratio, normalise

    def on_model(self, run: Training, model: nn.Module) -> None:
        """Have it reconstruct.

        Raises:
            UserError: it has no decoder.
        """
        if not isinstance(model, MixMIMPretraining):
            raise UserError(
                f"{type(model).__name__} has no decoder to pre-train with: choose a model named ..._pretrain."
            )
        model.pretraining = True

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Draw the mask of this step."""
        if len(batch.images) % 2:
            raise UserError(
                f"Images are mixed in pairs, not {len(batch.images)} of them: choose an even --device-batch."
            )
        model: Any = run.plain_model
        noise = torch.rand(model.places, generator=generator(run.plan.seed, "mask", run.step))
        model.mask = mask_of(noise, self.mask_ratio).to(run.device)

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Add the error of reconstruction to the loss of the classifier, which shares no parameter with it."""
        model: Any = run.plain_model
        return loss + model.loss(batch.images, batch.outputs[1], self.normalise)

    def finish(self, run: Training) -> None:
        """Leave a classifier."""
        model: Any = run.plain_model
        model.pretraining, model.mask = False, None
