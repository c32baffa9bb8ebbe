"""Full-scale evaluation on CIFAR-10 and CIFAR-100, and on their corrupted test sets.

CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich, arXiv 1903.12261) are one array per corruption, the test set at
severities 1 to 5 one after another, and one array of labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.checkpoints import taken_weights
from common.data.cifar import load_cifar
from common.data.preprocessing import Preprocessing
from common.errors import UserError
from common.measurement import Measurement
from common.progress import track
from common.robustness.corruptions import CORRUPTIONS, SEVERITIES
from common.robustness.full_scale_measures import load_model
from common.robustness.metrics.calibration import adaptive_calibration_error, corruption_calibration_error
from common.robustness.prediction import predict
from common.run import Run
from common.statistics import mean_interval, wilson

#: What is done, written with every number; the version rises when the procedure changes.
PROTOCOL = "cifar/1, every bin of a calibration error counted"


def _clean(classes: int) -> Callable[[Run], Iterator[Measurement]]:
    def measure(run: Run) -> Iterator[Measurement]:
        model, name, weights = load_model(run, classes)
        dataset = f"cifar-{classes}"
        kept = slice(run.settings.limit)
        images, labels = load_cifar(f"torch/cifar{classes}", run.settings.folders[dataset], train=False)
        confidence, correct = _predict(model, images[kept], labels[kept], run)
        share = wilson(int(correct.sum()), correct.size)
        calibration = adaptive_calibration_error(confidence, correct, last_bin=True)
        for metric, value, interval in (
            ("top1", share.value, (100 * share.low, 100 * share.high)),
            ("rms_calibration_error", calibration, None),
        ):
            yield Measurement(
                model=name,
                dataset=dataset,
                metric=metric,
                value=100 * value,
                unit="%",
                weights=weights,
                interval=interval,
                n=correct.size,
                protocol="; ".join(filter(None, [PROTOCOL, taken_weights(model)])),
            )

    measure.__doc__ = f"Measure the user's checkpoint on CIFAR-{classes}'s test set."
    return measure


def _corrupted(classes: int) -> Callable[[Run], Iterator[Measurement]]:
    def measure(run: Run) -> Iterator[Measurement]:
        model, name, weights = load_model(run, classes)
        dataset = f"cifar-{classes}-c"
        kept = slice(run.settings.limit)
        cells = {}
        for corruption in track(CORRUPTIONS, f"CIFAR-{classes}-C", len(CORRUPTIONS)):
            for severity in SEVERITIES:
                images, labels = read_cell(run.settings.folders[dataset], corruption, severity)
                cells[corruption, severity] = _predict(model, images[kept], labels[kept], run)
        # All cells hold the same images: an image's accuracy over the cells is one observation.
        of_image = 100 * np.mean([correct for _, correct in cells.values()], axis=0)
        top1 = mean_interval(of_image)
        calibration = 100 * corruption_calibration_error(cells)
        errors = {
            corruption: [float(100 * (1 - cells[corruption, severity][1].mean())) for severity in SEVERITIES]
            for corruption in CORRUPTIONS
        }
        for metric, value, interval in (
            ("corruption_top1", top1.value, (top1.low, top1.high)),
            ("corruption_error", 100 - top1.value, (100 - top1.high, 100 - top1.low)),
            ("corruption_rms_calibration_error", calibration, None),
        ):
            yield Measurement(
                model=name,
                dataset=dataset,
                metric=metric,
                value=value,
                unit="%",
                weights=weights,
                interval=interval,
                n=of_image.size,
                protocol="; ".join(filter(None, [PROTOCOL, taken_weights(model)])),
                detail={"errors": errors},
            )

    measure.__doc__ = f"Measure the user's checkpoint on CIFAR-{classes}-C."
    return measure


cifar_10 = _clean(10)
cifar_100 = _clean(100)
cifar_10_c = _corrupted(10)
cifar_100_c = _corrupted(100)


def read_cell(folder: Path, corruption: str, severity: int) -> tuple[Tensor, Tensor]:
    """The images, uint8 (N, 3, 32, 32), of one corruption and severity, and their labels (N,).

    Raises:
        UserError: a file is missing or holds something else.
    """
    arrays = {}
    for name in (corruption, "labels"):
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); give the folder of the unpacked data set.") from None
    images, labels = arrays[corruption], arrays["labels"]
    count = len(labels) // len(SEVERITIES)
    if images.dtype != np.uint8 or images.shape != (len(labels), 32, 32, 3) or count * len(SEVERITIES) != len(labels):
        raise UserError(
            f"{folder / corruption}.npy holds {images.dtype} {images.shape}, where bytes (N, 32, 32, 3) are expected, "
            f"N the {len(labels)} labels, a multiple of {len(SEVERITIES)}; get it again."
        )
    part = slice((severity - 1) * count, severity * count)
    cell = torch.from_numpy(np.array(images[part])).permute(0, 3, 1, 2)
    return cell, torch.from_numpy(np.array(labels[part]).astype(np.int64))


def _predict(model: nn.Module, images: Tensor, labels: Tensor, run: Run) -> tuple[np.ndarray, np.ndarray]:
    declared = Preprocessing.of(model)
    return predict(model, images, labels, mean=declared.mean, std=declared.std, batch_size=run.settings.batch_size)
