"""The training loop: plain PyTorch, placed on devices by accelerate.

A run is a function of model, recipe, data and seed. Each draw comes from the seed and a counter (see `randomness`),
so a checkpoint is small, and a resumed run equals an uninterrupted one bit for bit (on the CPU; on a GPU as far as
its kernels are deterministic).
"""

from __future__ import annotations

import copy
import math
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from common.checkpoints import form_of, to_released
from common.data.loading import watched_loaders
from common.errors import UserError
from common.locks import held
from common.outputs import logits_of
from common.progress import track
from common.protocols import ListensToSteps
from common.training.acceleration import compiling, make_accelerator, release, restore_state, shard, whole_state
from common.training.batch import Batch
from common.training.batch_norm import describe as describe_batch_norm
from common.training.batch_norm import separate, synchronise
from common.training.checkpointing import (
    check_same_run,
    describe_model,
    last_good,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from common.training.data import TrainingData, make_plan
from common.training.distillation import with_distillation
from common.training.evaluation import evaluate, in_step
from common.training.hooks import Hook
from common.training.interrupts import Interrupts
from common.training.logs import RunLog
from common.training.optimisation import Schedule, make_loss, make_optimizer, update
from common.training.options import Options, TrainingResult
from common.training.preparation import Preparation
from common.training.randomness import preserved_global_state, seed_global
from common.training.recipe import Recipe

#: On an accelerator, losses are fetched and checked once in this many steps; on the CPU at each step.
STEPS_BETWEEN_CHECKS = 20


class Interrupted(KeyboardInterrupt):
    """The run stopped at a whole step on the user's request; its text says how to go on."""


def train(
    model: nn.Module,
    recipe: Recipe,
    data: TrainingData,
    *,
    seed: int | None = None,
    folder: Path | str | None = None,
    hooks: Sequence[Hook] = (),
    options: Options | None = None,
) -> TrainingResult:
    """Train ``model`` in place.

    Args:
        model: a classifier, images (B, C, H, W) to logits (B, recipe.num_classes).
        recipe: what to compute.
        data: training and validation images, e.g. `common.training.data.TensorData`.
        seed: instead of the recipe's.
        folder: working folder; a run that it holds is continued. None: keep nothing.
        hooks: the paper's changes to a step.
        options: device, logging and the like.

    Raises:
        UserError: the data does not fit the recipe, a checkpoint is damaged or of another run, the folder cannot be
            written or is in use by another call, or the loss is not finite (the sentence names step, learning rate
            and the last good checkpoint).
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint has been written.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    with held(Path(folder)) if folder is not None and first else nullcontext(), preserved_global_state():
        loop = Loop(model, recipe, data, recipe.seed if seed is None else seed, folder, hooks, options or Options())
        try:
            with compiling(loop.options.compile), watched_loaders():
                return loop.finish()
        finally:
            for hook in loop.hooks:
                hook.finish(loop)
            loop.log.close()
            release(loop.accelerator, loop.model, model)
            separate(model)


class Loop:
    """A training in progress; :class:`common.training.hooks.Training` is what hooks see of it."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        data: TrainingData,
        seed: int,
        folder: Path | str | None,
        hooks: Sequence[Hook],
        options: Options,
    ) -> None:
        if data.num_classes != recipe.num_classes:
            raise UserError(
                f"The data holds {data.num_classes} classes, but the recipe is written for {recipe.num_classes}: "
                f"give the full data set, or say --set num_classes={data.num_classes}."
            )
        self.recipe, self.data, self.seed, self.options = recipe, data, seed, options
        self.hooks = with_distillation(recipe, hooks)
        self.folder = None if folder is None else Path(folder)
        self.accelerator = make_accelerator(recipe, options.device, compile=options.compile, fsdp=options.fsdp)
        self.device = self.accelerator.device
        self.rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.rank == 0
        self.plan = make_plan(
            recipe,
            seed=seed,
            device_batch=options.device_batch,
            rank=self.rank,
            world=world,
            device=self.device,
            views=max((hook.views for hook in self.hooks), default=1),
        )
        self.steps_per_epoch = data.steps_per_epoch(recipe)
        self.total_steps = self.steps_per_epoch * recipe.total_epochs
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._pending: list[tuple[Tensor, float]] = []  # loss and learning rate of the steps not yet checked
        self.loss_sum = 0.0  # of the steps of this epoch that are checked
        self.last_rate = 0.0
        self._interrupts = Interrupts()
        self._stopping = False  # all processes stop after the same step

        for hook in self.hooks:
            hook.on_model(self, model)
        self.identity: dict[str, Any] = {
            "recipe": recipe.as_dict() | {"seed": seed},
            "model": describe_model(model),
            "data": data.describe(),
            "hooks": [type(hook).__name__ for hook in self.hooks],
        }
        if options.sync_batch_norm and world > 1:
            synchronise(model)
        self.batch_norm = describe_batch_norm(model, world, self.plan.accumulation)
        self.plain_model = model.to(self.device).train()
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.whole_model = copy.deepcopy(model).cpu() if options.fsdp else None  # takes the gathered weights
        self.model = shard(model, self.accelerator, recipe) if options.fsdp else self.accelerator.prepare(model)
        self.optimizer = make_optimizer(model, recipe, sharded=options.fsdp)
        self.schedule = Schedule(self.optimizer, recipe, self.steps_per_epoch)
        self.criterion, self.prepare = make_loss(recipe), Preparation(recipe, self.device)
        self._listeners = [module for module in model.modules() if isinstance(module, ListensToSteps)]
        self._resume()
        self.log = RunLog(
            self.folder if self.main else None,
            self.say,
            tensorboard=options.tensorboard,
            wandb=options.wandb if self.main else "",
            settings=self.identity
            | {"device": str(self.device), "batch": self.plan.describe(), "batch_norm": self.batch_norm}
            | {"initial": list(options.initial)},
            step=self.step,
        )

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return self.step // self.steps_per_epoch

    def say(self, line: str) -> None:
        """Tell the user, once however many processes there are."""
        if self.main:
            self.options.say(line)

    def finish(self) -> TrainingResult:
        """Do all steps that are left."""
        start = epoch_start = time.perf_counter()
        norms = f"; {self.batch_norm}" if self.batch_norm else ""
        self.say(f"{self.recipe.describe()}\n  {self.plan.describe()}; seed {self.seed}; {self.device}{norms}")
        for note in self.options.initial:
            self.say(note)
        for hook in self.hooks:
            hook.start(self)
        first, epoch_first = self.step, self.step
        steps: Iterable[int] = range(first, self.total_steps)
        if self.options.progress and self.main:
            left = self.total_steps - first
            steps = track(steps, self.options.progress, left, unit="images", units_per_item=self.recipe.total_batch)
        batches: Iterator[tuple[Tensor, Tensor]] = iter(())
        with self._interrupts if self.folder else nullcontext():
            for step in steps:
                within = step % self.steps_per_epoch
                if step == first or within == 0:
                    batches = self.data.training_batches(self.recipe, self.plan, self.epoch, within)
                self._train_step(batches)
                if within == self.steps_per_epoch - 1:
                    self._end_epoch((self.step - epoch_first) / (time.perf_counter() - epoch_start))
                    self._save()
                    epoch_first, epoch_start = self.step, time.perf_counter()
                elif self.options.checkpoint_steps and self.step % self.options.checkpoint_steps == 0:
                    self._save()
                if self._stopping and self.step < self.total_steps:
                    self._stop()
        self._save_trained()
        last = self.history[-1] if self.history else {}
        metrics = {key: last[key] for key in last if key.removeprefix("ema_") in ("top1", "top5", "loss")}
        seconds = time.perf_counter() - start
        ema = self.ema.module if self.ema else None
        return TrainingResult(self.history, metrics, seconds, self.step, self.recipe, self.folder, ema)

    def loss(self, batch: Batch) -> Tensor:
        """Run the model on a batch and return the loss, a scalar; fills in ``outputs`` and ``logits``."""
        batch.outputs = self.model(batch.images)
        batch.logits = logits_of(batch.outputs[0] if isinstance(batch.outputs, tuple | list) else batch.outputs)
        for hook in self.hooks:
            hook.on_output(self, batch)
        loss = self.criterion(batch.logits, batch.targets)
        for hook in self.hooks:
            loss = hook.on_loss(self, batch, loss)
        return loss

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``, weighted for accumulation and scaled for the precision."""
        loss = loss / self.plan.accumulation if self.plan.accumulation > 1 else loss
        scaler = self.accelerator.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()

    def _train_step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Do one step of the optimizer: the passes of this process, then the update."""
        rate = self.schedule.set_rate(self.step)
        losses = []
        for part in range(self.plan.accumulation):
            images, labels = next(batches)
            seed_global(self.seed, "step", self.step, part, self.rank)
            batch = self.prepare.training(images, labels)
            for hook in self.hooks:
                hook.on_batch(self, batch)
            last = part == self.plan.accumulation - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.loss(batch)
                self.backward(loss)
            losses.append(loss.detach())
        update(self.optimizer, self.model.parameters(), self.recipe.clip_gradient, self.accelerator.scaler)
        self.step += 1
        if self._listeners:
            seed_global(self.seed, "listeners", self.step)  # alike on all processes
            for listener in self._listeners:
                listener.on_optimizer_step(self.step)
        if self.ema is not None:
            self.ema.update(self.plain_model)
        for hook in self.hooks:
            hook.on_step(self)
        self._pending.append((losses[0] if len(losses) == 1 else torch.stack(losses).mean(), rate))
        asked = self._interrupts.received and self.plan.world == 1
        if self.device.type == "cpu" or len(self._pending) >= STEPS_BETWEEN_CHECKS or asked:
            self.check_losses()

    def check_losses(self) -> None:
        """Fetch the losses since the last check, as means over the processes, and whether one is to stop."""
        if not self._pending:
            return
        asked = torch.tensor(float(self._interrupts.received), device=self.device)
        fetched = torch.stack([*(loss for loss, _ in self._pending), asked])
        if self.plan.world > 1:
            fetched = self.accelerator.reduce(fetched, "mean")
        *losses, asked_of_any = fetched.tolist()
        self._stopping = asked_of_any > 0
        first = self.step - len(losses) + 1
        for step, (loss, (_, rate)) in enumerate(zip(losses, self._pending, strict=True), start=first):
            if not math.isfinite(loss):
                self.stop_diverged(f"The loss is {loss}", step, rate)
            self.loss_sum += loss
            self.log.point(step, {"loss": loss, "learning_rate": rate})
        self.last_rate = self._pending[-1][1]
        self._pending.clear()

    def stop_diverged(self, what: str, step: int, rate: float) -> NoReturn:
        """Stop with a sentence that names step, learning rate and the checkpoint that is left."""
        raise UserError(
            f"{what} at step {step} of {self.total_steps} (epoch {(step - 1) // self.steps_per_epoch + 1}, learning "
            f"rate {rate:.3g}): lower the rate or clip the gradient with --set; {last_good(self.folder)}."
        )

    def _end_epoch(self, steps_per_second: float) -> None:
        """Evaluate and log; ``step`` already counts the epoch's last step."""
        self.check_losses()
        row: dict[str, float] = {
            "epoch": self.epoch,
            "step": self.step,
            "learning_rate": self.last_rate,
            "train_loss": self.loss_sum / self.steps_per_epoch,
        }
        self.loss_sum = 0.0
        if self.epoch % self.recipe.evaluate_every == 0 or self.step == self.total_steps:
            row |= self._evaluate(self.model if self.options.fsdp else self.plain_model)
            if self.ema is not None:
                row |= {f"ema_{key}": value for key, value in self._evaluate(self.ema.module).items()}
        row["images_per_second"] = steps_per_second * self.recipe.total_batch
        self.history.append(row)
        self.log.epoch(self.history)
        shown = ", ".join(f"{key} {row[key]:.4g}" for key in row if key not in ("epoch", "step"))
        self.say(f"epoch {self.epoch}/{self.recipe.total_epochs}: {shown}")

    def _stop(self) -> NoReturn:
        self._save()
        number = self._interrupts.received
        name = signal.Signals(number).name if number else "a signal to another process"
        raise Interrupted(f"Stopped by {name} after step {self.step}; the same command goes on from there.")

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measure ``model`` on the validation set, each process on its share; called on every process."""

        def total(sums: Tensor) -> Tensor:
            return self.accelerator.reduce(sums.to(self.device), "sum").cpu() if self.plan.world > 1 else sums

        recipe = self.recipe
        batches = self.data.validation_batches(recipe, self.plan)
        if self.options.fsdp:
            shape = (1, len(recipe.mean), recipe.input_size, recipe.input_size)
            image = torch.zeros(shape, dtype=torch.uint8, device=self.device)
            batches = in_step(batches, (image, torch.tensor([-1], device=self.device)), total)
        images = self.identity["data"].get("validation_images", 0)
        with self.accelerator.autocast():
            return evaluate(
                model, batches, self.prepare.normalise, classes=recipe.num_classes, images=images, total=total
            )

    def _save(self) -> None:
        """Write a checkpoint; where that fails (a full disk), say so and go on: the last good one is still there.

        Raises:
            UserError: the parameters are not finite; nothing is written.
        """
        if self.folder is None:
            return
        self.check_losses()
        model_state, optimizer_state = self._whole_state()
        if not all(tensor.isfinite().all() for tensor in model_state.values() if tensor.is_floating_point()):
            self.stop_diverged("A parameter is no longer finite", self.step, self.last_rate)
        if not self.main:
            return
        scaler = self.accelerator.scaler
        state: dict[str, Any] = {
            "run": self.identity,
            "form": form_of(self.plain_model),
            "model": model_state,
            "optimizer": optimizer_state,
            "ema": self.ema.module.state_dict() if self.ema else {},
            "scaler": scaler.state_dict() if scaler else {},
            "hooks": [hook.state_dict() for hook in self.hooks],
            "history": self.history,
            "loss_sum": self.loss_sum,
            "last_rate": self.last_rate,
        }
        try:
            save_checkpoint(self.folder, self.step, state)
        except OSError as error:
            reason = error.strerror or error
            self.say(
                f"The checkpoint after step {self.step} could not be written ({reason}); {last_good(self.folder)}."
            )

    def _resume(self) -> None:
        """Take up the run that the folder holds, if any.

        Raises:
            UserError: its checkpoint is damaged, or of another recipe, model or data set.
        """
        found = load_checkpoint(self.folder, previous=self.options.from_previous) if self.folder else None
        if found is None:
            return
        path, state = found
        check_same_run(path, state["run"], self.identity)
        states, sharded = (state["model"], state["optimizer"]), self.options.fsdp
        restore_state(self.model, self.plain_model, self.optimizer, *states, sharded=sharded)
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for hook, hook_state in zip(self.hooks, state["hooks"], strict=True):
            hook.load_state_dict(hook_state)
        self.step, self.history = state["step"], state["history"]
        self.loss_sum, self.last_rate = state["loss_sum"], state["last_rate"]
        self.schedule.restore(self.step)
        self.say(f"Going on from {path}, step {self.step} of {self.total_steps}.")

    def _save_trained(self) -> None:
        """Write the trained weights as ``model.pt``: ``model`` and, where the recipe averages, ``model_ema``.

        They have the released names; the run's identity tells the file from a released one.

        Raises:
            UserError: the file could not be written.
        """
        if self.folder is None:
            return
        trained = self.plain_model
        if self.whole_model is not None:
            trained = self.whole_model
            weights, _ = self._whole_state()
            if self.main:
                trained.load_state_dict(weights)
        if not self.main:
            return
        state: dict[str, Any] = {"run": self.identity, "form": form_of(self.plain_model), "model": to_released(trained)}
        if self.ema is not None:
            state["model_ema"] = to_released(self.ema.module)
        try:
            save_weights(self.folder / "model.pt", state)
        except OSError as error:
            raise UserError(
                f"{self.folder / 'model.pt'} could not be written ({error.strerror or error}): free space and repeat "
                f"the command; {last_good(self.folder)}."
            ) from None

    def _whole_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state of model and optimizer, gathered where they are sharded; called on every process."""
        return whole_state(self.model, self.plain_model, self.optimizer, sharded=self.options.fsdp)
