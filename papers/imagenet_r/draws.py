"""The chance in DeepAugment, apart from what is done with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")


class Draws:
    """Random draws from one generator; a test gives what the release drew in its place.

    Args:
        seed: of the generator.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def choice(self, items: Sequence[Item]) -> Item:
        """One of ``items``."""
        return items[self.integer(0, len(items) - 1)]

    def integer(self, low: int, high: int) -> int:
        """From ``low`` to ``high``, both included."""
        return int(self._generator.integers(low, high, endpoint=True))

    def place(self) -> tuple[int, int]:
        """Row and column of a tap in a 3x3 kernel."""
        return self.integer(0, 2), self.integer(0, 2)

    def uniform(self) -> float:
        """In [0, 1)."""
        return float(self._generator.random())

    def uniforms(self, shape: Sequence[int]) -> Tensor:
        """In [0, 1), float32."""
        return torch.from_numpy(self._generator.random(tuple(shape), dtype=np.float32))

    def dirichlet(self, count: int, shape: Sequence[int]) -> Tensor:
        """Points of a Dirichlet distribution with parameters 0.1, float32 (*shape, count)."""
        return torch.from_numpy(self._generator.dirichlet([0.1] * count, tuple(shape)).astype(np.float32))

    def permutation(self, count: int) -> list[int]:
        """The numbers below ``count``, in random order."""
        return [int(number) for number in self._generator.permutation(count)]
