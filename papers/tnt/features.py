"""A picture of what patches and words hold, block by block, beside the patches of a vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common import bench, figures
from common.measurement import Picture
from common.run import Run
from papers.tnt import words

#: Which test images are shown, one of each of three classes.
SUBSET, SHOWN = 0, (0, 3, 9)


def principal(tokens: Tensor) -> Tensor:
    """The first principal component of ``tokens`` (N, C) over their places, as a square map of mean zero.

    Its sign is arbitrary; here the larger values are the fewer.
    """
    centred = tokens - tokens.mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    component = centred @ axes[0]
    component = component if component.median() <= 0 else -component
    side = round(len(component) ** 0.5)
    return component.view(side, side)


@torch.no_grad()
def picture(run: Run, contenders: Sequence[bench.Contender]) -> Picture:
    """Patches of a vision transformer, patches and words of a TNT (``contenders``, in this order), after each block."""
    vit: Any
    tnt: Any
    vit, tnt = (bench.trained(run, contender, run.seeds()[0]) for contender in contenders)
    tests = bench.test_set(run.settings.quick)
    shown = tests.clean[SUBSET, list(SHOWN)].to(next(vit.parameters()).device)
    recipe = contenders[0].settings(quick=run.settings.quick)
    mean, std = (torch.tensor(bench.per_channel(values)).view(-1, 1, 1) for values in (recipe.mean, recipe.std))
    images = (shown / 255 - mean.to(shown.device)) / std.to(shown.device)

    rows: dict[str, list[Tensor]] = {}  # by block, (images, N, C)
    for name, model in ((contenders[0].name, vit), (contenders[1].name, tnt)):
        rows[f"{name}\npatches"] = model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    rows[f"{contenders[1].name}\nwords"] = [_grid(each, len(images)) for each in words.by_block(tnt, images)]

    blocks = len(next(iter(rows.values())))
    with figures.figure("features", width=1.1 * (1 + len(rows) * blocks), height=1.25 * len(SHOWN)) as drawn:
        axes = drawn.subplots(len(SHOWN), 1 + len(rows) * blocks, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for index, line in enumerate(axes):
            line[0].imshow(shown[index, 0].cpu().numpy(), cmap="gray", interpolation="nearest")
            for position, (name, maps) in enumerate(rows.items()):
                for block, tokens in enumerate(maps):
                    axis = line[1 + position * blocks + block]
                    axis.imshow(principal(tokens[index].cpu()).numpy(), cmap="viridis", interpolation="nearest")
                    if index == 0:
                        axis.set_title(f"{name}\nblock {block + 1}", fontsize="x-small")
        svg = figures.to_svg(drawn)
    return Picture(
        name="features",
        caption=(
            "The first principal component of patches and words over their places, after each block: 7 x 7 patches of "
            "a vision transformer and of TNT, and TNT's 14 x 14 words."
        ),
        svg=svg,
    )


def _grid(tokens: Tensor, batch: int) -> Tensor:
    """Words (B n, m, c) of square grids of patches as (B, N, c), row by row of the image."""
    side, word = (round(count**0.5) for count in (len(tokens) // batch, tokens.shape[1]))
    grid = tokens.unflatten(1, (word, word)).unflatten(0, (batch, side, side))  # (B, rows, columns, y, x, c)
    return grid.permute(0, 1, 3, 2, 4, 5).flatten(1, 4)
