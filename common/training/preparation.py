"""From raw images to a batch: normalisation, random erasing, mixing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from common.training.batch import Batch
from common.training.mixing import Mixed, Mixing
from common.training.optimisation import make_mixing
from common.training.recipe import Recipe


class Preparation:
    """What is done to images on the device; random draws come from the global generators.

    Attributes:
        mixing: mixes a batch; None where the recipe does not mix. A hook that mixes in its own way puts that in place.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._mean = 255 * torch.tensor(recipe.mean, device=device).view(1, -1, 1, 1)
        self._scale = 1 / (255 * torch.tensor(recipe.std, device=device).view(1, -1, 1, 1))
        mixup = make_mixing(recipe)
        self.mixing: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Mixed]] | None = None
        if mixup is not None:
            self.mixing = Mixing(mixup)
        self._erasing = None
        if recipe.random_erasing:
            self._erasing = RandomErasing(
                recipe.random_erasing,
                mode=recipe.random_erasing_mode,
                max_count=recipe.random_erasing_count,
                device=str(device),
            )

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images (B, C, H, W) as the model's input: scaled to [0, 1], less mean, over deviation."""
        return images.float().sub_(self._mean).mul_(self._scale)

    def training(self, images: Tensor, labels: Tensor) -> Batch:
        """Return the batch for a training step."""
        prepared = self.normalise(images)
        if self._erasing is not None:
            prepared = self._erasing(prepared)
        if self.mixing is None:
            return Batch(prepared, labels, labels)
        mixed_images, targets, mixed = self.mixing(prepared, labels)
        return Batch(mixed_images, labels, targets, mixed)
