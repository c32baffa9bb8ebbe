"""Scenes of one or two garments before clutter, whose classes, masks and depths are known exactly.

They stand in for PASCAL VOC and NYU where a paper segments, or tells depth, by networks of the bench's size: images are
28 pixels a side, as many as the bench's training images, made once and kept in the data folder.

A training image's label is its number, since what may be seen of a scene differs from paper to paper: a paper's hook
looks up the classes that are in it (image-level labels), its mask, or nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from common.bench.hosts import CLASSES, SIDE
from common.bench.stored import check_sum, stored
from common.data import composition
from common.data.composition import Background, compose
from common.data.fashion_mnist import load_fashion_mnist
from common.training.data import TensorData

DATASET = "fashion-mnist-composition"
PROTOCOL = "scenes/1"
#: Garments of a scene, their size relative to the photographs', and what is behind.
GARMENTS, SCALE, BEHIND = (1, 2), (0.5, 0.65), Background(clutter=3)
#: Scenes of each split; ``tuning`` are for choosing a threshold, apart from those that are measured on.
TRAINING, VALIDATION, TEST, TUNING = 51200, 2000, 1000, 300
QUICK = 200
SHARES = 16
#: Classes of a segmentation: background first.
SEMANTIC = 1 + CLASSES


@dataclass(frozen=True, eq=False)
class Scenes:
    """N scenes.

    Attributes:
        images: (N, 3, 28, 28) uint8, three equal channels.
        semantic: (N, 28, 28) uint8, 0 for background, 1 + class for a garment.
        order: (N, 28, 28) uint8, 0 for background, 1 for the garment that was placed first, 2 for that before it.
    """

    images: Tensor
    semantic: Tensor
    order: Tensor

    def __getitem__(self, index: Tensor | slice) -> Scenes:
        """Some of the scenes."""
        return Scenes(self.images[index], self.semantic[index], self.order[index])

    def __len__(self) -> int:
        return len(self.images)

    def classes(self) -> Tensor:
        """Which classes can be seen, (N, 10) bool."""
        there = torch.zeros(len(self), SEMANTIC, dtype=torch.bool, device=self.semantic.device)
        there.scatter_(1, self.semantic.flatten(1).long(), True)
        return there[:, 1:]

    def largest(self) -> Tensor:
        """The class of most pixels, (N,)."""
        counts = [(self.semantic == 1 + label).flatten(1).sum(dim=1) for label in range(CLASSES)]
        return torch.stack(counts, dim=1).argmax(dim=1)


@lru_cache(maxsize=1)
def training_scenes() -> Scenes:
    """The scenes of which the training data has the numbers; behind them those for validation."""
    return _scenes("training", TRAINING + VALIDATION)


@lru_cache(maxsize=1)
def training_data() -> TensorData:
    """Training images with their numbers as labels; validation images with the class of most pixels."""
    scenes = training_scenes()
    held_out = scenes[slice(TRAINING, None)]
    numbers = torch.arange(TRAINING)
    return TensorData(scenes.images[:TRAINING], numbers, held_out.images, held_out.largest(), num_classes=CLASSES)


def test_scenes(quick: bool) -> Scenes:
    """Scenes of test images, to measure on."""
    return _scenes("test", TEST + TUNING)[slice(QUICK if quick else TEST)]


def tuning_scenes(quick: bool) -> Scenes:
    """Other scenes of test images, to choose a threshold on."""
    return _scenes("test", TEST + TUNING)[slice(TEST, TEST + QUICK if quick else None)]


def miou(predicted: Tensor, truth: Tensor) -> float:
    """Mean over the classes, background among them, of intersection over union, in [0, 1].

    Args:
        predicted, truth: integers (N, H, W), from 0 to 10; other predictions are wrong whatever the truth is. A class
            of which neither has a pixel is left out.
    """
    predicted, truth = predicted.flatten().long(), truth.flatten().long()
    known = (predicted >= 0) & (predicted < SEMANTIC)
    both = torch.bincount(truth[predicted == truth], minlength=SEMANTIC)
    either = torch.bincount(truth, minlength=SEMANTIC) + torch.bincount(predicted[known], minlength=SEMANTIC) - both
    there = either > 0
    return float((both[there].double() / either[there]).mean())


@lru_cache(maxsize=2)
def _scenes(split: str, count: int) -> Scenes:
    settings = f"{split} {count} {GARMENTS} {SCALE} {BEHIND}"
    planes = stored(f"scenes-{split}", check_sum(__file__, composition.__file__, text=settings), _makers[split], SHARES)
    grey, semantic, order = planes[:count].unbind(dim=1)
    return Scenes(grey[:, None].expand(-1, 3, -1, -1), semantic, order)


def _drawn(split: str, count: int, share: int) -> Tensor:
    """One share of a split: planes (n, 3, 28, 28) of grey value, class and order."""
    data = load_fashion_mnist()
    training = split == "training"
    images, labels = (data.train_images, data.train_labels) if training else (data.test_images, data.test_labels)
    made = compose(
        images, labels, count=-(-count // SHARES), size=SIDE, garments=GARMENTS, scale=SCALE, background=BEHIND,
        generator=torch.Generator().manual_seed(share + (0 if training else SHARES)),
    )  # fmt: skip
    places = torch.arange(1, GARMENTS[1] + 1)[:, None, None]
    order = (made.masks * places).sum(dim=1)
    return torch.stack([made.images, made.semantic.to(torch.uint8), order.to(torch.uint8)], dim=1)


def _training_share(share: int) -> Tensor:
    return _drawn("training", TRAINING + VALIDATION, share)


def _test_share(share: int) -> Tensor:
    return _drawn("test", TEST + TUNING, share)


_makers = {"training": _training_share, "test": _test_share}
