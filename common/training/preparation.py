"""From raw images to a batch: normalisation, random erasing, mixing."""

from __future__ import annotations

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from common.training.hooks import Batch
from common.training.mixing import Mixing
from common.training.optimisation import make_mixing
from common.training.recipe import Recipe


class Preparation:
    """What is done to images on the device; random draws come from the global generators."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._mean = 255 * torch.tensor(recipe.mean, device=device).view(1, -1, 1, 1)
        self._scale = 1 / (255 * torch.tensor(recipe.std, device=device).view(1, -1, 1, 1))
        mixup = make_mixing(recipe)
        self._mixing = None if mixup is None else Mixing(mixup)
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
        if self._mixing is None:
            return Batch(prepared, labels, labels)
        mixed_images, targets, mixed = self._mixing(prepared, labels)
        return Batch(mixed_images, labels, targets, mixed)
