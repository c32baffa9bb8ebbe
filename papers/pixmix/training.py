"""What PixMix changes about training: each image is mixed with complex pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.augmix.training import EXCLUDED, DecayAll
from papers.pixmix.draws import Draws, PixMixSettings
from papers.pixmix.method import pixmix
from papers.pixmix.pictures import Pictures, load

#: Keys of a recipe's method table that are no settings of the mixing.
OTHER_KEYS = ("pixmix", "decay_all", "pictures", "picture_size")


class PixMix(Hook):
    """Train on images that are mixed with pictures.

    Args:
        settings: of the mixing.
        pictures, picture_size: see `papers.pixmix.pictures.load`.
        mean, std: with which the images of a batch are normalised.
    """

    def __init__(
        self, settings: PixMixSettings, pictures: str, picture_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.settings, self.pictures, self.picture_size = settings, pictures, picture_size
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self._set: Pictures | None = None

    def start(self, run: Training) -> None:
        """Find the pictures, and have the statistics on the run's device."""
        self._set = load(self.pictures, self.picture_size)
        self._mean, self._std = self._mean.to(run.device), self._std.to(run.device)

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Mix the images; draws follow NumPy's global generator."""
        assert self._set is not None
        pixels = (255 * (batch.images * self._std + self._mean)).round_().clamp_(0, 255).to(torch.uint8)
        generator = np.random.default_rng(np.random.randint(0, 2**32, 4, dtype=np.uint32))  # noqa: NPY002
        pictures = self._set.take(len(pixels), pixels.shape[-1], generator).to(pixels.device)
        mixed = pixmix(pixels, _channels(pictures, pixels), Draws.sample(len(pixels), self.settings, generator))
        batch.images = mixed.sub_(self._mean).div_(self._std)


def _channels(pictures: Tensor, images: Tensor) -> Tensor:
    """Pictures with as many channels as the images have: their mean for images of one."""
    return pictures if images.shape[1] == 3 else pictures.float().mean(dim=1, keepdim=True).to(torch.uint8)


def settings_of(recipe: Recipe) -> PixMixSettings:
    """The settings of the mixing in a recipe's method table.

    Raises:
        UserError: a value is out of range, or a key is not PixMix's.
    """
    method: dict[str, Any] = {key: value for key, value in recipe.method.items() if key not in OTHER_KEYS}
    try:
        return PixMixSettings(**method)
    except TypeError as error:
        raise UserError(f"The method table of this recipe is not PixMix's: {error}.") from None


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings.

    ``pixmix``: whether images are mixed; ``pictures``: a folder of pictures, or ``fractals``; ``picture_size``: to
    which their shorter side is resized; ``decay_all``: let weight decay act on biases and norms too; all others are
    those of `draws.PixMixSettings`.

    Raises:
        UserError: a value is out of range, or the recipe changes images in a way that PixMix cannot follow.
    """
    settings = settings_of(recipe)
    on, decay_all, pictures, size = (recipe.method[key] for key in OTHER_KEYS)
    chosen: list[Hook] = [DecayAll(recipe.weight_decay)] if decay_all else []
    if not on:
        return chosen
    for key in EXCLUDED:
        if getattr(recipe, key):
            raise UserError(f"PixMix needs images as they are: set {key}=0, or method.pixmix=false.")
    if not isinstance(size, int) or size < recipe.input_size:
        raise UserError(
            f"Images of {recipe.input_size} pixels are mixed with crops of larger pictures: method.picture_size cannot "
            f"be {size}."
        )
    return [*chosen, PixMix(settings, str(pictures), size, recipe.mean, recipe.std)]
