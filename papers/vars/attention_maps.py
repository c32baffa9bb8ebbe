"""How much attention falls on the object: small models on garments that lie on cluttered canvases.

The models are those of the claim ``robustness``, trained on plain garments. Here a garment is smaller and pieces of
others lie around it. Its mask is known exactly, so the share of the attention map that lies on it can be measured, and
compared with the share of the canvas that the garment covers (chance). What a map is depends on the attention: for
self-attention the attention that a token receives, averaged over queries; for VARS the share of the reconstruction's
energy on a token. Heads and blocks are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common import bench, figures
from common.bench.canvases import CELLS, CLEAN, CORRUPTED, CORRUPTION, DATASET, SEVERITY, Canvases, test_canvases
from common.bench.inference import measurements
from common.data.fashion_mnist import MEAN, STD
from common.measurement import Measurement, Picture, Result
from common.run import Run
from common.training.recipe import Recipe

PROTOCOL = "attention-on-object/2 mean over blocks and heads, models of the bench"


def measure(run: Run, contenders: Sequence[bench.Contender], model: str) -> Iterator[Result]:
    """Measure the maps of every contender on test canvases.

    Args:
        run: the run.
        contenders: the first one is the baseline.
        model: name of the contender that is compared with it.
    """
    tests, baseline = test_canvases(run.settings.quick), contenders[0].name
    scores = bench.scores(run, contenders, shares)
    yield from measurements(scores, (CLEAN, CORRUPTED), dataset=DATASET, protocol=PROTOCOL)
    masks = tests[CLEAN].masks
    chance = 100 * float(masks.float().mean())
    count = len(masks.flatten(0, 1))
    yield Measurement(model="chance", dataset=DATASET, metric=CLEAN, value=chance, unit="%", n=count, protocol=PROTOCOL)
    yield from bench.findings(scores, f"{model} > {baseline}: {CLEAN}", f"{model} > {baseline}: {CORRUPTED}")
    models = {contender.name: bench.trained(run, contender, run.settings.seed) for contender in contenders}
    yield _picture(models, tests, run.settings.device, chance)


def shares(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """Share of the attention on the object by metric and canvas, (CELLS, n); ``top1`` on the plain garments."""
    tests = bench.test_set(quick)
    device = str(next(model.parameters()).device)
    classifier = bench.normalised(model, recipe)
    return {
        "top1": bench.correct(classifier, tests.clean[:CELLS], tests.labels[:CELLS]),
        **{metric: on_object(model, canvases, device) for metric, canvases in test_canvases(quick).items()},
    }


def on_object(model: nn.Module, canvases: Canvases, device: str) -> np.ndarray:
    """Share of each canvas's attention that falls on its garment, (CELLS, n)."""
    return canvases.share_of(attention(model, canvases.images.flatten(0, 1), device))


@torch.inference_mode()
def attention(model: nn.Module, images: Tensor, device: str) -> Tensor:
    """Mean map of all blocks and heads, summing to 1: uint8 images (N, 3, 28, 28) to (N, H, W)."""
    heat = []
    for part in images.split(250):
        maps = model.attention_maps((part.to(device).float() / 255 - MEAN) / STD)
        heat.append(torch.stack([block.mean(dim=1) for block in maps]).mean(dim=0).cpu())
    return torch.cat(heat)


def _picture(models: dict[str, nn.Module], tests: dict[str, Canvases], device: str, chance: float) -> Picture:
    """Rows: a few canvases, clean and corrupted; columns: image, mask, the map of every model."""
    # The first canvases of the test set, not picked by hand.
    chosen = [(condition, index) for index in range(3) for condition in tests]
    columns = ["image", "mask", *models]
    with figures.figure("maps", width=1.05 * len(columns), height=1.1 * len(chosen) + 0.3) as drawn:
        axes = drawn.subplots(len(chosen), len(columns))
        heats = {
            (name, condition): attention(model, canvases.images[0, :3], device)
            for name, model in models.items()
            for condition, canvases in tests.items()
        }
        for row, (condition, index) in zip(axes, chosen, strict=True):
            canvases = tests[condition]
            row[0].imshow(canvases.images[0, index].permute(1, 2, 0).numpy())
            row[0].set_ylabel("clean" if condition == CLEAN else "corrupted", fontsize=8)
            row[1].imshow(canvases.masks[0, index].numpy(), cmap="gray")
            for axis, name in zip(row[2:], models, strict=True):
                axis.imshow(heats[name, condition][index].numpy(), cmap="viridis", vmin=0)
            for axis in row:
                axis.set_xticks([])
                axis.set_yticks([])
        for axis, title in zip(axes[0], columns, strict=True):
            axis.set_title(title.replace("_rvt_mini", "").replace("rvt_mini", "self-att."), fontsize=8)
        svg = figures.to_svg(drawn)
    return Picture(
        name="maps",
        caption=(
            f"The first three test canvases, clean and under {CORRUPTION.replace('_', ' ')} of severity {SEVERITY}: "
            f"image, mask of the garment, attention of each model (mean over blocks and heads, first seed). By chance "
            f"{chance:.0f} % of the attention would fall on the garment."
        ),
        svg=svg,
    )
