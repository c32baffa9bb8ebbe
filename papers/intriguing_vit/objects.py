"""Segmentation by attention on canvases whose garment is known to the pixel, for the small ViTs of the experiment.

As in the publication, a network that was trained to classify sees images of more pixels than in training (there 512 in
place of 224, here 56 in place of 28), so that its patches are finer; the patches that hold most of a head's attention
are the object, and the best head counts. How much attention is kept is chosen on other canvases, for each network by
itself, as the release says to have chosen 0.9 for PASCAL VOC.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache

import torch
from torch import Tensor, nn

from common.data.composition import Composition
from common.data.fashion_mnist import load_fashion_mnist
from common.robustness.embedded.robustness import per_channel
from common.segmentation import best_head, head_attention, kept_patches, resize_input
from common.training.recipe import Recipe
from papers.intriguing_vit.experiment import SIDE, canvases, test_canvases, three_channels

PROTOCOL = "jaccard/1 best head, canvases of 28 pixels seen at 56"
#: Canvases are enlarged by this factor.
SCALE = 2
#: Shares of the attention that are tried.
SHARES = tuple(tenths / 10 for tenths in range(1, 10))


@lru_cache(maxsize=2)
def tuning_canvases(quick: bool) -> Composition:
    """200 (quick: 100) canvases of test images that no other measurement uses."""
    data, count = load_fashion_mnist(), 100 if quick else 200
    return canvases(data.test_images[5000 : 5000 + count], data.test_labels[5000 : 5000 + count], seed=3)


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


def scores(model: nn.Module, composition: Composition, recipe: Recipe, shares: Sequence[float]) -> dict[float, float]:
    """Jaccard index in per cent by the share of attention that is kept, mean over canvases."""
    images, masks = enlarged(composition, per_channel(recipe.mean), per_channel(recipe.std))
    device = next(model.parameters()).device
    heat = torch.cat([head_attention(model, part.to(device)).cpu() for part in images.split(250)])
    size = (images.shape[-2], images.shape[-1])
    return {share: 100 * float(best_head(kept_patches(heat, size, share=share), masks).mean()) for share in shares}


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, float]:
    """Jaccard index of ``model`` (in eval mode) with garments, in per cent.

    Returns:
        ``jaccard`` at the share of attention that is best on other canvases; ``share``, that share in per cent;
        ``jaccard/SHARE`` at every share.
    """
    model = finer(model)
    tuned = scores(model, tuning_canvases(quick), recipe, SHARES)
    best = max(tuned, key=lambda share: tuned[share])
    curve = scores(model, test_canvases(quick), recipe, SHARES)
    return {"jaccard": curve[best], "share": 100 * best, **{f"jaccard/{share:g}": curve[share] for share in SHARES}}


def whole_canvas(quick: bool) -> float:
    """The Jaccard index of taking everything for the object, in per cent: what a segmentation must beat."""
    return 100 * float(test_canvases(quick).masks.float().mean())
