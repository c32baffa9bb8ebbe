"""The embedded experiment: garments on cluttered canvases, whose masks are exact, and linear probes.

A garment of 24 pixels lies on a canvas of 28 before pieces of other garments. Nothing in the clutter tells the class,
but two views of an image share it, so that a network which learns to tell images apart may look at it.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from common import bench
from common.bench.stored import check_sum, stored
from common.data import composition
from common.data.composition import Background, Composition, place_on_canvas
from common.robustness.corruptions import corrupt
from common.training.data import TensorData
from common.training.recipe import Recipe
from papers.simclr.experiment import features

DATASET = "fashion-mnist-canvas"
PROTOCOL = "canvases/1 garments of 24 pixels on 28, 8 pieces of clutter"
SIDE, GARMENT = bench.hosts.SIDE, 24
CLUTTER, MORE_CLUTTER = Background(clutter=8), Background(clutter=24)
#: Training images are put on canvases in so many parts.
SHARES = 20
#: Labelled canvases of a probe, about a tenth of the training set.
LABELLED = 6000
#: Subsets of the test images that are put on canvases.
CELLS = 4
#: A corruption of each of ImageNet-C's four groups, at severity 3.
CORRUPTIONS, SEVERITY = ("gaussian_noise", "defocus_blur", "fog", "pixelate"), 3


def _placed(images: Tensor, labels: Tensor, background: Background, seed: int) -> Composition:
    return place_on_canvas(
        images[:, 0], labels, size=SIDE, side=GARMENT, background=background,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


@lru_cache(maxsize=2)
def canvases(masks: bool = False) -> TensorData:
    """The bench's training images on canvases: three equal channels, and with ``masks`` a fourth, white on garments."""
    data = bench.training_data()
    version = check_sum(__file__, composition.__file__)
    drawn = stored("canvases-training", version, _training_share, SHARES)  # (58000, 2, 28, 28)
    channels = (0, 0, 0, 1) if masks else (0, 0, 0)
    validation = _placed(*data.validation, CLUTTER, SHARES)
    return TensorData(drawn[:, channels], data.train[1], _three(validation.images), data.validation[1])


def _training_share(share: int) -> Tensor:
    """Canvases and the masks of their garments of a share of the training images, (n, 2, 28, 28) uint8."""
    images, labels = (part.tensor_split(SHARES)[share] for part in bench.training_data().train)
    placed = _placed(images, labels, CLUTTER, share)
    return torch.stack([placed.images, 255 * placed.masks[:, 0].to(torch.uint8)], dim=1)


#: For contenders: data with masks.
masked_canvases = partial(canvases, masks=True)


@lru_cache(maxsize=2)
def test_canvases(quick: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """Test images (cells, n, 3, 28, 28) uint8 and labels (cells, n) by what they measure."""
    tests = bench.test_set(quick)
    images, labels = tests.clean[:CELLS], tests.labels[:CELLS]
    plain, crowded = (
        _three(_placed(images.flatten(0, 1), labels.flatten(), background, seed).images).unflatten(0, labels.shape)
        for seed, background in ((2, CLUTTER), (3, MORE_CLUTTER))
    )
    # Cell r of every set is made of subset r, as scores of the bench have it.
    corrupted = torch.stack(
        [corrupt(cell, name, SEVERITY, seeds=range(len(cell))) for cell, name in zip(plain, CORRUPTIONS, strict=True)]
    )
    return {
        "linear_probe_top1": (plain, labels),
        "corrupted_probe_top1": (corrupted, labels),
        "cluttered_probe_top1": (crowded, labels),
    }


def probe(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """Whether logistic regression on frozen features of labelled canvases is right on test canvases.

    Args:
        model: in eval mode, with ``forward_features`` and ``forward_head``.
        recipe: with which it was trained, for the preprocessing.
        quick: whether the run is.

    Returns:
        For each set of `test_canvases` (cells, n) of 0 and 1.
    """
    images, labels = canvases().train
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))
    classifier.fit(features(model, recipe, images[:LABELLED]), labels[:LABELLED].numpy())
    return {
        metric: (classifier.predict(features(model, recipe, shown.flatten(0, 1))) == truth.flatten().numpy()).reshape(
            truth.shape
        )
        for metric, (shown, truth) in test_canvases(quick).items()
    }


def _three(images: Tensor) -> Tensor:
    return images[:, None].repeat(1, 3, 1, 1)
