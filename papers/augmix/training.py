"""What AugMix changes about training: augmented images, and a term that makes predictions for them agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.augmix import pillow
from papers.augmix.draws import AugMixSettings, Draws
from papers.augmix.method import augment_and_mix, jensen_shannon

#: Pixels of an image up to which a CPU augments a batch at once faster than Pillow its images (the claim ``cost``).
BATCHED_ON_CPU = 40 * 40
#: Recipe keys that must be off beside AugMix, which works on whole bytes and has labels and logits of its own.
EXCLUDED = ("mixup", "cutmix", "random_erasing")


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings.

    ``augmix``: whether images are augmented; ``severity``, ``width``, ``depth``, ``alpha``, ``all_operations``: see
    ``draws.AugMixSettings``; ``consistency``: weight of the Jensen-Shannon term, 0 trains on one augmented image in
    place of each clean one; ``per_image``: augment with Pillow, image by image, in the released order of draws;
    ``decay_all``: let weight decay act on biases and norms too.

    Raises:
        UserError: a value is out of range, or the recipe changes images in a way that AugMix cannot follow.
    """
    method = recipe.method
    chosen: list[Hook] = [DecayAll(recipe.weight_decay)] if method["decay_all"] else []
    if not method["augmix"]:
        return chosen
    for key in EXCLUDED:
        if getattr(recipe, key):
            raise UserError(f"AugMix needs images as they are: set {key}=0, or method.augmix=false.")
    if recipe.distillation != "none":
        raise UserError("AugMix has no form with distillation: set distillation=none, or method.augmix=false.")
    settings = AugMixSettings(
        severity=float(method["severity"]),
        width=int(method["width"]),
        depth=int(method["depth"]),
        alpha=float(method["alpha"]),
        all_operations=bool(method["all_operations"]),
    )
    augmix = AugMix(settings, float(method["consistency"]), recipe.mean, recipe.std, bool(method["per_image"]))
    return [*chosen, augmix]


class Consistent(Hook):
    """Train on augmented images, or on clean ones with predictions that agree for augmented ones.

    Args:
        consistency: weight of the Jensen-Shannon term. Above 0, each image goes through the model three times in one
            pass, clean and augmented twice; cross-entropy is on the clean ones. At 0, each image is replaced by an
            augmented one.
    """

    def __init__(self, consistency: float) -> None:
        if consistency < 0:
            raise UserError(f"The weight of the consistency term must be at least 0, not {consistency}.")
        self.consistency = consistency
        self.copies = 3 if consistency else 1
        self._logits: Tensor | None = None  # (3, B, classes), between the forward pass and the loss

    def augmented(self, images: Tensor) -> Tensor:
        """An augmented image for each of (B, C, H, W), both normalised."""
        raise NotImplementedError

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Replace images by augmented ones, or add two augmented ones to each."""
        clean = batch.images
        views = [self.augmented(clean) for _ in range(2 if self.consistency else 1)]
        batch.images = torch.cat([clean, *views]) if self.consistency else views[0]

    def on_output(self, run: Training, batch: Batch) -> None:
        """Keep the clean images' logits for the loss, and all of them for the consistency term."""
        if self.consistency:
            self._logits = batch.logits.view(3, -1, batch.logits.shape[-1])
            batch.logits = self._logits[0]

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Add the consistency term."""
        if self._logits is None:
            return loss
        logits, self._logits = self._logits, None
        return loss + self.consistency * jensen_shannon(logits.float())


class AugMix(Consistent):
    """Train on AugMix's images, see `Consistent`.

    Args:
        settings: of the augmentation.
        consistency: weight of the Jensen-Shannon term.
        mean, std: with which the images of a batch are normalised.
        per_image: augment with Pillow, one image after another, with draws in the released order. Otherwise a batch
            is augmented at once where that is faster: everywhere but for large images on a CPU.
    """

    def __init__(
        self,
        settings: AugMixSettings,
        consistency: float,
        mean: Sequence[float],
        std: Sequence[float],
        per_image: bool = False,
    ) -> None:
        super().__init__(consistency)
        self.settings, self.per_image = settings, per_image
        self._mean, self._std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def start(self, run: Training) -> None:
        """Have the statistics on the run's device."""
        self._mean, self._std = self._mean.to(run.device), self._std.to(run.device)

    def augmented(self, images: Tensor) -> Tensor:
        """An augmented image for each of (B, C, H, W), both normalised."""
        return self.augment((images * self._std + self._mean).round_().clamp_(0, 255).to(torch.uint8))

    def augment(self, pixels: Tensor) -> Tensor:
        """Return a normalised augmented image for each of (B, C, H, W) uint8; draws follow NumPy's global generator."""
        if self.per_image:
            random = np.random.RandomState(np.random.randint(0, 2**32, dtype=np.uint32))  # noqa: NPY002
            draws = Draws.in_released_order(len(pixels), self.settings, random)
        else:
            generator = np.random.default_rng(np.random.randint(0, 2**32, 4, dtype=np.uint32))  # noqa: NPY002
            draws = Draws.sample(len(pixels), self.settings, generator)
        # Both forms give the same for the same draws, so that only speed decides.
        slow = pixels.device.type == "cpu" and pixels[0, 0].numel() > BATCHED_ON_CPU
        mixed = _one_by_one(pixels, draws) if self.per_image or slow else augment_and_mix(pixels, draws)
        return mixed.sub_(self._mean).div_(self._std)


def _one_by_one(pixels: Tensor, draws: Draws) -> Tensor:
    """``augment_and_mix`` by Pillow."""
    arrays = pixels.permute(0, 2, 3, 1).cpu().numpy()
    arrays = arrays[..., 0] if arrays.shape[-1] == 1 else arrays
    augmented = np.stack([pillow.augment_and_mix(image, draws, index) for index, image in enumerate(arrays)])
    mixed = torch.from_numpy(augmented).view(len(pixels), *pixels.shape[2:], -1).permute(0, 3, 1, 2)
    return mixed.to(pixels.device).contiguous()


class DecayAll(Hook):
    """Let weight decay act on every parameter, as torch's optimizers do unless told otherwise."""

    def __init__(self, weight_decay: float) -> None:
        self.weight_decay = weight_decay

    def start(self, run: Training) -> None:
        """Set it in all groups of the optimizer."""
        for group in run.optimizer.param_groups:
            group["weight_decay"] = self.weight_decay
