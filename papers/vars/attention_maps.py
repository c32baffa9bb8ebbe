"""How much attention falls on the object: small models on garments that lie on cluttered canvases.

The mask of the garment is known exactly, so the share of the attention map that lies on it can be measured, and
compared with the share of the canvas that the garment covers (chance). What a map is depends on the attention: for
self-attention and its kernelised form the attention that a token receives, averaged over queries; for VARS the share
of the reconstruction's energy on a token. Heads and blocks are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import figures
from common.data.composition import Background, place_on_canvas
from common.data.fashion_mnist import MEAN, STD, load_fashion_mnist
from common.measurement import Picture, Result
from common.robustness import embedded
from common.robustness.corruptions import corrupt
from common.run import Run
from common.training.data import TensorData
from common.training.recipe import Recipe
from common.verdicts import mean_measurement

DATASET = "fashion-mnist-canvas"
PROTOCOL = "attention-on-object/1 mean over blocks and heads"
SIDE = 28  # of the canvas, in pixels
GARMENT = 18  # side of the garment's frame, in pixels
CLUTTER = Background(clutter=4)
CORRUPTION, SEVERITY = "gaussian_noise", 3


@dataclass(frozen=True)
class Canvases:
    """Canvases with one garment each: images (N, 3, H, W) uint8, masks (N, H, W) bool, labels (N,)."""

    images: Tensor
    masks: Tensor
    labels: Tensor


def _canvases(images: Tensor, labels: Tensor, seed: int) -> Canvases:
    generator = torch.Generator().manual_seed(seed)
    drawn = place_on_canvas(images, labels, size=SIDE, side=GARMENT, background=CLUTTER, generator=generator)
    return Canvases(drawn.images[:, None].repeat(1, 3, 1, 1), drawn.masks[:, 0], drawn.labels[:, 0])


@lru_cache(maxsize=1)
def training_canvases() -> TensorData:
    """12,000 training images, more than a run sees, each garment on a canvas of its own."""
    data = load_fashion_mnist()
    train = _canvases(data.train_images[:12_000], data.train_labels[:12_000], seed=0)
    validation = _canvases(data.test_images[-1000:], data.test_labels[-1000:], seed=1)
    return TensorData(train.images, train.labels, validation.images, validation.labels)


@lru_cache(maxsize=2)
def test_canvases(count: int) -> dict[str, Canvases]:
    """Test canvases, clean and under noise."""
    data = load_fashion_mnist()
    clean = _canvases(data.test_images[:count], data.test_labels[:count], seed=2)
    noisy = corrupt(clean.images, CORRUPTION, SEVERITY, seeds=list(range(count)))
    return {"clean": clean, "corrupted": replace(clean, images=noisy)}


def measure(run: Run, contenders: Sequence[embedded.Contender], baseline: str, recipe: Path) -> Iterator[Result]:
    """Train every contender on canvases and measure its maps on test canvases."""
    count = 100 if run.settings.quick else 500
    tests = test_canvases(count)
    table = embedded.table_of(run, contenders, recipe, partial(shares, count=count), training_canvases)
    chance = 100 * float(tests["clean"].masks.float().mean())
    for name in table.index.unique("model"):
        for condition in tests:
            values = [float(value) for value in table.loc[name][condition]]
            yield mean_measurement(
                values,
                model=name,
                dataset=DATASET if condition == "clean" else f"{DATASET}.{CORRUPTION}{SEVERITY}",
                metric="attention_on_object",
                unit="%",
                weights="trained",
                n=count,
                protocol=PROTOCOL,
                detail={"chance": chance},
            )
    for condition in tests:
        for name, estimate in embedded.differences(table, baseline, condition).items():
            yield embedded.difference_finding(
                f"More of the attention of {name} than of {baseline} falls on the object, {condition} images.",
                estimate,
                len(table.loc[name]),
            )
    seed = run.settings.seed
    models = {c.name: embedded.trained(run, c, seed, recipe, training_canvases) for c in contenders}
    yield _picture(models, tests, run.settings.device, chance)


def shares(model: nn.Module, recipe: Recipe, count: int) -> dict[str, float]:
    """Share of the attention on the object by condition, in per cent."""
    device = str(next(model.parameters()).device)
    return {name: on_object(model, canvases, device) for name, canvases in test_canvases(count).items()}


def on_object(model: nn.Module, canvases: Canvases, device: str) -> float:
    """Share of the attention on the object, in per cent, averaged over images."""
    heat = attention(model, canvases.images, device)
    # Share of each token's pixels that belong to the garment.
    covered = F.adaptive_avg_pool2d(canvases.masks[:, None].float(), heat.shape[-2:])[:, 0]
    return 100 * float((heat * covered).sum(dim=(1, 2)).mean())


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
    chosen = [
        (condition, index) for index in range(3) for condition in tests
    ]  # the first canvases of the test set, not picked by hand
    columns = ["image", "mask", *models]
    with figures.figure("maps", width=1.05 * len(columns), height=1.1 * len(chosen) + 0.3) as drawn:
        axes = drawn.subplots(len(chosen), len(columns))
        heats = {
            (name, condition): attention(model, canvases.images[:3], device)
            for name, model in models.items()
            for condition, canvases in tests.items()
        }
        for row, (condition, index) in zip(axes, chosen, strict=True):
            canvases = tests[condition]
            row[0].imshow(canvases.images[index].permute(1, 2, 0).numpy())
            row[0].set_ylabel(condition, fontsize=8)
            row[1].imshow(canvases.masks[index].numpy(), cmap="gray")
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
