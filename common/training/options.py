"""How a run is executed, as opposed to what it computes (the recipe), and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from common.training.recipe import Recipe


def _silent(line: str) -> None:
    """Drop a line."""


@dataclass(frozen=True)
class Options:
    """Execution of a run.

    None of this changes a step by more than rounding, with two exceptions. Batch norm takes the statistics of the
    images that go through it together: several processes compute what one does with ``sync_batch_norm`` only, and
    accumulated passes never do. And rounding grows where a model's gradient is not continuous: a code of VARS that
    crosses the threshold of its shrinkage switches a path of the gradient (see papers/vars/README.md for figures).
    """

    device: str = "auto"  # "cpu", "cuda", "mps" or "auto": cuda where there is one
    device_batch: int = 0  # images per device and forward pass; 0: total batch / devices
    compile: str = ""  # backend of torch.compile, e.g. "inductor"; empty: off
    fsdp: bool = False  # shard parameters over the devices
    sync_batch_norm: bool = False  # statistics of batch norm over the images of all processes
    checkpoint_steps: int = 0  # steps between checkpoints, beside the one after each epoch
    from_previous: bool = False  # resume from the second newest checkpoint
    tensorboard: bool = False
    wandb: str = ""  # project; empty: off
    initial: tuple[str, ...] = ()  # what is to be said of the weights that it starts from, a sentence each
    progress: str = ""  # description of the progress bar; empty: none
    say: Callable[[str], None] = _silent  # takes each line meant for the user


@dataclass(frozen=True)
class TrainingResult:
    """What a run measured."""

    history: list[dict[str, float]]  # a row per epoch: epoch, step, learning_rate, train_loss, top1 (%), loss, ...
    metrics: dict[str, float]  # validation metrics of the last row; those of averaged weights begin with ema_
    seconds: float  # of this call; what came before a resume is not counted
    steps: int
    recipe: Recipe
    folder: Path | None
    ema: nn.Module | None = field(repr=False, default=None)  # the model with averaged weights
