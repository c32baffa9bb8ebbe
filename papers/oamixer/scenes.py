"""Garments in scenes: images whose background tells the class, mostly, as it does in photographs.

Each class has a scene of its own, a grating of one direction and wavelength. In training and in the test set called
original, a garment stands in the scene of its class with probability `OWN`, else in any. As in the Backgrounds
Challenge (Xiao et al., "Noise or Signal: The Role of Image Backgrounds in Object Recognition", ICLR 2021) a network is
then tested with every garment in the scene of its class (mixed-same) and in one drawn from all (mixed-rand); the
difference of accuracies, the background gap, is how much it depends on scenes. Garments and their places are the same
in all sets.

Images have three channels, as the bench's have: the first two are the image, the third is the garment's exact mask,
from which `mini.Labelled` makes labels of patches.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.bench import hosts
from common.bench.images import test_set
from common.data.composition import Background, place_on_canvas
from common.training.data import TensorData
from common.training.recipe import Recipe

DATASET, PROTOCOL = "fashion-mnist-scenes", "scenes/1"
OWN = 0.75
GARMENT = 20  # side of the garment's frame, in pixels
SAME, RAND, GAP = "mixed_same_top1", "mixed_rand_top1", "background_gap"
METRICS = ("top1", SAME, RAND, GAP)


def scenes(kinds: Tensor, generator: torch.Generator) -> Tensor:
    """Gratings (N, H, W) in grey values from 30 to 190, of the scenes ``kinds`` (N,) at any phase, with noise."""
    at = torch.arange(hosts.SIDE, dtype=torch.float32)
    angle, wavelength = math.pi * kinds / hosts.CLASSES, 4.0 + 2 * (kinds % 3)
    phase = 2 * math.pi * torch.rand(len(kinds), generator=generator)
    along = at[None, :, None] * angle.sin()[:, None, None] + at[None, None, :] * angle.cos()[:, None, None]
    wave = (2 * math.pi * along / wavelength[:, None, None] + phase[:, None, None]).sin()
    noise = torch.randn(wave.shape, generator=generator)
    return (110 + 50 * wave + 12 * noise).clamp(30, 190)


def in_scenes(garments: Tensor, labels: Tensor, kinds: Tensor, seed: int) -> Tensor:
    """Garments (N, H, W) uint8 at random places in scenes: (N, 3, H, W) uint8, the garment's mask as third channel."""
    placed = place_on_canvas(
        garments, labels, size=hosts.SIDE, side=GARMENT, background=Background(),
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    mask = placed.masks[:, 0]
    drawn = torch.where(mask, placed.images.float(), scenes(kinds, torch.Generator().manual_seed(seed + 1)))
    image = drawn.round().to(torch.uint8)
    return torch.stack((image, image, 255 * mask.to(torch.uint8)), dim=1)


def kinds_of(labels: Tensor, own: float, generator: torch.Generator) -> Tensor:
    """The scene of each image: that of its class with probability ``own``, else any of all."""
    any_scene = torch.randint(hosts.CLASSES, labels.shape, generator=generator)
    return torch.where(torch.rand(labels.shape, generator=generator) < own, labels, any_scene)


def training_data() -> TensorData:
    """The bench's training images in scenes."""
    plain, generator = bench.training_data(), torch.Generator().manual_seed(10)
    images, validation = (
        in_scenes(garments[:, 0], labels, kinds_of(labels, OWN, generator), seed)
        for (garments, labels), seed in ((plain.train, 11), (plain.validation, 13))
    )
    return TensorData(images, plain.train[1], validation, plain.validation[1])


@lru_cache(maxsize=2)
def test_scenes(quick: bool) -> dict[str, Tensor]:
    """The bench's clean test images in scenes, by metric: (subsets, n, 3, H, W)."""
    tests, generator = test_set(quick), torch.Generator().manual_seed(20)
    garments, labels = tests.clean[:, :, 0].flatten(0, 1), tests.labels.flatten()
    return {
        name: in_scenes(garments, labels, kinds_of(labels, own, generator), seed=21).unflatten(0, tests.labels.shape)
        for name, own in (("top1", OWN), (SAME, 1.0), (RAND, 0.0))
    }


def robustness(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """The metrics of `METRICS`, image by image."""
    classifier, labels = bench.normalised(model, recipe), test_set(quick).labels
    found = {name: bench.correct(classifier, images, labels) for name, images in test_scenes(quick).items()}
    return {**found, GAP: found[SAME].astype(float) - found[RAND]}
