"""The battery: all that PixMix is said to improve, measured on one network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.robustness.attacks import Pgd
from common.robustness.metrics.detection import detection
from common.robustness.metrics.sequences import NOISE, flip_probability
from common.robustness.prediction import predict
from common.training.recipe import Recipe
from papers.pixmix.anomalies import KNOWN, anomalies
from papers.pixmix.frames import PERTURBATIONS, sequences

#: In the order in which the paper names what is to be safe.
BATTERY = (
    "top1",
    "corruption_top1",
    "flip_rate",
    "pgd_eps2_top1",
    "rms_calibration_error",
    "corruption_rms_calibration_error",
    "auroc",
    "aupr",
)
#: The attack of the released evaluation on CIFAR.
ATTACK = Pgd(epsilon=2 / 255, step=0.5 / 255, steps=20, random_start=True)
#: Images of a forward pass.
BATCH = 250


def battery(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """The metrics of `BATTERY`; each corruption, perturbation and set of anomalies as ``METRIC/CELL``."""
    classifier = bench.normalised(model, recipe)
    found = dict(bench.calibration(model, recipe, quick))
    found["flip_rate"] = _flips(classifier, quick)
    found["pgd_eps2_top1"] = _attacked(classifier, quick)
    for name, flips in zip(PERTURBATIONS, np.asarray(found["flip_rate"]), strict=True):
        found[f"flip_rate/{name}"] = float(flips.mean())
    known = _unsure(model, recipe, bench.test_set(quick).clean[:KNOWN].flatten(0, 1))
    told = {name: detection(_unsure(model, recipe, images), known) for name, images in anomalies(quick).items()}
    found["auroc"] = float(np.mean([one.auroc for one in told.values()]))
    found["aupr"] = float(np.mean([one.aupr for one in told.values()]))
    for name, one in told.items():
        found[f"auroc/{name}"] = one.auroc
    return found


def _flips(classifier: nn.Module, quick: bool) -> np.ndarray:
    """Share of frames whose prediction differs, of each sequence, (perturbations, n)."""
    frames = sequences(quick)
    kinds, count, length = frames.shape[:3]
    device = next(classifier.parameters()).device
    with torch.inference_mode():
        parts = frames.flatten(0, 2).split(BATCH)
        predictions = torch.cat([classifier(part.to(device).float() / 255).argmax(dim=1).cpu() for part in parts])
    by_sequence = predictions.view(kinds, count, length)
    flips = [flip_probability(one, noise=name in NOISE) for name, one in zip(PERTURBATIONS, by_sequence, strict=True)]
    return torch.stack(flips).numpy()


def _attacked(classifier: nn.Module, quick: bool) -> np.ndarray:
    """Whether images of the first subset are recognised under attack, (1, n)."""
    tests, device = bench.test_set(quick), next(classifier.parameters()).device
    images, labels = tests.clean[0], tests.labels[0]
    attacked = [
        ATTACK(
            classifier,
            images[first : first + BATCH].to(device).float() / 255,
            labels[first : first + BATCH].to(device),
            seeds=range(first, min(first + BATCH, len(images))),
        )
        for first in range(0, len(images), BATCH)
    ]
    return bench.correct(classifier, torch.cat(attacked)[None], labels[None])


def _unsure(model: nn.Module, recipe: Recipe, images: Tensor) -> np.ndarray:
    """Minus the largest probability of each image: the score of an anomaly."""
    mean, std = (bench.per_channel(values) for values in (recipe.mean, recipe.std))
    return -predict(model, images, torch.zeros(len(images)), mean=mean, std=std)[0]
