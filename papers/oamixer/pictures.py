"""A picture of the three test sets, with what networks without and with the mask take the garments for."""

from __future__ import annotations

from typing import Any

import torch

from common import bench, figures
from common.measurement import Picture
from common.run import Run
from papers.oamixer import mini, scenes

SUBSET, SHOWN = 0, tuple(range(7))
TITLES = {"top1": "original", scenes.SAME: "mixed-same", scenes.RAND: "mixed-rand"}


@torch.no_grad()
def backgrounds(run: Run, contenders: list[bench.Contender]) -> Picture:
    """Garments in the scenes of each test set; right or wrong for each of the networks, in the given order."""
    models = [bench.trained(run, contender, run.seeds()[0]) for contender in contenders]
    recipe = contenders[0].settings(quick=run.settings.quick)
    labels = bench.test_set(run.settings.quick).labels[:1, list(SHOWN)]
    sets = {name: found[:1, list(SHOWN)] for name, found in scenes.test_scenes(run.settings.quick).items()}
    with figures.figure("backgrounds", width=0.95 * len(SHOWN) + 0.9, height=1.15 * len(sets)) as drawn:
        axes = drawn.subplots(len(sets), len(SHOWN), squeeze=False)
        for line, (name, images) in zip(axes, sets.items(), strict=True):
            right = [bench.correct(bench.normalised(model, recipe), images, labels)[0] for model in models]
            for column, axis in enumerate(line):
                axis.imshow(images[0, column, 0].numpy(), cmap="gray", vmin=0, vmax=255)
                axis.set_xticks([])
                axis.set_yticks([])
                axis.set_title(" ".join("right" if each[column] else "wrong" for each in right), fontsize="x-small")
            line[0].set_ylabel(TITLES[name])
        svg = figures.to_svg(drawn)
    scales: Any = ", ".join(f"{each:.2f}" for each in mini.scales(models[-1]))
    return Picture(
        name="backgrounds",
        caption=(
            f"Garments in scenes, and whether {' and '.join(each.name for each in contenders)} know them; the learned "
            f"scales of the latter are {scales}."
        ),
        svg=svg,
    )
