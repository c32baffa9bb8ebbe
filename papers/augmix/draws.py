"""What AugMix leaves to chance, drawn apart from what is done with it, so that both implementations can share it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UserError

#: The operations of AugMix, and after them the four that ImageNet-C has as corruptions too.
OPERATIONS = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
OVERLAPPING = ("color", "contrast", "brightness", "sharpness")
ALL_OPERATIONS = (*OPERATIONS, *OVERLAPPING)

#: Operations that leave nothing to chance; those that can go either way; those of whole bits, degrees, levels, pixels.
FIXED = ("autocontrast", "equalize")
SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
WHOLE = ("posterize", "rotate", "solarize", "translate_x", "translate_y")

#: Magnitude of an operation at level 10: bits, degrees, levels of grey, slope, share of the side, factor.
_AT_TEN = {"posterize": 4.0, "rotate": 30.0, "solarize": 256.0, "shear_x": 0.3, "shear_y": 0.3} | dict.fromkeys(
    OVERLAPPING, 1.8
)
#: Levels are drawn from here up to the severity, and are part of ten.
LOWEST_LEVEL = 0.1
HIGHEST_SEVERITY = 10.0
#: Where the depth of a chain is drawn, it is at most this.
DEEPEST = 3


@dataclass(frozen=True, kw_only=True)
class AugMixSettings:
    """How images are augmented and mixed; the defaults are the publication's for CIFAR.

    Attributes:
        severity: operations draw their level between 0.1 and this, of 10 at most. The released code has 3 for CIFAR
            and 1 for ImageNet.
        width: number of chains that are mixed.
        depth: number of operations in a chain; -1: drawn from 1, 2 and 3 for each chain.
        alpha: concentration of the Dirichlet distribution of the chains' weights and of the Beta distribution of
            their share.
        all_operations: whether color, contrast, brightness and sharpness, which resemble corruptions of ImageNet-C,
            may occur too.

    Raises:
        UserError: a value is out of range.
    """

    severity: float = 3.0
    width: int = 3
    depth: int = -1
    alpha: float = 1.0
    all_operations: bool = False

    def __post_init__(self) -> None:
        if not LOWEST_LEVEL < self.severity <= HIGHEST_SEVERITY:
            raise UserError(f"The severity of AugMix is above {LOWEST_LEVEL} and at most 10, not {self.severity}.")
        if self.width < 1:
            raise UserError(f"AugMix mixes at least one chain; the width cannot be {self.width}.")
        if self.depth != -1 and self.depth < 1:
            raise UserError(f"A chain of AugMix has at least one operation, or -1 to draw it; not {self.depth}.")
        if not self.alpha > 0:
            raise UserError(f"The concentration alpha of AugMix must be above 0, not {self.alpha}.")

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that may occur."""
        return ALL_OPERATIONS if self.all_operations else OPERATIONS

    @property
    def longest(self) -> int:
        """The largest number of operations in a chain."""
        return DEEPEST if self.depth == -1 else self.depth


@dataclass(frozen=True, kw_only=True)
class Draws:
    """All that chance decides for N images with W chains of up to D operations.

    Attributes:
        weights: of the chains, (N, W) float32, rows sum to 1.
        share: of the augmented image in the result, (N,) float32 in [0, 1]; the rest is the image itself.
        depth: operations of each chain, (N, W) integers from 1 to D.
        operation: index in ``ALL_OPERATIONS``, (N, W, D) integers; beyond a chain's depth of no effect, like the
            following two.
        level: strength of each operation, (N, W, D) float64 in [0, 10].
        negative: whether the operation goes to the other side (rotate, shear and translate), (N, W, D) bool.
    """

    weights: np.ndarray
    share: np.ndarray
    depth: np.ndarray
    operation: np.ndarray
    level: np.ndarray
    negative: np.ndarray

    @classmethod
    def sample(cls, count: int, settings: AugMixSettings, generator: np.random.Generator) -> Draws:
        """Draw for ``count`` images at once."""
        chains = (count, settings.width)
        steps = (*chains, settings.longest)
        fixed = settings.depth != -1
        return cls(
            weights=generator.dirichlet([settings.alpha] * settings.width, count).astype(np.float32),
            share=generator.beta(settings.alpha, settings.alpha, count).astype(np.float32),
            depth=np.full(chains, settings.depth) if fixed else generator.integers(1, DEEPEST + 1, chains),
            operation=generator.integers(0, len(settings.operations), steps),
            level=generator.uniform(LOWEST_LEVEL, settings.severity, steps),
            negative=generator.random(steps) > 0.5,
        )

    @classmethod
    def in_released_order(cls, count: int, settings: AugMixSettings, random: np.random.RandomState) -> Draws:
        """Draw image by image on NumPy's legacy generator, in the order of the released code.

        A generator with the same seed then gives what the released ``augment_and_mix`` draws for these images, one
        after the other: weights, share, then for each chain its depth (unless it is set) and its operations, each
        followed by its level and its side where it has them.
        """
        chains = (count, settings.width)
        steps = (*chains, settings.longest)
        draws = cls(
            weights=np.empty(chains, np.float32),
            share=np.empty(count, np.float32),
            depth=np.full(chains, settings.depth),
            operation=np.zeros(steps, np.int64),
            level=np.zeros(steps),
            negative=np.zeros(steps, bool),
        )
        for image in range(count):
            draws.weights[image] = random.dirichlet([settings.alpha] * settings.width)
            draws.share[image] = random.beta(settings.alpha, settings.alpha)
            for chain in range(settings.width):
                if settings.depth == -1:
                    draws.depth[image, chain] = random.randint(1, DEEPEST + 1)
                for step in range(draws.depth[image, chain]):
                    here = image, chain, step
                    draws.operation[here] = random.choice(len(settings.operations))
                    name = ALL_OPERATIONS[draws.operation[here]]
                    if name not in FIXED:
                        draws.level[here] = random.uniform(LOWEST_LEVEL, settings.severity)
                    if name in SIGNED:
                        draws.negative[here] = random.uniform() > 0.5
        return draws


def magnitudes(operation: np.ndarray, level: np.ndarray, negative: np.ndarray, width: int, height: int) -> np.ndarray:
    """What each operation's level means, in its own unit.

    Args:
        operation, level, negative: of one shape, as in `Draws`.
        width, height: of the images, in pixels.

    Returns:
        float64 of the same shape: bits that are kept (posterize), degrees (rotate), the first level of grey that is
        inverted (solarize), slope (shear), pixels (translate), factor (color, contrast, brightness, sharpness), 0
        for autocontrast and equalize.
    """
    at_ten = _AT_TEN | {"translate_x": width / 3, "translate_y": height / 3}
    value = level * np.array([at_ten.get(name, 0.0) for name in ALL_OPERATIONS])[operation] / 10
    value = np.where(_among(WHOLE)[operation], np.trunc(value), value)
    value = np.where(_among(SIGNED)[operation] & negative, -value, value)
    value = np.where(_among(("posterize",))[operation], 4 - value, value)
    value = np.where(_among(("solarize",))[operation], 256 - value, value)
    return np.where(_among(OVERLAPPING)[operation], value + 0.1, value)


def _among(names: tuple[str, ...]) -> np.ndarray:
    return np.array([name in names for name in ALL_OPERATIONS])
