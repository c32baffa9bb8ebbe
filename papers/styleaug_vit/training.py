"""What StyleAug changes about training: restyled images, and a term that makes predictions for them agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.bench.autoencoder import NOISE, autoencoder, to_bytes
from common.bench.textures import textures
from common.errors import UserError
from common.style_transfer import adain
from common.training.hooks import Hook, Training
from common.training.recipe import Recipe
from papers.augmix.draws import AugMixSettings
from papers.augmix.training import AugMix
from papers.styleaug_vit.transfer import EMBEDDING, StyleAugmentor

#: Restyles uint8 images (B, C, H, W), by a generator of draws; the same type and shape.
Restyle = Callable[[Tensor, torch.Generator], Tensor]


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings; weights are read when a training starts.

    ``network``: ``released`` (weights in the folder ``weights``) or ``bench`` (the bench's autoencoder, for grey
    images); ``strength``: of the new style, from 0 to 1; ``consistency``: weight of the Jensen-Shannon term, 0 trains
    on one restyled image in place of each clean one; ``batch_statistics``: as the release predicts styles.

    Raises:
        UserError: a value is out of range, or the recipe mixes or erases.
    """
    for key in ("mixup", "cutmix", "random_erasing"):
        if getattr(recipe, key):
            raise UserError(f"StyleAug restyles images as they are: set {key}=0.")
    try:
        settings = StyleAugSettings(**dict(recipe.method))
    except TypeError as error:
        raise UserError(f"The method table of this recipe is not StyleAug's: {error}.") from None
    return [StyleAug(settings, recipe.mean, recipe.std)]


@dataclass(frozen=True)
class StyleAugSettings:
    """The recipe's ``method`` table, see `hooks`.

    Raises:
        UserError: a value is out of range.
    """

    network: str
    weights: str
    strength: float
    consistency: float
    batch_statistics: bool

    def __post_init__(self) -> None:
        if self.network not in ("released", "bench"):
            raise UserError(f"network must be released or bench, not {self.network!r}.")
        if not 0 <= self.strength <= 1:
            raise UserError(f"strength is between 0 (the image's own style) and 1, not {self.strength}.")

    def restyle(self, device: torch.device) -> Restyle:
        """What restyles images, with its networks on ``device``.

        Raises:
            UserError: the released weights are asked for and not there.
        """
        if self.network == "bench":
            return partial(by_textures, strength=self.strength)
        if not self.weights:
            raise UserError(
                "StyleAug needs released weights: --set method.weights=DIR, the folder styleaug/checkpoints of "
                "github.com/philipjackson/style-augmentation."
            )
        augmentor = StyleAugmentor.load(Path(self.weights), batch_statistics=self.batch_statistics)
        return partial(by_embeddings, augmentor=augmentor.to(device), strength=self.strength)


class StyleAug(AugMix):
    """AugMix's step, a clean image and two augmented ones whose predictions agree, with restyled images.

    Without the consistency term, each image is replaced by a restyled one.

    Args:
        settings: of the method.
        mean, std: with which the images of a batch are normalised.
    """

    def __init__(self, settings: StyleAugSettings, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(AugMixSettings(severity=1, width=1, depth=1), settings.consistency, mean, std)
        self.style = settings
        self._restyle: Restyle | None = None

    def start(self, run: Training) -> None:
        """Have statistics and networks on the run's device."""
        super().start(run)
        self._restyle = self.style.restyle(run.device)

    def augment(self, pixels: Tensor) -> Tensor:
        """A normalised restyled image for each of (B, C, H, W) uint8; draws follow NumPy's global generator."""
        seed = int(np.random.randint(0, 2**32, dtype=np.uint32))  # noqa: NPY002
        assert self._restyle is not None, "it has not started"
        restyled = self._restyle(pixels, torch.Generator().manual_seed(seed)).float()
        return restyled.sub_(self._mean).div_(self._std)


def by_textures(pixels: Tensor, generator: torch.Generator, *, strength: float) -> Tensor:
    """Images (B, C, H, W) uint8 of equal channels with the styles of random textures, by the bench's autoencoder."""
    network = autoencoder()
    styles = textures(len(pixels), pixels.shape[-1], generator)[:, None].float() / 255
    grey = pixels[:, :1].cpu().float() / 255
    with torch.no_grad():
        content = network.encode(grey + strength * NOISE * torch.randn(grey.shape, generator=generator))
        made = to_bytes(network.decode(adain(content, network.encode(styles), strength)))
    return made.expand(-1, pixels.shape[1], -1, -1).to(pixels.device)


def by_embeddings(pixels: Tensor, generator: torch.Generator, *, augmentor: StyleAugmentor, strength: float) -> Tensor:
    """Images (B, 3, H, W) uint8 with random styles, by the released networks."""
    normal = torch.randn(len(pixels), EMBEDDING, generator=generator).to(pixels.device)
    with torch.no_grad():
        return to_bytes(augmentor(pixels.float() / 255, augmentor.sample(normal), strength))
