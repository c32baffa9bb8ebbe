"""What a benchmark is: stages that are read once, cells that are computed on what was read, and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from common.robustness.benchmarks.pictures import Pictures
from common.robustness.benchmarks.scores import Score
from common.robustness.benchmarks.videos import Videos

#: Images ``(B, 3, H, W)`` uint8, labels, seeds (one an image) and the model on [0, 1] to the images that are scored,
#: float in [0, 1].
Change = Callable[[Tensor, Tensor, Sequence[int], nn.Module], Tensor]

#: Per-image records of each cell: cell name to column name to ``(N,)`` float32.
Records = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Cell:
    """One number's worth of work: a change of the images (a corruption at a severity, an attack, or none).

    Attributes:
        name: unique in its benchmark, e.g. ``gaussian_noise/3``.
        change: how images become what is scored.
    """

    name: str
    change: Change


@dataclass(frozen=True)
class Stage:
    """Pictures that are read and decoded once for all of the stage's cells.

    Attributes:
        name: for progress.
        read: opens the pictures; called when the stage is evaluated, since listing millions of files takes time.
        score: what is recorded of each image.
        cells: what is computed on the decoded pictures.
    """

    name: str
    read: Callable[[], Pictures | Videos]
    score: Score
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A metric of a benchmark.

    Attributes:
        dataset: key of the data set.
        metric: name that fixes the protocol.
        value: in ``unit``.
        unit: ``%`` or empty.
        interval: 95 % confidence interval over images, or None where there is none.
        n: number of images.
        detail: what the value is made of.
    """

    dataset: str
    metric: str
    value: float
    unit: str = "%"
    interval: tuple[float, float] | None = None
    n: int
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark set on disk and how a model is measured on it.

    Attributes:
        name: as in ``BENCHMARKS``.
        description: what of the protocol is the benchmark's own, for the record.
        stages: the work.
        summarise: metrics from the records of all cells.
    """

    name: str
    description: str
    stages: tuple[Stage, ...]
    summarise: Callable[[Records], list[Value]]
