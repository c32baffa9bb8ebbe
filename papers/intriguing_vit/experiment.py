"""The embedded experiment: a small vision transformer and a small ResNet, garments on cluttered canvases.

Both see the same canvases in the same order for the same number of steps, have as many parameters and multiply-adds
to within ten per cent, and are measured on the same images with the same random draws. A canvas is 7 x 7 patches, of
which a garment covers a part that is known to the pixel; the rest is black, with clutter cut from other garments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache

import pandas as pd
import timm
import torch
from torch import Tensor, nn

from common.data.composition import Background, Composition, place_on_canvas
from common.data.fashion_mnist import load_fashion_mnist
from common.robustness import embedded
from common.robustness.embedded.robustness import per_channel
from common.robustness.occlusion_curves import Condition, accuracies, conditions
from common.training.data import TensorData
from common.training.recipe import Recipe
from papers.intriguing_vit import cue_conflict

VIT, RESNET = "vit_mini", "resnet_mini"
DATASET = "fashion-mnist-canvas"
PROTOCOL = "embedded-occlusion/1 canvases of 28 pixels, 7x7 tiles"
SIDE, GARMENT, PATCH = 28, 24, 4
CLUTTER = Background(clutter=4)
#: Shares of the tiles, or of the garment, that are lost.
SHARES = tuple(tenths / 10 for tenths in range(1, 10))
#: Grids of shuffled tiles that divide a canvas.
GRIDS = (2, 4, 7, 14)
#: Accuracy of guessing among ten classes, in per cent.
CHANCE = 10.0
#: What of the curves is averaged over its shares or grids.
CURVES = ("random_drop_top1", "salient_drop_top1", "nonsalient_drop_top1", "shuffle_top1")


def vit(position: bool = True) -> nn.Module:
    """Three blocks of 48 channels on 7x7 patches; ``position``: whether tokens know where they are."""
    return timm.create_model(
        "deit_tiny_patch16_224",
        img_size=SIDE,
        patch_size=PATCH,
        num_classes=10,
        embed_dim=48,
        depth=3,
        num_heads=3,
        pos_embed="learn" if position else "none",
    )


def resnet() -> nn.Module:
    """ResNet with one basic block a stage and a stem of three 3x3 convolutions, without pooling after it."""
    model = timm.create_model(
        "resnet18", num_classes=10, layers=(1, 1, 1, 1), channels=(24, 40, 40, 32), stem_type="deep", stem_width=12
    )
    model.maxpool = nn.Identity()
    return model


def contenders() -> list[embedded.Contender]:
    """The two networks that are compared."""
    return [embedded.Contender(VIT, vit), embedded.Contender(RESNET, resnet)]


def canvases(images: Tensor, labels: Tensor, seed: int) -> Composition:
    """Each image, one a canvas, scaled to 24 pixels at a random place, with clutter behind it."""
    generator = torch.Generator().manual_seed(seed)
    return place_on_canvas(images, labels, size=SIDE, side=GARMENT, background=CLUTTER, generator=generator)


@lru_cache(maxsize=1)
def training_canvases() -> TensorData:
    """40,000 training canvases, about as many as a run sees; 1,000 test images, beyond the test set, to validate."""
    data = load_fashion_mnist()
    train = canvases(data.train_images[:40_000], data.train_labels[:40_000], seed=0)
    validation = canvases(data.test_images[-1000:], data.test_labels[-1000:], seed=1)
    return TensorData(
        three_channels(train.images), train.labels[:, 0], three_channels(validation.images), validation.labels[:, 0]
    )


@lru_cache(maxsize=2)
def test_canvases(quick: bool) -> Composition:
    """The first 1,000 test images (quick: 200), a canvas each."""
    data, count = load_fashion_mnist(), 200 if quick else 1000
    return canvases(data.test_images[:count], data.test_labels[:count], seed=2)


def three_channels(images: Tensor) -> Tensor:
    """(N, H, W) as three equal channels."""
    return images[:, None].repeat(1, 3, 1, 1)


def garment_tiles(composition: Composition) -> Tensor:
    """How many of each tile's pixels are garment, (N, 49): what is salient here is known."""
    return nn.functional.avg_pool2d(composition.masks.float(), PATCH)[:, 0].flatten(1)


def batches(composition: Composition, size: int = 250) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Images, labels and saliency, as ``accuracies`` takes them."""
    parts = (three_channels(composition.images), composition.labels[:, 0], garment_tiles(composition))
    return zip(*(part.split(size) for part in parts), strict=True)


def all_conditions() -> Mapping[str, Condition]:
    """Everything that is done to the test canvases."""
    return conditions(grid=SIDE // PATCH, shares=SHARES, shuffle_grids=GRIDS, salient=True)


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, float]:
    """Accuracy under every condition, its means, and decisions on cue conflicts, all in per cent.

    Returns:
        ``top1``; a number a condition (``random_drop_top1/0.5``); the mean of each of ``CURVES``; what
        ``cue_conflict.decisions`` returns.
    """
    mean, std = per_channel(recipe.mean), per_channel(recipe.std)
    scores = accuracies(model, batches(test_canvases(quick)), all_conditions(), mean=mean, std=std)
    for curve in CURVES:
        cells = [value for name, value in scores.items() if name.startswith(f"{curve}/")]
        scores[curve] = math.fsum(cells) / len(cells)
    return {**scores, **cue_conflict.decisions(model, test_canvases(quick), mean, std)}


def with_kept(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with what is kept of the accuracy above chance, in per cent, as ``NAME_kept`` for each of ``CURVES``.

    Relative to the same network's accuracy on whole canvases, a better network has no advantage there; and less what
    guessing gives, a worse one has none either.
    """
    kept = {f"{curve}_kept": 100 * (table[curve] - CHANCE) / (table["top1"] - CHANCE) for curve in CURVES}
    return table.assign(**kept)
