"""Quantity against quality of a rehearsal buffer: how many images of what resolution and depth so many bytes hold.

Pelosin and Torsello, "Smaller Is Better: An Analysis of Instance Quantity/Quality Trade-off in Rehearsal-based
Continual Learning", arXiv 2105.14106; the first study of Pelosin's thesis. A learner keeps a class-balanced sample of
the images that pass, as GDumb does (Prabhu et al., ECCV 2020), each reduced to a `Format`, and learns from the sample
alone. Its classifier is an extreme learning machine: random features and a ridge regression, solved in closed form.

All that is compared has the same bytes, so that a format is a choice between many coarse images and few good ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common import bench
from common.errors import UserError
from common.training.randomness import generator

#: Bytes of the buffers: as many as 10, 40, 160 and 640 whole images of 28 x 28 pixels take.
BUDGETS = (7_840, 31_360, 125_440, 501_760)
#: Random features of the classifier.
HIDDEN = 1000
#: Weight of the ridge, relative to the mean square of the random features. It serves whole images, which are few, about
#: as well as the best of 1, 10, 30, 100 and 300; weaker ones would be worse for them than for coarse images.
RIDGE = 100.0


@dataclass(frozen=True)
class Format:
    """How an image of one channel is stored.

    Attributes:
        side: pixels of a side.
        bits: of a pixel.

    Raises:
        UserError: there is no such image.
    """

    side: int
    bits: int = 8

    def __post_init__(self) -> None:
        if self.side < 1 or not 1 <= self.bits <= 8:
            raise UserError(f"An image is stored with 1 to 8 bits for each of its pixels, not as {self}.")

    @property
    def name(self) -> str:
        """As contenders are called: ``7px``, ``28px_1bit``."""
        return f"{self.side}px" + ("" if self.bits == 8 else f"_{self.bits}bit")

    @property
    def bytes(self) -> float:
        """Of an image."""
        return self.side**2 * self.bits / 8

    def slots(self, budget: int) -> int:
        """How many images a buffer of ``budget`` bytes holds."""
        return int(budget / self.bytes)

    def reduced(self, images: Tensor) -> Tensor:
        """What is left of uint8 images (N, 1, h, w): (N, 1, side, side) in [0, 1] of 2 ** bits levels."""
        small = F.adaptive_avg_pool2d(images.float() / 255, self.side)
        levels = 2**self.bits - 1
        return (small * levels).round() / levels


#: What is compared: whole images, half, a quarter and a seventh of the side, and whole ones of black and white.
FORMATS = (Format(28), Format(14), Format(7), Format(4), Format(28, bits=1))


def balanced_sample(labels: Tensor, slots: int) -> Tensor:
    """Indices of the images that are kept of a stream with ``labels`` (N,), in which each is seen once.

    Images are taken while there is room; then where their class has less than its share of the slots, among the classes
    seen so far, and the latest one of the class with the most images makes room.

    Raises:
        UserError: there is no room for any.
    """
    if slots < 1:
        raise UserError("The buffer is smaller than one image.")
    kept: dict[int, list[int]] = {}
    total = 0
    for index, label in enumerate(labels.tolist()):
        own = kept.setdefault(label, [])
        if total == slots:
            if len(own) >= slots // len(kept):
                continue
            max(kept.values(), key=len).pop()
            total -= 1
        own.append(index)
        total += 1
    return torch.tensor(sorted(index for own in kept.values() for index in own))


class RandomFeatures:
    """An extreme learning machine: rectified random projections and a ridge regression on one-hot labels.

    Args:
        inputs: numbers of an image.
        draws: of the projections.
    """

    def __init__(self, inputs: int, draws: torch.Generator) -> None:
        self.weight = torch.randn(inputs, HIDDEN, generator=draws) / inputs**0.5
        self.bias = 0.1 * torch.randn(HIDDEN, generator=draws)
        self.mean = torch.zeros(inputs)
        self.scale = torch.ones(())
        self.readout = torch.zeros(HIDDEN, 0)

    def fit(self, images: Tensor, labels: Tensor, classes: int) -> RandomFeatures:
        """Learn from images (N, ...) and labels (N,)."""
        x = images.flatten(1)
        self.mean, self.scale = x.mean(dim=0), x.std(correction=0).clamp(min=1e-6)
        hidden = self._hidden(images)
        ridge = RIDGE * float(hidden.square().mean()) * torch.eye(HIDDEN)
        targets = 2 * F.one_hot(labels, classes).float() - 1
        self.readout = torch.linalg.solve(hidden.T @ hidden + ridge, hidden.T @ targets)
        return self

    def predict(self, images: Tensor) -> Tensor:
        """The class (N,) of each image."""
        return (self._hidden(images) @ self.readout).argmax(dim=1)

    def _hidden(self, images: Tensor) -> Tensor:
        return F.relu((images.flatten(1) - self.mean) / self.scale @ self.weight + self.bias)


def curve(form: Format, seed: int, order: Tensor, quick: bool) -> dict[str, np.ndarray]:
    """``rehearsal_top1`` by image for all budgets, (budgets x subsets, images), and its mean for each one.

    Args:
        form: of the stored images.
        seed: of the order within tasks and of the random features.
        order: the task of each class: tasks come one after another.
        quick: whether the run is.
    """
    images, labels = bench.training_data().train
    draws = generator(seed, "stream")
    shuffled = torch.randperm(len(labels), generator=draws)
    stream = shuffled[order[labels[shuffled]].argsort(stable=True)]
    tests = bench.test_set(quick)
    seen = form.reduced(tests.clean.flatten(0, 1)[:, :1])
    right = []
    for budget in BUDGETS:
        kept = stream[balanced_sample(labels[stream], form.slots(budget))]
        learner = RandomFeatures(form.side**2, generator(seed, "features", form.side))
        learner.fit(form.reduced(images[kept, :1]), labels[kept], len(order))
        right.append((learner.predict(seen).view(tests.labels.shape) == tests.labels).numpy())
    cells = {f"rehearsal_top1/{budget}": np.asarray(one.mean()) for budget, one in zip(BUDGETS, right, strict=True)}
    return {"rehearsal_top1": np.concatenate(right), **cells}
