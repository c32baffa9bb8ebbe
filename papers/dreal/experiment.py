"""The bench's residual network with an attention module in each block, and what its modules bring."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from timm.layers import create_attn
from torch import Tensor, nn

from common import bench
from common.training.recipe import Recipe
from papers.dreal.method import Watch

#: Parts of a training by which rewards are told.
BINS = 10
#: What modules are made with; timm's defaults but for a squeeze by four: blocks have 32 and 64 channels.
SETTINGS: dict[str, dict[str, Any]] = {
    "se": {"rd_ratio": 0.25, "rd_divisor": 4},
    "cbam": {"rd_ratio": 0.25, "rd_divisor": 4, "spatial_kernel_size": 3},
    "eca": {},
}


def attentive_resnet(kind: str) -> nn.Module:
    """``resnet_mini`` with a module of timm (``se``, ``cbam``, ``eca``) at the end of each block's body.

    Its buffer ``rewards``, (`BINS`, modules), is for a training by DREAL to leave the mean rewards in.
    """
    model: Any = bench.hosts.resnet_mini()
    for block in model.stages:
        channels = next(layer.out_channels for layer in reversed(block.body) if isinstance(layer, nn.Conv2d))
        block.body.append(create_attn(kind, channels, **SETTINGS[kind]))
    model.register_buffer("rewards", torch.zeros(BINS, len(model.stages)))
    return model.to(memory_format=torch.channels_last)


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """``top1``; ``attention_gain``: right with all modules less right with one standing aside, mean over modules."""
    tests = bench.test_set(quick)
    classifier = bench.normalised(model, recipe)
    right = bench.correct(classifier, tests.clean, tests.labels).astype(float)
    watch = Watch(model)
    try:
        others = [
            _right_without(watch, number, recipe, tests.clean, tests.labels) for number in range(len(watch.modules))
        ]
    finally:
        watch.close()
    return {"top1": right, "attention_gain": right - np.mean(others, axis=0)}


def _right_without(watch: Watch, number: int, recipe: Recipe, images: Tensor, labels: Tensor) -> np.ndarray:
    mean, std = (torch.tensor(bench.per_channel(values)).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    device = next(watch.model.parameters()).device
    found = []
    for part in images.flatten(0, 1).split(bench.measures.BATCH):
        pixels = ((part.float() / 255 - mean) / std).to(device)
        found.append(watch.without(number, pixels).argmax(dim=1).cpu())
    return (torch.cat(found).view(labels.shape) == labels).numpy()
