"""Mixed garments beside the teacher's activation, as the paper's first figures show them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from common import bench, figures
from common.measurement import Picture
from common.training.mixing import Mixing, enlarge
from common.training.optimisation import make_mixing
from common.training.preparation import Preparation
from common.training.randomness import preserved_global_state, seed_global
from common.training.recipe import Recipe
from papers.tokenmix.method import TokenMixing, activation, visible_scores

#: Pairs of garments that are shown, the first of the test set.
PAIRS = 4


def picture(teacher: nn.Module, recipe: Recipe, quick: bool) -> Picture:
    """Pairs of garments, what CutMix and TokenMix make of them, and the activation that TokenMix's label follows."""
    tests = bench.test_set(quick)
    images, labels = tests.clean[0, : 2 * PAIRS], tests.labels[0, : 2 * PAIRS]
    device = next(teacher.parameters()).device
    side = int(recipe.method["grid"])
    always = recipe.with_changes("mix_probability=1.0", "mix_switch_probability=1.0", "cutmix=1.0", "mixup=0.0")

    def tokens(**arguments: object) -> TokenMixing:
        return TokenMixing(
            grid=(side, side), blocks=recipe.method["region"] == "blocks", ratio=float(recipe.method["ratio"]),
            extra_tokens=int(recipe.method["extra_tokens"]), **arguments,
        )  # fmt: skip

    shown = images[:, 0].float()
    with preserved_global_state(), torch.inference_mode():
        seed_global(0, "mixtures")
        normalised = Preparation(always, device).normalise(images.to(device))
        maps = activation(teacher, normalised, labels.to(device), (side, side)).cpu()
        mixtures = {}
        for name, mixup in (("CutMix", make_mixing(always)), ("TokenMix", make_mixing(always, tokens))):
            assert mixup is not None
            _, _, mixed = Mixing(mixup)(shown[:, None].clone(), labels)
            mixtures[name] = (shown.lerp(shown.flip(0), mixed.mask), mixed)
    region = mixtures["TokenMix"][1].mask[:, :: images.shape[2] // side, :: images.shape[3] // side]
    own, partner = visible_scores(maps, region)
    heat = enlarge(maps, *images.shape[2:])
    columns = ["image", "partner", *mixtures, "activation", "of the partner"]
    with figures.figure("mixtures", width=1.2 * len(columns), height=1.35 * PAIRS) as drawn:
        axes = drawn.subplots(PAIRS, len(columns))
        for row, pair in enumerate(axes):
            panels: list[tuple[np.ndarray, str, str]] = [
                (shown[row].numpy(), "gray", ""),
                (shown.flip(0)[row].numpy(), "gray", ""),
            ]
            for name, (mixture, mixed) in mixtures.items():
                area = float(mixed.share[row])
                scores = (1 - area, area) if name == "CutMix" else (float(own[row]), float(partner[row]))
                panels.append((mixture[row].numpy(), "gray", "{:.2f}, {:.2f}".format(*scores)))
            panels += [(heat[row].numpy(), "viridis", ""), (heat.flip(0)[row].numpy(), "viridis", "")]
            for axis, title, (panel, colours, below) in zip(pair, columns, panels, strict=True):
                axis.imshow(panel, cmap=colours)
                axis.set_xticks([])
                axis.set_yticks([])
                axis.set_xlabel(below, fontsize=8)
                if not row:
                    axis.set_title(title, fontsize=8)
        svg = figures.to_svg(drawn)
    return Picture(
        name="mixtures",
        caption=(
            "The first pairs of test images, mixed by CutMix and TokenMix; below, the scores of image and partner: by "
            "area, and by the teacher's activation, which is shown for both."
        ),
        svg=svg,
    )
