"""Accuracy of small models on clean, corrupted, attacked and occluded images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from common.robustness.attacks import PROTOCOLS
from common.robustness.embedded.experiment import Contender, table_of
from common.robustness.embedded.images import test_set
from common.robustness.normalisation import Normalized
from common.run import Run
from common.training.recipe import Recipe

#: The metrics of the experiment: of the model as it is, and of what is done to its input.
METRICS = ("top1", "corruption_top1", "fgsm_top1", "pgd_top1", "pgd_eps4_top1", "occlusion_top1")


def compare(run: Run, contenders: Iterable[Contender], path: Path) -> pd.DataFrame:
    """Train every contender with every seed and measure its robustness.

    Returns:
        A row a contender and seed (in the index), a column a number, in per cent: ``METRICS``,
        ``corruption_top1/<name>/<severity>`` a cell and ``occlusion_top1/<share>`` a share of dropped patches.
    """
    return table_of(run, list(contenders), path, partial(measure, quick=run.settings.quick))


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, float]:
    """Accuracy of ``model`` (in eval mode) on the test set, in per cent; see ``compare``."""
    tests = test_set(quick)
    device = next(model.parameters()).device
    normalized = Normalized(model, per_channel(recipe.mean), per_channel(recipe.std)).to(device).eval()
    labels = tests.labels.to(device)

    def top1(images: Tensor, truth: Tensor) -> float:
        return 100 * _correct(normalized, images, truth, device) / len(truth)

    scores = {"top1": top1(tests.clean, tests.clean_labels)}
    cells = {f"corruption_top1/{n}/{s}": top1(images, labels) for (n, s), images in tests.corrupted.items()}
    shares = {f"occlusion_top1/{share}": top1(images, labels) for share, images in tests.occluded.items()}
    scores["corruption_top1"] = math.fsum(cells.values()) / len(cells)
    scores["occlusion_top1"] = math.fsum(shares.values()) / len(shares)
    pixels = tests.images.to(device).float() / 255
    for metric, attack in PROTOCOLS.items():
        adversarial = [
            attack(normalized, part, truth, seeds=range(first, first + len(part)))
            for first, part, truth in zip(range(0, len(pixels), 100), pixels.split(100), labels.split(100), strict=True)
        ]
        scores[metric] = top1(torch.cat(adversarial), labels)
    return {**scores, **cells, **shares}


def _correct(model: nn.Module, images: Tensor, labels: Tensor, device: torch.device) -> int:
    total = 0
    with torch.inference_mode():
        for part, truth in zip(images.split(100), labels.split(100), strict=True):
            pixels = part.to(device)
            pixels = pixels if pixels.is_floating_point() else pixels.float() / 255
            total += int((model(pixels).argmax(1) == truth.to(device)).sum())
    return total


def per_channel(values: Sequence[float]) -> tuple[float, ...]:
    """A recipe's statistics for three equal channels, where it has one value for all."""
    return tuple(values) * 3 if len(values) == 1 else tuple(values)
