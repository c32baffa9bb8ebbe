"""Time series from files in the ``.ts`` format of timeseriesclassification.com, ready for a network.

Shapes: n series, T steps of the longest one, F variables of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError


@dataclass(frozen=True)
class Part:
    """A training or a test set.

    Attributes:
        x: series (n, T, F), standardised by variable, zero where padded.
        mask: (n, T), true where a step is.
        y: classes (n,), or standardised values (n, 1).
    """

    x: Tensor
    mask: Tensor
    y: Tensor


@dataclass(frozen=True)
class DataSet:
    """A data set; what is standardised has mean 0 and standard deviation 1 over the training set.

    Attributes:
        name: as its files are called.
        train, test: its parts.
        classes: how many; 0 where a value is to be predicted.
    """

    name: str
    train: Part
    test: Part
    classes: int


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str], bool]:
    """Read a file.

    Returns:
        The series, (F, its steps) each; what is to be predicted; and whether that is a class.

    Raises:
        UserError: the file is missing, or a line of it is no series.
    """
    if not path.is_file():
        raise UserError(f"There is no {path}; --time-series names the folder that has a folder for each data set.")
    series, targets, classes, data = [], [], False, False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        if not data:
            lower = words.lower()
            classes |= lower.startswith("@classlabel true")
            data = lower == "@data"
            continue
        *variables, target = words.split(":")
        try:
            values = np.array([[float(v) for v in variable.split(",")] for variable in variables])
        except ValueError:
            raise UserError(f"Line {number} of {path} is no series of numbers; fetch the file anew.") from None
        if not values.size or not np.isfinite(values).all():
            raise UserError(f"Line {number} of {path} has missing values, which the network cannot take.")
        series.append(values)
        targets.append(target)
    if not series:
        raise UserError(f"{path} has no series; fetch the file anew.")
    return series, targets, classes


def load(folder: Path, name: str) -> DataSet:
    """Read ``folder/name/name_TRAIN.ts`` and ``name_TEST.ts``.

    Raises:
        UserError: a file is missing or damaged.
    """
    read = [read_ts(folder / name / f"{name}_{part}.ts") for part in ("TRAIN", "TEST")]
    (train, train_targets, classes), (test, test_targets, _) = read
    steps = max(one.shape[1] for one in (*train, *test))
    everything = np.concatenate(train, axis=1)
    mean, std = everything.mean(axis=1, keepdims=True), everything.std(axis=1, keepdims=True) + 1e-8
    if classes:
        labels = sorted(set(train_targets))
        y = [torch.tensor([labels.index(target) for target in targets]) for targets in (train_targets, test_targets)]
    else:
        values = np.array([float(target) for target in train_targets])
        y = [
            torch.tensor([[(float(target) - values.mean()) / values.std()] for target in targets], dtype=torch.float32)
            for targets in (train_targets, test_targets)
        ]
    parts = [
        _part([(one - mean) / std for one in own], steps, target) for own, target in zip((train, test), y, strict=True)
    ]
    return DataSet(name, parts[0], parts[1], len(set(train_targets)) if classes else 0)


def _part(series: list[np.ndarray], steps: int, y: Tensor) -> Part:
    """Series of any length, padded at their end."""
    x = torch.zeros(len(series), steps, len(series[0]))
    mask = torch.zeros(len(series), steps, dtype=torch.bool)
    for row, one in enumerate(series):
        x[row, : one.shape[1]] = torch.from_numpy(one.T)
        mask[row, : one.shape[1]] = True
    return Part(x, mask, y)
