"""What is done to images before they are scored: attacks, corruptions, filters, dropped and shuffled patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from common.data.preprocessing import Preprocessing
from common.robustness.attacks import Attack
from common.robustness.benchmarks.base import Change
from common.robustness.benchmarks.saliency import Saliency
from common.robustness.corruptions import corrupt
from common.robustness.frequency import FILTERS
from common.robustness.occlusion import drop_tiles, random_drop, salient_tiles, shuffle_tiles
from common.robustness.patch_corruption import corrupt_patch


def as_read(images: Tensor, labels: Tensor, seeds: Sequence[int], model: nn.Module) -> Tensor:
    """The images themselves, in [0, 1]."""
    return images.float() / 255


def attacked(attack: Attack) -> Change:
    """Adversarial images against the model's predictions of the labels."""

    def change(images: Tensor, labels: Tensor, seeds: Sequence[int], model: nn.Module) -> Tensor:
        return attack(model, images.float() / 255, labels, seeds=seeds)

    return change


def dropped(count: int, grid: int) -> Change:
    """Images with ``count`` random tiles of the grid black."""

    def change(images: Tensor, labels: Tensor, seeds: Sequence[int], model: nn.Module) -> Tensor:
        return random_drop(images.float() / 255, count, grid=grid, seeds=seeds)

    return change


def saliency_dropped(saliency: Saliency, share: float, salient: bool, grid: int) -> Change:
    """Images without the tiles that hold ``share`` of the salience, or (``salient`` false) with these alone."""

    def change(images: Tensor, labels: Tensor, seeds: Sequence[int], model: nn.Module) -> Tensor:
        foreground = salient_tiles(saliency(images), share)
        return drop_tiles(images.float() / 255, foreground if salient else ~foreground, grid=grid)

    return change


def shuffled(grid: int) -> Change:
    """Images whose tiles are permuted."""

    def change(images: Tensor, labels: Tensor, seeds: Sequence[int], model: nn.Module) -> Tensor:
        return shuffle_tiles(images.float() / 255, grid=grid, seeds=seeds)

    return change


def filtered(metric: str, radius: float) -> Change:
    """Images that a filter of ``common.robustness.frequency``, named by its metric, leaves."""

    def change(images: Tensor, labels: Tensor, seeds: Sequence[int], model: nn.Module) -> Tensor:
        return FILTERS[metric](images.float() / 255, radius)

    return change


def corrupted(name: str, severity: int, preprocessing: Preprocessing, jpeg: bool, frost_photos: Path | None) -> Change:
    """Images under a corruption of ImageNet-C, in the size that it is stored in, then resized to the model's."""
    fit = resized(preprocessing)

    def change(images: Tensor, labels: Tensor, seeds: Sequence[int], model: nn.Module) -> Tensor:
        corrupted = corrupt(images, name, severity, seeds=seeds, jpeg=jpeg, frost_photos=frost_photos)
        return fit(corrupted, labels, seeds, model)

    return change


def patch_corrupted(name: str, severity: int, size: int, frost_photos: Path | None) -> Change:
    """Images with one corrupted patch."""

    def change(images: Tensor, labels: Tensor, seeds: Sequence[int], model: nn.Module) -> Tensor:
        changed = corrupt_patch(images, name, severity, size=size, seeds=seeds, frost_photos=frost_photos)
        return changed.float() / 255

    return change


def resized(preprocessing: Preprocessing) -> Change:
    """Stored images in [0, 1], resized where the model's input has another size."""
    size = preprocessing.size

    def change(images: Tensor, labels: Tensor, seeds: Sequence[int], model: nn.Module) -> Tensor:
        images = images.float() / 255
        if images.shape[-1] == size:
            return images
        frames = images.flatten(0, -4)
        mode = InterpolationMode(preprocessing.interpolation)
        return resize(frames, [size, size], mode, antialias=True).clamp(0, 1).view(*images.shape[:-2], size, size)

    return change
