"""The images of the embedded experiment: what small models are trained on, and what they are measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from common.data.fashion_mnist import load_fashion_mnist
from common.robustness.corruptions import CORRUPTIONS, corrupt
from common.robustness.occlusion import random_drop
from common.training.data import TensorData

DATASET = "fashion-mnist"
SEVERITIES = (1, 2, 3, 4, 5)
#: Tiles of 4 pixels, the patch size of the small models.
OCCLUSION_GRID = 7
OCCLUSION_SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class TestSet:
    """Test images and all that is done to them; the same for every model.

    Attributes:
        clean: (N, 3, 28, 28) uint8, with ``clean_labels`` (N,).
        images: the first of them, which are corrupted, attacked and occluded, with ``labels``.
        corrupted: ``(corruption, severity)`` -> uint8 images like ``images``.
        occluded: share of tiles dropped -> uint8 images like ``images``.
    """

    clean: Tensor
    clean_labels: Tensor
    images: Tensor
    labels: Tensor
    corrupted: Mapping[tuple[str, int], Tensor]
    occluded: Mapping[float, Tensor]


@lru_cache(maxsize=2)
def test_set(quick: bool) -> TestSet:
    """2,000 test images clean, the first 150 (quick: 500 and 60) under every corruption, attack and occlusion."""
    data = load_fashion_mnist()
    clean_count, count = (500, 60) if quick else (2000, 150)
    clean = _three_channels(data.test_images[:clean_count])
    images = clean[:count]
    seeds = list(range(count))
    return TestSet(
        clean=clean,
        clean_labels=data.test_labels[:clean_count],
        images=images,
        labels=data.test_labels[:count],
        corrupted={
            (name, severity): corrupt(images, name, severity, seeds=seeds)
            for name in CORRUPTIONS
            for severity in SEVERITIES
        },
        occluded={
            share: random_drop(images, round(share * OCCLUSION_GRID**2), grid=OCCLUSION_GRID, seeds=seeds)
            for share in OCCLUSION_SHARES
        },
    )


@lru_cache(maxsize=1)
def training_data() -> TensorData:
    """Fashion-MNIST's training set as three equal channels; 1,000 test images, beyond the test set, for validation."""
    data = load_fashion_mnist()
    return TensorData(
        _three_channels(data.train_images),
        data.train_labels,
        _three_channels(data.test_images[-1000:]),
        data.test_labels[-1000:],
    )


def _three_channels(images: Tensor) -> Tensor:
    return images[:, None].repeat(1, 3, 1, 1)
