"""What PixMix leaves to chance, drawn apart from what is done with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from papers.augmix.draws import ALL_OPERATIONS, HIGHEST_SEVERITY, LOWEST_LEVEL, OPERATIONS

MIXINGS = ("add", "multiply")


@dataclass(frozen=True, kw_only=True)
class PixMixSettings:
    """How images are mixed; the defaults are the released ones for CIFAR.

    Attributes:
        k: largest number of rounds of mixing; the number is drawn from 0 on.
        beta: concentration of the weights; the larger, the less the second picture counts.
        severity: of the operations that augment an image, see `papers.augmix.draws.AugMixSettings`.
        all_operations: whether color, contrast, brightness and sharpness may occur, too.

    Raises:
        UserError: a value is out of range.
    """

    k: int = 4
    beta: float = 3.0
    severity: float = 3.0
    all_operations: bool = True

    def __post_init__(self) -> None:
        if self.k < 0:
            raise UserError(f"PixMix cannot mix {self.k} times; k is at least 0.")
        if not self.beta > 0:
            raise UserError(f"The concentration beta of PixMix must be above 0, not {self.beta}.")
        if not LOWEST_LEVEL < self.severity <= HIGHEST_SEVERITY:
            raise UserError(f"The severity of PixMix is above {LOWEST_LEVEL} and at most 10, not {self.severity}.")


@dataclass(frozen=True, kw_only=True)
class Draws:
    """All that chance decides for N images with up to k rounds.

    Attributes:
        rounds: of mixing, (N,) integers from 0 to k.
        augmented: (N, k + 1) bool; first, whether mixing starts from an augmented copy of the image, then for each
            round, whether the second picture is a fresh augmented copy of the image and not the picture.
        operation, level, negative: of each such copy, (N, k + 1), as in `papers.augmix.draws.Draws`.
        mixing: index in ``MIXINGS`` for each round, (N, k) integers.
        a, b: weights of each round, (N, k) float32.
    """

    rounds: np.ndarray
    augmented: np.ndarray
    operation: np.ndarray
    level: np.ndarray
    negative: np.ndarray
    mixing: np.ndarray
    a: np.ndarray
    b: np.ndarray

    @classmethod
    def sample(cls, count: int, settings: PixMixSettings, generator: np.random.Generator) -> Draws:
        """Draw for ``count`` images at once."""
        copies, rounds = (count, settings.k + 1), (count, settings.k)
        operations = ALL_OPERATIONS if settings.all_operations else OPERATIONS
        small, other = (generator.beta(1, settings.beta, rounds) for _ in range(2))
        large = generator.beta(settings.beta, 1, rounds)
        positive = generator.random(rounds) < 0.5
        return cls(
            rounds=generator.integers(0, settings.k + 1, count),
            augmented=generator.random(copies) < 0.5,
            operation=generator.integers(0, len(operations), copies),
            level=generator.uniform(LOWEST_LEVEL, settings.severity, copies),
            negative=generator.random(copies) > 0.5,
            mixing=generator.integers(0, len(MIXINGS), rounds),
            a=np.where(positive, large, 1 + small).astype(np.float32),
            b=np.where(positive, other, -other).astype(np.float32),
        )
