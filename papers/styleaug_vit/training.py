"""What StyleAug changes about training: restyled images, and a term that makes predictions for them agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.bench.autoencoder import NOISE, autoencoder, to_bytes
from common.bench.textures import textures
from common.errors import UserError
from common.style_transfer import adain
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.augmix.draws import AugMixSettings, Draws
from papers.augmix.method import augment_and_mix, jensen_shannon
from papers.styleaug_vit.transfer import EMBEDDING, StyleAugmentor

#: Restyles uint8 images (B, C, H, W), by a generator of draws; the same type and shape.
Restyle = Callable[[Tensor, torch.Generator], Tensor]


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a recipe's method settings; weights are read when a training starts.

    ``network``: ``released`` (weights in the folder ``weights``) or ``bench`` (the bench's autoencoder, for grey
    images); ``strength``: of the new style, from 0 to 1; ``consistency``: weight of the Jensen-Shannon term;
    ``batch_statistics``: as the release predicts styles.

    Raises:
        UserError: a value is out of range, or the recipe mixes or erases.
    """
    for key in ("mixup", "cutmix", "random_erasing"):
        if getattr(recipe, key):
            raise UserError(f"StyleAug restyles images as they are: set {key}=0.")
    method: dict[str, Any] = dict(recipe.method)
    try:
        settings = StyleAugSettings(**method)
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


class TwoViews(Hook):
    """Train on each image as it is and augmented, both with its label, and on predictions for the two that agree.

    Args:
        consistency: weight of the Jensen-Shannon divergence of the two predictions; 0 leaves the two images alone.
        mean, std: with which the images of a batch are normalised.
    """

    copies = 2

    def __init__(self, consistency: float, mean: Sequence[float], std: Sequence[float]) -> None:
        if consistency < 0:
            raise UserError(f"The weight of the consistency term must be at least 0, not {consistency}.")
        self.consistency = consistency
        self._mean, self._std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def start(self, run: Training) -> None:
        """Have the statistics on the run's device."""
        self._mean, self._std = self._mean.to(run.device), self._std.to(run.device)

    def augment(self, pixels: Tensor) -> Tensor:
        """An augmented image for each of (B, C, H, W) uint8, in levels of 255; draws follow NumPy's generator."""
        raise NotImplementedError

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Add an augmented image to each, with its label."""
        pixels = (batch.images * self._std + self._mean).round_().clamp_(0, 255).to(torch.uint8)
        augmented = self.augment(pixels).float().sub_(self._mean).div_(self._std)
        batch.images = torch.cat([batch.images, augmented])
        batch.labels, batch.targets = torch.cat([batch.labels] * 2), torch.cat([batch.targets] * 2)

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        """Add the consistency term."""
        if not self.consistency:
            return loss
        return loss + self.consistency * jensen_shannon(batch.logits.unflatten(0, (2, -1)).float())


class StyleAug(TwoViews):
    """Two views, of which one is restyled.

    Args:
        settings: of the method.
        mean, std: with which the images of a batch are normalised.
    """

    def __init__(self, settings: StyleAugSettings, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(settings.consistency, mean, std)
        self.settings = settings
        self._restyle: Restyle | None = None

    def start(self, run: Training) -> None:
        """Have the networks on the run's device, too."""
        super().start(run)
        self._restyle = self.settings.restyle(run.device)

    def augment(self, pixels: Tensor) -> Tensor:
        """Restyle images."""
        assert self._restyle is not None, "it has not started"
        seed = int(np.random.randint(0, 2**32, dtype=np.uint32))  # noqa: NPY002
        return self._restyle(pixels, torch.Generator().manual_seed(seed))


class AugMixViews(TwoViews):
    """Two views, of which one is AugMix's, for comparison."""

    def augment(self, pixels: Tensor) -> Tensor:
        """Chains of operations, mixed."""
        generator = np.random.default_rng(np.random.randint(0, 2**32, 4, dtype=np.uint32))  # noqa: NPY002
        return augment_and_mix(pixels, Draws.sample(len(pixels), AugMixSettings(), generator))


def augmix_hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hook of a contender that has AugMix in the place of StyleAug, all else being equal."""
    return [AugMixViews(float(recipe.method["consistency"]), recipe.mean, recipe.std)]


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
