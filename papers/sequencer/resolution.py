"""How accuracy depends on the size of the test images, for networks that were trained at one size.

Images are resized bilinearly, smoothed where they shrink; a network sees as many more tokens as there are pixels.
Position embeddings of a vision transformer are resized with the grid of tokens, bicubically as timm does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from common import bench, figures
from common.bench.hosts import SIDE
from common.measurement import Picture
from common.training.recipe import Recipe

#: Sizes in pixels, from 5 to 14 tokens a side, without that of the training.
SIZES = (20, 24, 32, 36, 40, 48, 56)
#: How many subsets of the test images are seen at each size.
PARTS = 4
#: Cell r is of subset r, as everywhere on the bench, so that the parts of a size are of different images.
CELLS = tuple(size for _, size in product(range(PARTS), SIZES))


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """``top1`` at 28 pixels, ``resolution_top1`` and ``resolution_loss`` over `CELLS`, and each size as a cell.

    The cells of a metric are called ``METRIC/SIZE``.
    """
    tests = bench.test_set(quick)
    at_28 = bench.correct(bench.normalised(model, recipe), tests.clean, tests.labels)
    subsets = np.arange(len(CELLS)) % len(tests.labels)
    right = np.zeros((len(CELLS), tests.labels.shape[1]))
    for size in SIZES:
        rows = [cell for cell, of in enumerate(CELLS) if of == size]
        chosen = [int(subset) for subset in subsets[rows]]
        classifier = bench.normalised(for_size(model, size), recipe)
        right[rows] = bench.correct(classifier, resize(tests.clean[chosen], size), tests.labels[chosen])
    lost = at_28[subsets] - right
    sizes = np.array(CELLS)
    return {
        "top1": at_28,
        "resolution_top1": right,
        "resolution_loss": lost,
        **{f"resolution_top1/{size}": float(right[sizes == size].mean()) for size in SIZES},
        **{f"resolution_loss/{size}": float(lost[sizes == size].mean()) for size in SIZES},
    }


def resize(images: Tensor, size: int) -> Tensor:
    """Images (cells, n, 3, H, W), uint8, at ``size`` x ``size`` pixels, in [0, 1]."""
    flat = images.flatten(0, 1).float() / 255
    resized = F.interpolate(flat, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp(0, 1).unflatten(0, images.shape[:2])


def for_size(model: nn.Module, size: int) -> nn.Module:
    """``model`` for images of ``size`` pixels: a copy with other positions where it is tied to a grid, else itself."""
    if not hasattr(model, "pos_embed"):
        return model
    changed: Any = copy.deepcopy(model)
    changed.set_input_size(img_size=(size, size))
    return changed


def curve(scores: bench.Scores) -> Picture:
    """Accuracy over the size of the test images, a line a network, and a thin one each seed."""
    places = sorted((*SIZES, SIDE))

    def by_seed(contender: str) -> np.ndarray:
        metric: Mapping[int, str] = {size: f"resolution_top1/{size}" for size in SIZES} | {SIDE: "top1"}
        return np.array([scores.per_seed(contender, metric[size]) for size in places])

    with figures.figure("resolution", width=5.2, height=3.4) as drawn:
        axis = drawn.subplots()
        for position, contender in enumerate(scores.contenders):
            colour, values = figures.COLOURS[position % len(figures.COLOURS)], by_seed(contender)
            axis.plot(places, values, color=colour, linewidth=0.5, alpha=0.5)
            axis.plot(places, values.mean(axis=1), "o-", color=colour, markersize=4, label=contender)
        axis.axvline(SIDE, color="0.6", linewidth=0.8, linestyle=":")
        axis.set_xticks(places)
        axis.set_xlabel("pixels a side of the test images; 28 in training")
        axis.set_ylabel("top-1 accuracy, %")
        axis.grid(axis="y")
        axis.legend()
        svg = figures.to_svg(drawn)
    return Picture(
        name="resolution",
        caption=(
            "Accuracy of networks trained at 28 pixels on test images of other sizes; a thin line is one seed. Values "
            f"at 28 pixels are over all test images, the others over {PARTS} of {bench.SUBSETS} subsets."
        ),
        svg=svg,
    )
