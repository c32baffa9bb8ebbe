"""Soft Augmentation as a hook: it crops a batch, softens the targets, and has a loss of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import RandAugment

from common.errors import UserError, nearest
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.soft_augmentation.method import (
    ATTEMPTS,
    REWEIGHTING,
    confidence,
    crop,
    focal_loss,
    offsets,
    soft_target_loss,
    targets,
    visibility,
)

LOSSES = ("cross_entropy", "focal", "soft_target")
#: Recipe keys that must be off beside soft targets, which are made of class indices.
EXCLUDED = ("mixup", "cutmix", "label_smoothing")


@dataclass(frozen=True)
class SoftAugmentationSettings:
    """The recipe's ``method`` table.

    Attributes:
        loss: ``soft_target`` (Soft Augmentation), ``cross_entropy``, the recipe's own (of cropped images these are hard
            targets), or ``focal``.
        rand_augment: whether torchvision's RandAugment, with its defaults, is applied to each image before the crop.
        sigma: standard deviation of the crop's offset as a share of the image's side; 0: no crops.
        cropped: share of the training, from its start, with crops; afterwards images are whole.
        background: standard deviation of the value outside of the image, of normalised images.
        power, highest, threshold: see `method.confidence`.
        over_union: see `method.visibility`.
        soften: whether targets are softened.
        reweight: ``image``, ``batch`` or ``none``, see `method.soft_target_loss`.
        gamma: of the focal loss.

    Raises:
        UserError: a value is out of range.
    """

    loss: str
    rand_augment: bool
    sigma: float
    cropped: float
    background: float
    power: float
    highest: float
    threshold: float
    over_union: bool
    soften: bool
    reweight: str
    gamma: float

    def __post_init__(self) -> None:
        for name, known in (("loss", LOSSES), ("reweight", REWEIGHTING)):
            if (word := getattr(self, name)) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {word!r}.{nearest(word, known)}")
        for name in ("sigma", "background", "power", "gamma"):
            if (value := getattr(self, name)) < 0:
                raise UserError(f"{name} cannot be below 0: {value}.")
        for name in ("cropped", "highest", "threshold"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise UserError(f"{name} lies between 0 and 1: {value}.")
        if not self.threshold:
            raise UserError("threshold is the share of an image above which targets are not softened, above 0.")


class SoftAugmentation(Hook):
    """Crop images by random offsets; soften targets by what is left in view.

    Args:
        settings: of the method.
        mean, std: with which the images of a batch are normalised.
    """

    def __init__(self, settings: SoftAugmentationSettings, mean: Sequence[float], std: Sequence[float]) -> None:
        self.settings = settings
        self._mean, self._std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self._rand_augment = RandAugment()
        self._confident: Tensor | None = None  # (B,), between the crop and the loss

    def start(self, run: Training) -> None:
        """Have the statistics on the run's device."""
        self._mean, self._std = self._mean.to(run.device), self._std.to(run.device)

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Crop, as long as the training is in its part with crops; draws follow torch's global generator."""
        settings = self.settings
        if settings.rand_augment:
            batch.images = self._augmented(batch.images)
        images = batch.images
        count, channels, height, width = images.shape
        cropping = run.step < settings.cropped * run.total_steps
        offset = torch.zeros(count, 2, dtype=torch.long)
        if settings.sigma and cropping:
            background = settings.background * torch.randn(count, channels)
            axes = [offsets(torch.randn(count, ATTEMPTS), settings.sigma * size, size) for size in (height, width)]
            offset = torch.stack(axes, dim=1)
            batch.images = crop(images, offset.to(images.device), background.to(images.device))
        if settings.loss == "soft_target":
            visible = visibility(offset, height, width, over_union=settings.over_union)
            classes = run.recipe.num_classes
            confident = confidence(
                visible, classes, power=settings.power, highest=settings.highest, threshold=settings.threshold
            )
            self._confident = confident.to(images.device)
            if settings.soften:
                batch.targets = targets(batch.labels, self._confident, classes)

    def _augmented(self, images: Tensor) -> Tensor:
        """RandAugment's form of each of the normalised images; it works on bytes."""
        pixels = (images * self._std + self._mean).round_().clamp_(0, 255).to(torch.uint8)
        return (torch.stack([self._rand_augment(image) for image in pixels]) - self._mean) / self._std

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Put the loss in place of the recipe's."""
        settings = self.settings
        if settings.loss == "focal":
            return focal_loss(batch.logits.float(), batch.labels, settings.gamma)
        if self._confident is None:
            return loss
        confident, self._confident = self._confident, None
        return soft_target_loss(
            batch.logits.float(), batch.labels, confident, reweight=settings.reweight, soften=settings.soften
        )


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings, see `SoftAugmentationSettings`.

    Raises:
        UserError: a value is out of range, or the recipe changes labels, too.
    """
    method: dict[str, Any] = dict(recipe.method)
    try:
        settings = SoftAugmentationSettings(**method)
    except TypeError as error:
        raise UserError(f"The method table of this recipe is not Soft Augmentation's: {error}.") from None
    for key in EXCLUDED:
        if getattr(recipe, key) and settings.loss != "cross_entropy":
            raise UserError(
                f"The {settings.loss} loss of Soft Augmentation makes targets of class indices: set {key}=0, or "
                "method.loss=cross_entropy."
            )
    return (SoftAugmentation(settings, recipe.mean, recipe.std),)
