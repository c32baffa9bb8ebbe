"""How much of a network's attention falls on the garment of a cluttered canvas, whose mask is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from common import bench
from common.attention import LastAttention
from common.bench.canvases import CELLS, CLEAN, DATASET, test_canvases
from common.data.fashion_mnist import MEAN, STD
from common.training.recipe import Recipe

__all__ = ["CLEAN", "DATASET", "PROTOCOL", "shares"]

PROTOCOL = "attention-on-object/2 class token, last block, mean over heads, models of the bench"
#: Canvases of a forward pass.
BATCH = 250


def shares(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """``attention_on_object``, in [0, 1], by canvas, (CELLS, n); ``top1`` on the plain garments, as large."""
    tests, canvases = bench.test_set(quick), test_canvases(quick)[CLEAN]
    device, attention = next(model.parameters()).device, LastAttention(model)
    maps = []
    with torch.inference_mode():
        for part in canvases.images.flatten(0, 1).split(BATCH):
            model((part.to(device).float() / 255 - MEAN) / STD)
            maps.append(attention.take(*part.shape[2:]).cpu())
    attention.close()
    heat = torch.cat(maps)
    heat = heat / heat.sum(dim=(1, 2), keepdim=True)  # the class token keeps a part for itself
    classifier = bench.normalised(model, recipe)
    return {
        "top1": bench.correct(classifier, tests.clean[:CELLS], tests.labels[:CELLS]),
        CLEAN: canvases.share_of(heat),
    }
