"""The images of the bench: what contenders are trained on, and the test sets that all are measured on.

The 10,000 test images of Fashion-MNIST are divided into `SUBSETS` disjoint subsets, balanced over the classes. A set
that is made of them (a corruption at a severity, an attack, a share of occlusion) is a cell, and cell ``r`` is made of
subset ``r % SUBSETS``: so a mean over many cells is over many images, at the cost of few. Cells are the same for
everyone, are made once, and lie in the data folder, where all processes read them without copying.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from common.bench.scores import SUBSETS
from common.bench.stored import check_sum, stored
from common.data.fashion_mnist import load_fashion_mnist
from common.robustness.corruptions import CORRUPTIONS, corrupt
from common.robustness.occlusion import random_drop
from common.training.data import TensorData

DATASET = "fashion-mnist"
#: Severities of the corruptions; those between them add cost and nothing that these do not show.
SEVERITIES = (1, 3, 5)
#: Shares of the 7x7 tiles (of 4 pixels) that are dropped.
OCCLUSION_SHARES = (0.25, 0.5, 0.75)
OCCLUSION_GRID = 7
#: Training images kept for validation: the test images are for measuring alone.
VALIDATION = 2000
#: Images of a subset that a quick run measures on.
QUICK_IMAGES = 50

#: The cells of corruptions: cell r is the r-th pair.
CORRUPTION_CELLS = tuple((name, severity) for name in CORRUPTIONS for severity in SEVERITIES)


@dataclass(frozen=True)
class TestSet:
    """Test images and what is done to them, uint8; the same for every contender.

    Attributes:
        clean: (SUBSETS, n, 3, 28, 28), all test images by subset; n is 500, or `QUICK_IMAGES`.
        labels: (SUBSETS, n), of ``clean`` and, by the subset of a cell, of everything else.
        corrupted: (cells, n, 3, 28, 28), in the order of `CORRUPTION_CELLS`.
        occluded: (cells, n, 3, 28, 28), in the order of `OCCLUSION_SHARES`.
    """

    clean: Tensor
    labels: Tensor
    corrupted: Tensor
    occluded: Tensor

    def labels_of(self, cells: int) -> Tensor:
        """Labels (cells, n) of a set with so many cells."""
        return self.labels[torch.arange(cells) % SUBSETS]


@lru_cache(maxsize=2)
def test_set(quick: bool) -> TestSet:
    """The test sets; made on first use, which takes a minute, and read from the data folder afterwards."""
    clean, labels = _subsets()
    count = QUICK_IMAGES if quick else clean.shape[1]
    return TestSet(
        clean=clean[:, :count],
        labels=labels[:, :count],
        corrupted=_stored("corrupted", CORRUPTION_CELLS, _corrupted)[:, :count],
        occluded=_stored("occluded", OCCLUSION_SHARES, _occluded)[:, :count],
    )


@lru_cache(maxsize=1)
def training_data() -> TensorData:
    """Fashion-MNIST's training images as three equal channels, the last of them for validation."""
    data = load_fashion_mnist()
    images, labels = _three_channels(data.train_images), data.train_labels
    return TensorData(images[:-VALIDATION], labels[:-VALIDATION], images[-VALIDATION:], labels[-VALIDATION:])


@lru_cache(maxsize=1)
def _subsets() -> tuple[Tensor, Tensor]:
    """All test images (SUBSETS, 500, 3, 28, 28) and labels (SUBSETS, 500).

    The images of a class go round the subsets in turn; within a subset the classes take turns, so that its first
    images are balanced, too.
    """
    data = load_fashion_mnist()
    by_class = torch.stack([(data.test_labels == label).nonzero()[:, 0] for label in range(10)])  # (10, 1000)
    order = by_class.view(10, -1, SUBSETS).permute(2, 1, 0).flatten(1)  # (SUBSETS, 500)
    return _three_channels(data.test_images[order.flatten()]).unflatten(0, order.shape), data.test_labels[order]


def _corrupted(cell: int) -> Tensor:
    name, severity = CORRUPTION_CELLS[cell]
    images = _subsets()[0][cell % SUBSETS]
    return corrupt(images, name, severity, seeds=_seeds(cell, len(images)))


def _occluded(cell: int) -> Tensor:
    images, tiles = _subsets()[0][cell % SUBSETS], OCCLUSION_GRID**2
    dropped = round(OCCLUSION_SHARES[cell] * tiles)
    return random_drop(images, dropped, grid=OCCLUSION_GRID, seeds=_seeds(cell, len(images)))


def _seeds(cell: int, count: int) -> range:
    """A seed for each image of a cell, others in each subset."""
    first = (cell % SUBSETS) * count
    return range(first, first + count)


def _stored(name: str, cells: tuple[object, ...], make: Callable[[int], Tensor]) -> Tensor:
    """The cells of a set, (cells, 500, 3, 28, 28)."""
    return stored(f"{name}-test", _version(repr(cells)), make, len(cells)).unflatten(0, (len(cells), -1))


def _version(cells: str) -> str:
    """A check sum of the data and of all code and parameters that test images are made by."""
    robustness = Path(__file__).parents[1] / "robustness"
    sources = [path for path in sorted((robustness / "corruptions").glob("*.*")) if path.suffix in (".py", ".toml")]
    return check_sum(*sources, robustness / "occlusion.py", robustness / "draws.py", Path(__file__), text=cells)


def _three_channels(images: Tensor) -> Tensor:
    return images[:, None].repeat(1, 3, 1, 1)
