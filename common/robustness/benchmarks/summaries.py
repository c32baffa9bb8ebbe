"""Metrics with confidence intervals from the records of a benchmark's cells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.robustness.benchmarks.base import Records, Value
from common.robustness.metrics import corruption
from common.robustness.metrics.calibration import BIN_SIZE, adaptive_calibration_error, ece
from common.robustness.metrics.detection import detection
from common.robustness.metrics.sequences import mfr, mt5d
from common.robustness.metrics.shape import shape_bias
from common.statistics import mean_interval, wilson


def accuracy(dataset: str, metric: str, right: np.ndarray) -> Value:
    """Share of right predictions in per cent with Wilson's interval."""
    share = wilson(int(right.sum()), right.size)
    return Value(
        dataset=dataset,
        metric=metric,
        value=100 * share.value,
        interval=(100 * share.low, 100 * share.high),
        n=right.size,
    )


def classification(dataset: str, record: Mapping[str, np.ndarray]) -> list[Value]:
    """top1, top5 and the calibration errors."""
    top1, n = record["top1"], record["top1"].size
    values = [accuracy(dataset, "top1", top1), accuracy(dataset, "top5", record["top5"])]
    values.append(Value(dataset=dataset, metric="ece", value=100 * ece(record["confidence"], top1), n=n))
    if n >= 2 * BIN_SIZE:
        for metric, last_bin in (("rms_calibration_error", True), ("rms_calibration_error_released", False)):
            rms = adaptive_calibration_error(record["confidence"], top1, last_bin=last_bin)
            values.append(Value(dataset=dataset, metric=metric, value=100 * rms, n=n))
    return values


def corruptions(dataset: str, records: Records, names: tuple[str, ...]) -> list[Value]:
    """mCE, relative mCE where there are clean images, mean accuracy, and the error of each cell.

    Where ``names`` has the four extra corruptions, too, there is the mean accuracy over all 19.

    All cells hold the same images, so each metric is a mean over images of a weighted sum of that image's errors;
    its interval follows from their spread and takes the correlation between corruptions into account.
    """
    reference = corruption.alexnet()
    errors = {name: [1 - float(records[f"{name}/{s}"]["top1"].mean()) for s in range(1, 6)] for name in names}
    values = []
    for name in names:
        for severity in range(1, 6):
            wrong = 1 - records[f"{name}/{severity}"]["top1"]
            values.append(accuracy(dataset, f"corruption_error/{name}/{severity}", wrong))
    benchmark = [name for name in names if name in reference["error"]]
    per_corruption = {name: _image_errors(records, name) for name in benchmark}
    n = next(iter(per_corruption.values())).size
    detail = {"errors": errors, "corruption_errors": corruption.corruption_errors(errors)}

    def value(metric: str, images: np.ndarray, unit: str, **extra: object) -> Value:
        return Value(
            dataset=dataset,
            metric=metric,
            value=float(images.mean()),
            unit=unit,
            interval=mean_interval(images).interval,
            n=n,
            detail=dict(extra),
        )

    weighted = [100 * per_corruption[name] / reference["error"][name] for name in benchmark]
    values.append(value("mce", np.mean(weighted, axis=0), "", **detail))
    values.append(value("corruption_top1", 100 - 100 * np.mean(list(per_corruption.values()), axis=0), "%"))
    if len(names) > len(benchmark):
        everything = [_image_errors(records, name) for name in names]
        values.append(value(f"corruption_top1_{len(names)}", 100 - 100 * np.mean(everything, axis=0), "%"))
    if "clean" in records:
        clean = 1 - records["clean"]["top1"].astype(float)
        relative = [
            100 * (per_corruption[name] - clean) / (reference["error"][name] - reference["clean_error"])
            for name in benchmark
        ]
        detail = {"relative_corruption_errors": corruption.relative_corruption_errors(errors, float(clean.mean()))}
        values.append(value("relative_mce", np.mean(relative, axis=0), "", **detail))
        values.append(accuracy(dataset, "clean_top1", records["clean"]["top1"]))
    return values


def mean_and_cells(metric: str, records: Records) -> list[Value]:
    """Mean accuracy over all cells, which hold the same images, and the accuracy of each, named as the cell."""
    of_image = 100 * np.mean([record["top1"] for record in records.values()], axis=0, dtype=float)
    mean = mean_interval(of_image)
    cells = [accuracy("imagenet-1k", cell, record["top1"]) for cell, record in records.items()]
    return [
        Value(dataset="imagenet-1k", metric=metric, value=mean.value, interval=mean.interval, n=of_image.size),
        *cells,
    ]


def unknown_classes(dataset: str, records: Records) -> list[Value]:
    """How well the confidence tells the images of ``unknown`` from those of ``known``: AUPR, AUROC, FPR95."""
    found = detection(*(-records[name]["confidence"] for name in ("unknown", "known")))
    n = sum(record["confidence"].size for record in records.values())
    return [Value(dataset=dataset, metric=name, value=100 * getattr(found, name), n=n) for name in found._fields]


def stability(
    dataset: str,
    records: Records,
    alexnet_flips: Mapping[str, float] | None,
    alexnet_distances: Mapping[str, float] | None,
) -> list[Value]:
    """Flip probability and distances of each perturbation; mFR and mT5D where AlexNet's are given."""
    values = []
    for name, record in records.items():
        for column, metric, scale, unit in (
            ("flip", "flip_probability", 100, "%"),
            ("top5_distance", "top5_distance", 1, ""),
            ("zipf_distance", "zipf_distance", 1, ""),
        ):
            mean = mean_interval(scale * record[column].astype(float))
            values.append(
                Value(
                    dataset=dataset,
                    metric=f"{metric}/{name}",
                    value=mean.value,
                    unit=unit,
                    interval=mean.interval,
                    n=record[column].size,
                )
            )
    n = sum(record["flip"].size for record in records.values())
    for metric, relative, column, reference in (
        ("mfr", mfr, "flip", alexnet_flips),
        ("mt5d", mt5d, "top5_distance", alexnet_distances),
    ):
        if reference is not None:
            of_model = {name: float(record[column].mean()) for name, record in records.items()}
            values.append(Value(dataset=dataset, metric=metric, value=relative(of_model, reference), unit="", n=n))
    return values


def cue_conflict(dataset: str, record: Mapping[str, np.ndarray]) -> list[Value]:
    """Shape bias with Wilson's interval over the images decided by shape or texture, and the two shares."""
    decisions, shapes, textures = (record[name].astype(int).tolist() for name in ("decision", "shape", "texture"))
    found = shape_bias(decisions, shapes, textures)
    n = len(decisions)
    by_shape, by_texture = round(found.shape * n), round(found.texture * n)
    share = wilson(by_shape, by_shape + by_texture)
    bias = Value(
        dataset=dataset,
        metric="shape_bias",
        value=100 * found.bias,
        interval=(100 * share.low, 100 * share.high),
        n=by_shape + by_texture,
    )
    shares = [
        Value(dataset=dataset, metric=f"{kind}_share", value=100 * value, n=n)
        for kind, value in (("shape", found.shape), ("texture", found.texture))
    ]
    return [bias, *shares]


def _image_errors(records: Records, name: str) -> np.ndarray:
    """Each image's mean error over the severities of a corruption, ``(N,)``."""
    return 1 - np.mean([records[f"{name}/{s}"]["top1"].astype(float) for s in range(1, 6)], axis=0)
