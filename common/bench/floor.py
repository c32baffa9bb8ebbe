"""The lines that keep a comparison honest: logistic regression on raw pixels, and chance.

A network that does not beat logistic regression has learnt no features that matter, and comparing such networks says
nothing about what they differ by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from common.bench.contenders import RECIPE
from common.bench.images import DATASET, test_set, training_data
from common.bench.measures import ROBUSTNESS, accuracy, robustness
from common.data.fashion_mnist import MEAN, STD, data_folder
from common.files import write_atomic
from common.measurement import Measurement
from common.progress import console
from common.tensor_files import UnreadableError, read_tensors
from common.training.data import TensorData
from common.training.recipe import Recipe, load_recipe

#: What chance gives on ten balanced classes, in per cent.
CHANCE = 10.0
NAME = "logistic_regression"

#: L2 penalty on the weights.
_PENALTY = 1e-4
#: Steps of L-BFGS.
_STEPS = 100


class LogisticRegression(nn.Module):
    """Normalised images (B, 3, 28, 28) of three equal channels to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(28 * 28, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify by the pixels of one channel."""
        return self.linear(x[:, 0].flatten(1))


@lru_cache(maxsize=4)
def logistic_regression(images: Callable[[], TensorData] = training_data) -> LogisticRegression:
    """Multinomial logistic regression on training images, all by default; fitted on first use, in seconds."""
    data, model = images(), LogisticRegression()
    path = data_folder() / "bench" / f"{NAME}-{data.describe()['sha256'][:16]}-{_PENALTY}-{_STEPS}.pt"
    if path.exists():
        try:
            model.load_state_dict(read_tensors(path, check=True))
            return model.eval()
        except UnreadableError:
            console.print(f"{path} is damaged; it is made anew.", highlight=False, soft_wrap=True)
    pixels, labels = (data.train[0][:, 0].flatten(1).float() / 255 - MEAN) / STD, data.train[1]
    nn.init.zeros_(model.linear.weight)
    nn.init.zeros_(model.linear.bias)
    solver = torch.optim.LBFGS(model.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        fit = nn.functional.cross_entropy(model.linear(pixels), labels)
        total = fit + _PENALTY * model.linear.weight.square().sum()
        total.backward()
        return total

    solver.step(loss)
    write_atomic(path, lambda handle: torch.save(model.state_dict(), handle))
    return model.eval()


@lru_cache(maxsize=4)
def floor(images: Callable[[], TensorData] = training_data) -> float:
    """Top-1 accuracy on all test images, in per cent, of logistic regression on training images, all by default."""
    return 100 * float(accuracy(logistic_regression(images), _recipe(), quick=False)["top1"].mean())


def without_network(quick: bool) -> Iterator[Measurement]:
    """What logistic regression reaches by every metric of `bench.robustness`, and chance, as rows beside contenders."""
    found = robustness(logistic_regression(), _recipe(), quick)
    for metric in ROBUSTNESS:
        values = np.asarray(found[metric])
        yield Measurement(
            model=NAME,
            dataset=DATASET,
            metric=metric,
            value=100 * float(values.mean()),
            unit="%",
            weights="trained",
            n=min(len(values), len(test_set(quick).clean)) * values.shape[1],
            protocol="bench/1, fitted by L-BFGS on all training images",
        )
        yield Measurement(
            model="chance", dataset=DATASET, metric=metric, value=CHANCE, unit="%", protocol="ten balanced classes"
        )


def _recipe() -> Recipe:
    return load_recipe(RECIPE, "embedded")
