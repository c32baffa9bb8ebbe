"""The embedded experiment: networks trained on garments as they are, on stylised ones, and on both."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import nn

from common import bench
from common.bench import cue_conflict, stylised
from common.training.data import TensorData
from common.training.recipe import Recipe


@lru_cache(maxsize=1)
def stylised_garments() -> TensorData:
    """The bench's training garments, each with the style of a texture: the stand-in for Stylized-ImageNet (SIN)."""
    data = bench.training_data()
    return TensorData(stylised.training_images(), data.train[1], *data.validation)


@lru_cache(maxsize=1)
def both() -> TensorData:
    """Garments as they are and stylised, of which a training sees half as many each (SIN+IN)."""
    plain, styled = bench.training_data(), stylised_garments()
    images, labels = (torch.cat(pair) for pair in zip(plain.train, styled.train, strict=True))
    return TensorData(images, labels, *plain.validation)


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """Accuracy on plain, corrupted and stylised test images, and what is decided by on cue conflicts.

    Returns:
        ``top1``, ``corruption_top1`` with its cells, ``stylised_top1``, and what `cue_conflict.decisions` returns.
    """
    tests, classifier = bench.test_set(quick), bench.normalised(model, recipe)
    right = bench.correct(classifier, tests.corrupted, tests.labels_of(len(bench.CORRUPTION_CELLS)))
    cells = {
        f"corruption_top1/{name}/{severity}": float(cell.mean())
        for (name, severity), cell in zip(bench.CORRUPTION_CELLS, right, strict=True)
    }
    return {
        "top1": bench.correct(classifier, tests.clean, tests.labels),
        "corruption_top1": right,
        **cells,
        "stylised_top1": bench.correct(classifier, *stylised.test_images(quick)),
        **cue_conflict.decisions(classifier, cue_conflict.test_conflicts(quick)),
    }
