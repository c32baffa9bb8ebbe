"""Mixed garments beside the attention by which they are mixed, as the paper's first figures show them."""

from __future__ import annotations

import torch
from torch import nn

from common import bench, figures
from common.attention import LastAttention
from common.measurement import Picture
from common.training.mixing import enlarge
from common.training.preparation import Preparation
from common.training.recipe import Recipe
from papers.smmix.method import corners, paste, window_attention

#: Pairs of garments that are shown, the first of the test set.
PAIRS = 4
SIDE = 4  # of a region, in patches


def picture(model: nn.Module, recipe: Recipe, quick: bool) -> Picture:
    """Pairs of garments, the attention on each, and what SMMix makes of them."""
    images = bench.test_set(quick).clean[0, : 2 * PAIRS]
    device, attention = next(model.parameters()).device, LastAttention(model, token=None)
    with torch.inference_mode():
        model(Preparation(recipe, device).normalise(images.to(device)))
        maps = attention.take(*images.shape[2:]).cpu()
    attention.close()
    grid, scores = (maps.shape[1], maps.shape[2]), window_attention(maps, SIDE)
    shown = images.float()
    mixed, _ = paste(shown, corners(scores, largest=True), corners(scores, largest=False), SIDE, grid)
    heat = enlarge(maps, *images.shape[2:])
    columns = {
        "image": (shown[:, 0], "gray"),
        "its attention": (heat, "viridis"),
        "partner": (shown.flip(0)[:, 0], "gray"),
        "its attention ": (heat.flip(0), "viridis"),
        "SMMix": (mixed[:, 0], "gray"),
    }
    with figures.figure("mixtures", width=1.2 * len(columns), height=1.2 * PAIRS) as drawn:
        axes = drawn.subplots(PAIRS, len(columns))
        for row, pair in enumerate(axes):
            for axis, (title, (panels, colours)) in zip(pair, columns.items(), strict=True):
                axis.imshow(panels[row].numpy(), cmap=colours)
                axis.set_xticks([])
                axis.set_yticks([])
                if not row:
                    axis.set_title(title, fontsize=8)
        svg = figures.to_svg(drawn)
    return Picture(
        name="mixtures",
        caption=(
            f"The first pairs of test images: the region of {SIDE} x {SIDE} patches of the partner that is attended to "
            "most is pasted on the region of the image that is attended to least."
        ),
        svg=svg,
    )
