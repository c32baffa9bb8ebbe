"""Stylised garments: each image with the style of a texture that says nothing about its class.

They stand in for Stylized-ImageNet (Geirhos et al., arXiv 1811.12231), whose styles are paintings; as there, each image
is restyled once, by adaptive instance normalisation.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from common import style_transfer
from common.bench import autoencoder, textures
from common.bench.autoencoder import restyle
from common.bench.images import test_set, training_data
from common.bench.stored import check_sum, stored

#: Subsets of the test images that are restyled.
CELLS = 4
#: Training images are restyled in so many parts.
SHARES = 20


@lru_cache(maxsize=1)
def training_images() -> Tensor:
    """The bench's training images restyled, (58000, 3, 28, 28) uint8, in the order of their labels."""
    autoencoder.autoencoder()  # trained before, not by every process
    return _three_channels(stored("stylised-training", _version(), _training_share, SHARES))


@lru_cache(maxsize=2)
def test_images(quick: bool) -> tuple[Tensor, Tensor]:
    """The first subsets of the bench's test images restyled, (CELLS, n, 3, 28, 28) uint8, and labels (CELLS, n)."""
    autoencoder.autoencoder()
    tests = test_set(quick)
    images = stored("stylised-test", _version(), _test_subset, CELLS).unflatten(0, (CELLS, -1))
    count = tests.labels.shape[1]
    return images[:, :count, None].repeat(1, 1, 3, 1, 1), tests.labels[:CELLS]


def _training_share(share: int) -> Tensor:
    images = training_data().train[0][:, 0]
    return _restyled(images.tensor_split(SHARES)[share], seed=CELLS + share)


def _test_subset(subset: int) -> Tensor:
    return _restyled(test_set(False).clean[subset, :, 0], seed=subset)


def _restyled(images: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    styles = textures.textures(len(images), images.shape[-1], generator)
    return restyle(images, styles, generator)


def _three_channels(images: Tensor) -> Tensor:
    return images[:, None].repeat(1, 3, 1, 1)


def _version() -> str:
    return check_sum(__file__, autoencoder.__file__, textures.__file__, style_transfer.__file__)
