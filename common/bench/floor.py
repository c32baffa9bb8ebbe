"""The lines that keep a comparison honest: logistic regression on raw pixels, and chance.

A network that does not beat logistic regression has learnt no features that matter, and comparing such networks says
nothing about what they differ by.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from common.bench.images import test_set, training_data
from common.data.fashion_mnist import MEAN, STD, data_folder
from common.files import write_atomic

#: What chance gives on ten balanced classes, in per cent.
CHANCE = 10.0
NAME = "logistic_regression"

#: L2 penalty on the weights; 1e-5 and 1e-3 gave no better accuracy on the validation images.
_PENALTY = 1e-4
#: Steps of L-BFGS; the accuracy on the validation images has settled after a hundred.
_STEPS = 100


class LogisticRegression(nn.Module):
    """Normalised images (B, 3, 28, 28) of three equal channels to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(28 * 28, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify by the pixels of one channel."""
        return self.linear(x[:, 0].flatten(1))


@lru_cache(maxsize=1)
def logistic_regression() -> LogisticRegression:
    """Multinomial logistic regression on all training images of the bench; fitted on first use, in seconds."""
    data, model = training_data(), LogisticRegression()
    path = data_folder() / "bench" / f"{NAME}-{data.describe()['sha256'][:16]}-{_PENALTY}-{_STEPS}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
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


@lru_cache(maxsize=1)
def floor() -> float:
    """Top-1 accuracy of logistic regression on all test images, in per cent."""
    tests, model = test_set(quick=False), logistic_regression()
    pixels = (tests.clean.flatten(0, 1).float() / 255 - MEAN) / STD
    with torch.inference_mode():
        right = model(pixels).argmax(dim=1) == tests.labels.flatten()
    return 100 * float(np.asarray(right).mean())
