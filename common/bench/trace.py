"""The first losses of a contender's training: a fingerprint of the whole experiment.

A refactoring that changes what is computed (an initial value, the order of images, a random draw, a gradient) shows in
them at once. They are kept beside the reference results and compared in tests.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from common.bench.contenders import Contender
from common.training.distillation import with_teacher
from common.training.hooks import Batch, Hook, Training
from common.training.loop import train
from common.training.options import Options

#: Beside the reference results, a file a paper: columns contender, step, loss.
TRACES = Path(__file__).parents[2] / "results" / "reference" / "traces"
STEPS = 20
#: Images of a step: fewer than the recipe has, which says as much in a quarter of the time.
BATCH = 32


def traces_path(slug: str) -> Path:
    """The file of a paper's traces, whether or not it is there."""
    return TRACES / f"{slug}.csv"


class _EnoughError(Exception):
    """All steps of the trace are done."""


class _Losses(Hook):
    """Keeps every step's loss and ends the training after `STEPS` of them."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_loss(self, run: Training, batch: Batch, loss: Tensor) -> Tensor:
        self.values.append(float(loss.detach()))
        return loss

    def on_step(self, run: Training) -> None:
        if run.step == STEPS:
            raise _EnoughError


def first_losses(contender: Contender, seed: int = 0) -> list[float]:
    """The losses of the first `STEPS` steps, trained by the contender's recipe in batches of `BATCH` on the CPU.

    A teacher is not trained for it: its first weights teach as well here. One thread computes, since sums of several
    are rounded otherwise, and some trainings amplify that.
    """
    recipe = contender.settings().with_changes(f"total_batch={BATCH}")
    torch.manual_seed(seed)
    model, losses = contender.build(), _Losses()
    hooks = [*contender.hooks(recipe), losses]
    if contender.teacher is not None:
        hooks = with_teacher(recipe, hooks, contender.teacher.build())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with suppress(_EnoughError):
            train(model, recipe, contender.data(), seed=seed, hooks=hooks, options=Options(device="cpu"))
    finally:
        torch.set_num_threads(threads)
    return losses.values
