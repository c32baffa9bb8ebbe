"""What contenders are measured by: accuracy on clean, corrupted, attacked and occluded images; calibration.

A measure is a function of the trained model, its recipe and whether the run is quick; values are kept by image, see
`common.bench.scores`. A paper's own measure is such a function, too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common.bench.images import CORRUPTION_CELLS, OCCLUSION_SHARES, QUICK_IMAGES, test_set
from common.robustness.attacks import PROTOCOLS, Attack
from common.robustness.metrics.calibration import BIN_SIZE, adaptive_calibration_error, corruption_calibration_error
from common.robustness.normalisation import Normalized
from common.robustness.prediction import predict
from common.training.recipe import Recipe

#: What `robustness` measures.
ROBUSTNESS = ("top1", "corruption_top1", "fgsm_top1", "pgd_top1", "pgd_eps4_top1", "occlusion_top1")
#: What `calibration` measures.
CALIBRATION = ("top1", "corruption_top1", "rms_calibration_error", "corruption_rms_calibration_error")
#: Images of a forward pass.
BATCH = 250


def accuracy(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """``top1`` on all test images."""
    tests = test_set(quick)
    return {"top1": correct(normalised(model, recipe), tests.clean, tests.labels)}


def robustness(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """The metrics of `ROBUSTNESS`, and every corruption and share as ``METRIC/CELL``."""
    tests = test_set(quick)
    classifier = normalised(model, recipe)
    found: dict[str, np.ndarray | float] = {
        "top1": correct(classifier, tests.clean, tests.labels),
        "corruption_top1": correct(classifier, tests.corrupted, tests.labels_of(len(CORRUPTION_CELLS))),
        "occlusion_top1": correct(classifier, tests.occluded, tests.labels_of(len(OCCLUSION_SHARES))),
    }
    for metric, attack in PROTOCOLS.items():
        found[metric] = correct_under_attack(classifier, attack, tests.clean[0], tests.labels[0])
    for (name, severity), right in zip(CORRUPTION_CELLS, np.asarray(found["corruption_top1"]), strict=True):
        found[f"corruption_top1/{name}/{severity}"] = float(right.mean())
    for share, right in zip(OCCLUSION_SHARES, np.asarray(found["occlusion_top1"]), strict=True):
        found[f"occlusion_top1/{share}"] = float(right.mean())
    return found


def calibration(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """The metrics of `CALIBRATION`: calibration errors are root mean squares over bins of 100 images, each counted.

    A quick run has too few images under a corruption for that; its bins are of `QUICK_IMAGES`.
    """
    tests = test_set(quick)
    mean, std = (per_channel(values) for values in (recipe.mean, recipe.std))
    sure, right = predict(model, tests.clean.flatten(0, 1), tests.labels.flatten(), mean=mean, std=std)
    labels = tests.labels_of(len(CORRUPTION_CELLS))
    cells = {
        cell: predict(model, images, truth, mean=mean, std=std)
        for cell, images, truth in zip(CORRUPTION_CELLS, tests.corrupted, labels, strict=True)
    }
    bin_size = QUICK_IMAGES if quick else BIN_SIZE
    return {
        "top1": right.reshape(tests.labels.shape),
        "corruption_top1": np.stack([hit for _, hit in cells.values()]),
        "rms_calibration_error": adaptive_calibration_error(sure, right, last_bin=True),
        "corruption_rms_calibration_error": corruption_calibration_error(cells, bin_size=bin_size),
        **{f"corruption_top1/{n}/{s}": float(hit.mean()) for (n, s), (_, hit) in cells.items()},
    }


def normalised(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The model with its recipe's normalisation: images (B, 3, H, W) in [0, 1] to logits."""
    device = _device(model)
    return Normalized(model, per_channel(recipe.mean), per_channel(recipe.std)).to(device).eval()


def correct(classifier: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Whether ``classifier`` (of images in [0, 1]) is right: (cells, n) of 0 and 1.

    Args:
        classifier: images (B, 3, H, W) in [0, 1] to logits.
        images: (cells, n, 3, H, W), uint8 or in [0, 1].
        labels: (cells, n).
    """
    right = []
    with torch.inference_mode():
        for part in images.flatten(0, 1).split(BATCH):
            right.append(classifier(_pixels(part, classifier)).argmax(dim=1).cpu())
    return (torch.cat(right).view(labels.shape) == labels.cpu()).numpy()


def correct_under_attack(classifier: nn.Module, attack: Attack, images: Tensor, labels: Tensor) -> np.ndarray:
    """Whether ``classifier`` is right on attacked images: (1, n) of 0 and 1, since an attack is one cell.

    Args:
        classifier: images (B, 3, H, W) in [0, 1] to logits.
        attack: whose random numbers are those of an image's place, whatever else is attacked.
        images: (n, 3, H, W), uint8 or in [0, 1].
        labels: (n,).
    """
    attacked = []
    for first in range(0, len(images), BATCH):
        part, truth = images[first : first + BATCH], labels[first : first + BATCH]
        seeds = range(first, first + len(part))
        attacked.append(attack(classifier, _pixels(part, classifier), truth.to(_device(classifier)), seeds=seeds))
    return correct(classifier, torch.cat(attacked)[None], labels[None])


def per_channel(values: tuple[float, ...]) -> tuple[float, ...]:
    """A recipe's statistics for three equal channels, where it has one value for all."""
    return tuple(values) * 3 if len(values) == 1 else tuple(values)


def _pixels(images: Tensor, classifier: nn.Module) -> Tensor:
    """Images in [0, 1], float, on the classifier's device."""
    images = images.to(_device(classifier))
    return images if images.is_floating_point() else images.float() / 255


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
