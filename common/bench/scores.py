"""Scores: what every contender reached with every seed, kept by image wherever it is made of images.

Which images a value is over decides how certain it is. So a measure keeps them: its value is an array whose place is
the image's identity, the same for all contenders, seeds and metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.errors import nearest
from common.manifest import NEW_METRIC, metrics

#: The test set is divided into this many disjoint subsets, balanced over classes, which rotate over the cells of a
#: metric: cell ``r`` is measured on subset ``r % SUBSETS``. So a mean over many cells is over many images.
SUBSETS = 20


@dataclass(frozen=True)
class Metric:
    """What ``common.manifest.metrics`` says of a metric: ``sign`` is 1 where higher is better, -1 where lower is."""

    name: str
    unit: str
    sign: int

    @property
    def scale(self) -> float:
        """What an array's mean is multiplied by: 100 for a share, which is told in per cent."""
        return 100.0 if self.unit == "%" else 1.0


def metric(name: str) -> Metric:
    """The metric ``name``; one of its cells is called ``METRIC/CELL``.

    Raises:
        ValueError: it is in no table of metrics.
    """
    known = metrics()
    row = name if name in known.index else name.partition("/")[0]
    if row not in known.index:
        raise ValueError(f"unknown metric {name!r}.{nearest(name, known.index)} {NEW_METRIC}")
    return Metric(name, str(known.loc[row, "unit"]), -1 if known.loc[row, "better"] == "lower" else 1)


@dataclass(frozen=True)
class Scores:
    """Values of contenders by seed, metric and image.

    Attributes:
        values: ``(contender, seed)`` -> metric -> array; every contender with every seed, every metric in the same
            shape. An array of shape (cells, images) holds values by image (right or wrong, or any number): its column
            ``i`` in cell ``r`` is image ``i`` of subset ``r % SUBSETS``. A 0-d array is a number without a sample of
            images, such as a calibration error. The mean of the array is the metric's value: a share in [-1, 1] where
            the metric's unit is %.

    Raises:
        ValueError: something is missing, of another shape than elsewhere, not finite, or in per cent.
    """

    values: Mapping[tuple[str, int], Mapping[str, np.ndarray]]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("scores need at least one contender and seed")
        first = next(iter(self.values.values()))
        for contender in self.contenders:
            for seed in self.seeds:
                if (contender, seed) not in self.values:
                    raise ValueError(f"{contender} has no scores with seed {seed}, as others have")
                own = self.values[contender, seed]
                if list(own) != list(first):
                    raise ValueError(f"{contender} with seed {seed} has the metrics {list(own)}, not {list(first)}")
                for name, array in own.items():
                    _check(f"{contender}, seed {seed}, {name}", metric(name), array, np.shape(first[name]))

    @cached_property
    def contenders(self) -> tuple[str, ...]:
        """Names of the contenders, in order."""
        return tuple(dict.fromkeys(contender for contender, _ in self.values))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in order."""
        return tuple(dict.fromkeys(seed for _, seed in self.values))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in order."""
        return tuple(next(iter(self.values.values())))

    def array(self, name: str) -> np.ndarray:
        """All values of a metric: (contenders, seeds), or (contenders, seeds, cells, images).

        Raises:
            ValueError: it was not measured.
        """
        if name not in self.metrics:
            raise ValueError(f"{name} was not measured.{nearest(name, self.metrics)} There are {self.metrics}.")
        rows = [[self.values[contender, seed][name] for seed in self.seeds] for contender in self.contenders]
        return np.asarray(rows, dtype=np.float64)

    def by_seed(self, name: str) -> np.ndarray:
        """The metric's value with each seed, (contenders, seeds), in the metric's unit."""
        array = self.array(name)
        return metric(name).scale * array.mean(axis=tuple(range(2, array.ndim)))

    def per_seed(self, contender: str, name: str) -> list[float]:
        """The metric's value of one contender with each seed, in the metric's unit."""
        return [float(value) for value in self.by_seed(name)[self.index(contender)]]

    def mean(self, contender: str, name: str) -> float:
        """The mean over seeds, in the metric's unit."""
        return float(np.mean(self.per_seed(contender, name)))

    def index(self, contender: str) -> int:
        """The contender's place.

        Raises:
            ValueError: there is none of this name.
        """
        if contender not in self.contenders:
            known = ", ".join(self.contenders)
            raise ValueError(f"no contender {contender!r}.{nearest(contender, self.contenders)} There are {known}.")
        return self.contenders.index(contender)

    def images(self, name: str) -> int | None:
        """How many different images a metric is over; None where it has no sample of images."""
        shape = self.array(name).shape
        return None if len(shape) == 2 else min(shape[2], SUBSETS) * shape[3]

    def cells(self, name: str) -> Iterator[str]:
        """Names of the metrics that are cells of ``name``."""
        return (other for other in self.metrics if other.startswith(f"{name}/"))


def _check(where: str, of: Metric, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if np.shape(array) != shape:
        raise ValueError(f"{where}: an array of shape {np.shape(array)}, not {shape} as of the others")
    if len(shape) not in (0, 2) or 0 in shape:
        raise ValueError(f"{where}: an array of shape {shape}; give (cells, images), or a single number")
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: not a finite number")
    if of.unit == "%" and np.abs(array).max() > 1:
        raise ValueError(f"{where}: {np.abs(array).max():g} is no share; what is told in per cent is given in [-1, 1]")
