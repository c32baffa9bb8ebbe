"""Segmentation by attention on canvases whose garment is known to the pixel, for the bench's vision transformer.

As in the publication, a network that was trained to classify sees images of more pixels than in training (there 512 in
place of 224, here 56 in place of 28), so that its patches are finer; the patches that hold most of a head's attention
are the object, and the best head counts. How much attention is kept is chosen on other canvases, for each network by
itself, as the release says to have chosen 0.9 for PASCAL VOC. Behind the garment is clutter, which the networks have
not been trained with: an object on black would be found by its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.attention import best_head, head_attention, kept_patches, resize_input
from common.data.composition import Background, Composition, place_on_canvas
from common.training.recipe import Recipe
from papers.intriguing_vit.experiment import three_channels

DATASET = "fashion-mnist-canvas"
PROTOCOL = "jaccard/2 best head, canvases of 28 pixels seen at 56"
SIDE, GARMENT, CLUTTER = bench.hosts.SIDE, 24, Background(clutter=4)
#: Canvases are enlarged by this factor.
SCALE = 2
#: Shares of the attention that are tried.
SHARES = tuple(tenths / 10 for tenths in range(1, 10))
#: Subsets of the test images that canvases are made of, and how many canvases of the last one serve to choose a share.
SUBSETS, TUNING = 2, 200


@lru_cache(maxsize=2)
def test_canvases(quick: bool) -> tuple[Composition, ...]:
    """Each test image of the first subsets on a canvas."""
    tests = bench.test_set(quick)
    return tuple(canvases(tests.clean[subset], tests.labels[subset], seed=subset) for subset in range(SUBSETS))


@lru_cache(maxsize=2)
def tuning_canvases(quick: bool) -> Composition:
    """Canvases of other test images."""
    tests = bench.test_set(quick)
    return canvases(tests.clean[-1][:TUNING], tests.labels[-1][:TUNING], seed=bench.SUBSETS - 1)


def canvases(images: Tensor, labels: Tensor, seed: int) -> Composition:
    """Images (N, 3, 28, 28), one a canvas, scaled to 24 pixels at a random place, with clutter behind."""
    generator = torch.Generator().manual_seed(seed)
    return place_on_canvas(images[:, 0], labels, size=SIDE, side=GARMENT, background=CLUTTER, generator=generator)


def enlarged(composition: Composition, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Canvases as a model sees them, (N, 3, 56, 56), and the masks of their garments, (N, 1, 56, 56) bool."""
    images = nn.functional.interpolate(
        three_channels(composition.images).float() / 255, scale_factor=SCALE, mode="bilinear", align_corners=False
    )
    centred = (images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    return centred, composition.masks.repeat_interleave(SCALE, dim=-1).repeat_interleave(SCALE, dim=-2)


def finer(model: nn.Module) -> nn.Module:
    """A copy of ``model`` for enlarged canvases."""
    model = deepcopy(model)
    resize_input(model, SCALE * SIDE)
    return model


def scores(model: nn.Module, composition: Composition, recipe: Recipe) -> dict[float, Tensor]:
    """Jaccard index of every canvas, (N,) in [0, 1], by the share of attention that is kept; ``model`` from `finer`."""
    images, masks = enlarged(composition, bench.per_channel(recipe.mean), bench.per_channel(recipe.std))
    device = next(model.parameters()).device
    heat = torch.cat([head_attention(model, part.to(device)).cpu() for part in images.split(250)])
    size = (images.shape[-2], images.shape[-1])
    return {share: best_head(kept_patches(heat, size, share=share), masks) for share in SHARES}


def best_share(model: nn.Module, recipe: Recipe, quick: bool) -> float:
    """The share of attention that segments the tuning canvases best; ``model`` from `finer`."""
    tuned = scores(model, tuning_canvases(quick), recipe)
    return max(SHARES, key=lambda share: float(tuned[share].mean()))


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """Jaccard index of ``model`` (in eval mode) with garments.

    Returns:
        ``top1``; ``jaccard`` by canvas (subsets, N) at the share of attention that is best on other canvases;
        ``jaccard/SHARE`` at every share; ``jaccard/whole``, by canvas, of taking everything for the object, which is
        what a segmentation must beat.
    """
    found: dict[str, np.ndarray | float] = dict(bench.accuracy(model, recipe, quick))
    model = finer(model)
    best = best_share(model, recipe, quick)
    by_subset = [scores(model, composition, recipe) for composition in test_canvases(quick)]
    curve = {share: torch.stack([subset[share] for subset in by_subset]).numpy() for share in SHARES}
    whole = [composition.masks.float().mean(dim=(1, 2, 3)) for composition in test_canvases(quick)]
    found |= {"jaccard": curve[best], "jaccard/whole": torch.stack(whole).numpy()}
    return found | {f"jaccard/{share:g}": float(values.mean()) for share, values in curve.items()}
