"""What training by mmengine's Runner needs from us: progress in the house style, and the models' own step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from common.checkpoints import form_of
from common.progress import SECONDS_BETWEEN_LINES, console
from common.protocols import ListensToSteps
from downstream.backbone import find_backbones


@HOOKS.register_module()
class Progress(Hook):
    """At most one line every ten seconds: iterations, loss, time left.

    Args:
        name: what is trained.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self.start = self.last = time.monotonic()
        self.first = runner.iter

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Say how far it is."""
        now, done = time.monotonic(), runner.iter + 1
        if runner.rank == 0 and now - self.last >= SECONDS_BETWEEN_LINES:
            self.last = now
            left = (now - self.start) / (done - self.first) * (runner.max_iters - done)
            loss = f", loss {float(outputs['loss']):.3f}" if outputs and "loss" in outputs else ""
            text = f"{self.name}: {done}/{runner.max_iters} iterations{loss}, about {left:.0f} s left"
            console.print(text, highlight=False, soft_wrap=True)


class Losses(Hook):
    """Keeps the loss of a training for its curve.

    Attributes:
        points: iterations done, and the mean loss since the point before.
    """

    #: Points of a whole training.
    POINTS = 40

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []
        self._since: list[torch.Tensor] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Note the loss; it is fetched from the device at a point only."""
        if outputs is None or "loss" not in outputs:
            return
        done = runner.iter + 1
        self._since.append(torch.as_tensor(outputs["loss"]).detach())
        if done * self.POINTS // runner.max_iters > (done - 1) * self.POINTS // runner.max_iters:
            self.points.append((done, float(torch.stack(self._since).mean())))
            self._since.clear()


@HOOKS.register_module()
class OwnStep(Hook):
    """Calls ``on_optimizer_step(step)`` of modules that have it (VARS-S refreshes its bound), as our own loop does.

    It also has the processes of an evaluation leave their results in the folder of the training, where mmengine would
    take the user's. In each checkpoint it keeps which form (as published or as released) the backbone has, and nothing
    but tensors and plain values, so that checkpoints are read without running code from them.
    """

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """After every iteration."""
        for module in runner.model.modules():
            if isinstance(module, ListensToSteps):
                module.on_optimizer_step(runner.iter)

    def before_val(self, runner: Runner) -> None:
        """Before a validation."""
        self._collect(runner, runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        """Before an evaluation."""
        self._collect(runner, runner.test_evaluator)

    def _collect(self, runner: Runner, evaluator: Evaluator) -> None:
        for metric in evaluator.metrics:
            metric.collect_dir = str(Path(runner.work_dir) / "collected")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Note the form of the backbone; leave out histories of the log, which are objects of mmengine."""
        hub = runner.message_hub
        plain = {name: value for name, value in hub.runtime_info.items() if isinstance(value, (int, float, str))}
        resumed = {name: hub.state_dict()["resumed_keys"].get(name, True) for name in plain}
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": plain, "resumed_keys": resumed}
        for name in set(checkpoint) - {"state_dict"}:
            checkpoint[name] = _plain(checkpoint[name])
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for backbone in find_backbones(model).values():
            checkpoint["meta"]["form"] = form_of(backbone.model)


def _plain(value: Any) -> Any:
    """``value`` with numpy's scalars and mmengine's dicts as Python's own, and without functions, however deep.

    A scheduler keeps the function by which it anneals among its state, and has it when it is built anew.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if not callable(each)}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(each) for each in value)
    return value
