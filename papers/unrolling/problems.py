"""Sparse coding problems with known codes: synthetic ones, and patches of photographs.

All numbers are drawn on the CPU in float64 from the seed, so that a problem is the same in every run.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import torch
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from common.data.fashion_mnist import load_fashion_mnist
from common.errors import UserError
from common.sparse_coding import solve
from papers.unrolling.settings import Experiment

#: Patches whose standard deviation (of pixels in [0, 1]) is below this are background or plain cloth, and left out.
LEAST_CONTRAST = 0.1


@dataclass(frozen=True)
class Problem:
    """A dictionary, signals with the codes that are to be found, and a source of training pairs. All float64.

    Attributes:
        dictionary: P, (N, m), columns of unit norm.
        signals: (N, n), to be tested with.
        codes: (m, n), the codes of ``signals``.
        density: share of non-zero entries of the codes that training pairs are drawn with; None where these are given.
        training: signals and codes to train on, or None where they are drawn.
    """

    dictionary: Tensor
    signals: Tensor
    codes: Tensor
    density: float | None = None
    training: tuple[Tensor, Tensor] | None = None

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``size`` training pairs: signals (N, size), codes (m, size)."""
        if self.training is None:
            assert self.density is not None
            return _draw(self.dictionary, self.density, size, generator)
        signals, codes = self.training
        chosen = torch.randint(signals.shape[1], (size,), generator=generator)
        return signals[:, chosen], codes[:, chosen]


@lru_cache(maxsize=1)
def problem(settings: Experiment, seed: int) -> Problem:
    """The problem that ``settings`` describe, drawn from ``seed``; the last one is kept, for several solvers."""
    return {"gaussian": _gaussian, "patches": _patches}[settings.data](settings, seed)


def nmse(codes: Tensor, truth: Tensor) -> float:
    """Normalised mean squared error in dB: ``10 log10(sum ||u - u*||^2 / sum ||u*||^2)``."""
    return float(10 * torch.log10((codes - truth).square().sum() / truth.square().sum()))


def _gaussian(settings: Experiment, seed: int) -> Problem:
    """A Gaussian dictionary with unit columns and Bernoulli-Gaussian codes, without noise (ALISTA, section 5)."""
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.randn(settings.signal_size, settings.code_size, generator=generator, dtype=torch.float64)
    dictionary /= dictionary.norm(dim=0)
    signals, codes = _draw(dictionary, settings.density, settings.test_signals, generator)
    return Problem(dictionary, signals, codes, density=settings.density)


def _draw(dictionary: Tensor, density: float, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = dictionary.shape[1], size
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    codes = values * (torch.rand(shape, generator=generator, dtype=torch.float64) < density)
    return dictionary @ codes, codes


def _patches(settings: Experiment, seed: int) -> Problem:
    """Patches of Fashion-MNIST, a dictionary learned from them, and their LASSO codes, as Gregor and LeCun predict."""
    generator = torch.Generator().manual_seed(seed)
    data = load_fashion_mnist()
    side, sparsity = isqrt(settings.signal_size), settings.sparsities[0]
    signals = patches(data.train_images, settings.training_signals, side, generator)
    learning = MiniBatchDictionaryLearning(
        settings.code_size, alpha=sparsity, fit_algorithm="cd", max_iter=settings.dictionary_epochs, batch_size=256,
        random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        # Codes on the way to a dictionary need not be exact.
        warnings.simplefilter("ignore", ConvergenceWarning)
        dictionary = torch.from_numpy(learning.fit(signals.T.numpy()).components_.T.copy())
    dictionary /= dictionary.norm(dim=0)
    test = patches(data.test_images, settings.test_signals, side, generator)
    return Problem(
        dictionary,
        test,
        solve(dictionary, test, sparsity),
        training=(signals, solve(dictionary, signals, sparsity, tolerance=1e-4)),
    )


def patches(images: Tensor, count: int, side: int, generator: torch.Generator) -> Tensor:
    """``count`` random patches as columns (side * side, count), each of zero mean and unit norm.

    Args:
        images: (n, H, W), uint8.
        count: how many.
        side: in pixels.
        generator: draws images and places.
    """
    offsets = torch.arange(side)
    kept: list[Tensor] = []
    # Most patches have contrast; a set of images in which hardly any has would never fill the count.
    for _ in range(100):
        places = zip(images.shape, (1, side, side), strict=True)
        drawn = [torch.randint(n - s + 1, (count,), generator=generator) for n, s in places]
        rows, columns = drawn[1][:, None] + offsets, drawn[2][:, None] + offsets
        pixels = images[drawn[0][:, None, None], rows[:, :, None], columns[:, None, :]].flatten(1).T.double() / 255
        pixels -= pixels.mean(dim=0)
        kept.append(pixels[:, pixels.square().mean(dim=0) > LEAST_CONTRAST**2])
        if sum(part.shape[1] for part in kept) >= count:
            found = torch.cat(kept, dim=1)[:, :count]
            return found / found.norm(dim=0)
    raise UserError(f"Too few patches of {side} x {side} pixels have contrast; give images that are not plain.")
