"""The ablation of augmentations at small scale: encoders pre-trained with one augmentation or with two composed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common import figures
from common.measurement import Picture
from common.robustness.embedded import Contender
from common.training.hooks import Hook
from common.training.recipe import Recipe
from papers.simclr.experiment import build
from papers.simclr.training import Contrastive, hooks

#: In the order in which two of them are composed. ``crop`` is made by the data, the others here.
AUGMENTATIONS = ("crop", "cutout", "jitter", "rotate")
#: The composition that SimCLR itself is trained with, but for flips, blur and loss of colour.
OWN = ("crop", "jitter")


def cells() -> list[tuple[str, str]]:
    """All single augmentations, as pairs of the same, and all pairs."""
    return list(combinations_with_replacement(AUGMENTATIONS, 2))


def contenders(quick: bool) -> dict[tuple[str, str], Contender]:
    """The encoder pre-trained with each cell's augmentations and no other.

    There are fewer images than in the main part, so batches are smaller, for more steps.
    """
    budget = (
        f"epoch_images={1280 if quick else 5120}",
        "epochs=1",
        "evaluate_every=1",
        "total_batch=64",
        "warmup_epochs=0.1",
        "horizontal_flip=0.0",
    )
    return {
        pair: Contender(
            f"resnet_mini.{'+'.join(dict.fromkeys(pair))}",
            build,
            partial(_hooks, pair),
            (*budget, *(() if "crop" in pair else ("train_crop=none",))),
        )
        for pair in cells()
    }


def _hooks(names: tuple[str, ...], recipe: Recipe) -> Sequence[Hook]:
    (plain,) = hooks(recipe)
    assert isinstance(plain, Contrastive)
    return [Composed(names, plain.temperature, recipe)]


class Composed(Contrastive):
    """Contrastive pre-training with the named augmentations, one after the other, on every image."""

    def __init__(self, names: tuple[str, ...], temperature: float, recipe: Recipe) -> None:
        (plain,) = hooks(recipe)
        super().__init__(plain.settings, temperature, False, recipe.mean, recipe.std, False, False)
        self.names = tuple(dict.fromkeys(names))

    def distort(self, images: Tensor, total: int, own: slice, random: torch.Generator) -> Tensor:
        """Distort images (B, C, H, W) in [0, 1]."""
        for name in self.names:
            draws = torch.rand(4, total, generator=random)[:, own].to(images.device)
            if name == "cutout":
                images = cut_out(images, draws[0], draws[1])
            elif name == "rotate":
                turns = (4 * draws[2]).long()
                images = torch.stack([images.rot90(k, (2, 3)) for k in range(4)])[turns, torch.arange(len(images))]
            elif name == "jitter":
                images = super().distort(images, total, own, random)
        return images


def cut_out(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Black out a square of half the side in each image, centred at ``row`` and ``column`` (N,) in [0, 1)."""
    height, width = images.shape[2:]

    def near(centre: Tensor, size: int) -> Tensor:
        return (torch.arange(size, device=images.device) - (centre * size).floor()[:, None]).abs() <= size // 4

    inside = near(row, height)[:, :, None] & near(column, width)[:, None, :]
    return images.masked_fill(inside[:, None], 0.0)


def heat_map(table: pd.DataFrame, metric: str) -> Picture:
    """Accuracy by pair of augmentations; single ones on the diagonal."""
    means = table.groupby(level="model")[metric].mean()
    count = len(AUGMENTATIONS)
    matrix = np.full((count, count), np.nan)
    for pair, contender in contenders(quick=False).items():
        a, b = (AUGMENTATIONS.index(name) for name in pair)
        matrix[a, b] = matrix[b, a] = means[contender.name]
    with figures.figure("composition", width=4.6, height=3.8) as drawn:
        axis = drawn.subplots()
        mesh = axis.pcolormesh(matrix, cmap="cividis", edgecolors="none")
        middle = (matrix.min() + matrix.max()) / 2
        for (row, column), accuracy in np.ndenumerate(matrix):
            colour = "white" if accuracy < middle else "black"
            axis.text(column + 0.5, row + 0.5, f"{accuracy:.1f}", ha="center", va="center", color=colour)
        axis.set_xticks(np.arange(count) + 0.5, AUGMENTATIONS)
        axis.set_yticks(np.arange(count) + 0.5, AUGMENTATIONS)
        axis.invert_yaxis()
        axis.set_aspect("equal")
        drawn.colorbar(mesh, label="top-1 accuracy, %")
        svg = figures.to_svg(drawn)
    seeds = table.index.get_level_values("seed").nunique()
    return Picture(
        name="composition",
        caption=(
            "Linear probe with 10 % of the labels, top-1 accuracy in per cent, after pre-training with two "
            f"augmentations, or with one (diagonal); means over {seeds} {'seed' if seeds == 1 else 'seeds'}."
        ),
        svg=svg,
    )
