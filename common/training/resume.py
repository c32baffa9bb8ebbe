"""What of a run goes into its folder, and how it comes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.checkpoints import form_of, to_released
from common.errors import UserError
from common.training.checkpointing import check_same_run, checkpoints, load_checkpoint, save_checkpoint, save_weights
from common.training.devices import restore_state, whole_state

if TYPE_CHECKING:
    from common.training.loop import Run


def last_good(folder: Path | None) -> str:
    """Say which checkpoint is left, as the end of a sentence."""
    kept = checkpoints(folder) if folder else []
    return f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint had been written yet"


def save(run: Run) -> None:
    """Write a checkpoint; where that fails (a full disk), say so and go on: the last good one is still there.

    Raises:
        UserError: the parameters are not finite; nothing is written.
    """
    if run.folder is None:
        return
    run.check_losses()
    model_state, optimizer_state = whole_state(run.model, run.plain_model, run.optimizer, sharded=run.options.fsdp)
    if not all(tensor.isfinite().all() for tensor in model_state.values() if tensor.is_floating_point()):
        run.stop_diverged("A parameter is no longer finite", run.step, run.last_rate)
    if not run.main:
        return
    scaler = run.accelerator.scaler
    state: dict[str, Any] = {
        "run": run.identity,
        "form": form_of(run.plain_model),
        "model": model_state,
        "optimizer": optimizer_state,
        "ema": run.ema.module.state_dict() if run.ema else {},
        "scaler": scaler.state_dict() if scaler else {},
        "hooks": [hook.state_dict() for hook in run.hooks],
        "history": run.history,
        "loss_sum": run.loss_sum,
        "last_rate": run.last_rate,
    }
    try:
        save_checkpoint(run.folder, run.step, state)
    except OSError as error:
        reason = error.strerror or error
        run.say(f"The checkpoint after step {run.step} could not be written ({reason}); {last_good(run.folder)}.")


def resume(run: Run) -> None:
    """Take up the run that the folder holds, if any.

    Raises:
        UserError: its checkpoint is damaged, or of another recipe, model or data set.
    """
    found = load_checkpoint(run.folder, previous=run.options.from_previous) if run.folder else None
    if found is None:
        return
    path, state = found
    check_same_run(path, state["run"], run.identity)
    restore_state(
        run.model,
        run.plain_model,
        run.optimizer,
        state["model"],
        state["optimizer"],
        sharded=run.options.fsdp,
    )
    if run.ema is not None:
        run.ema.module.load_state_dict(state["ema"])
    if run.accelerator.scaler is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    for hook, hook_state in zip(run.hooks, state["hooks"], strict=True):
        hook.load_state_dict(hook_state)
    run.step, run.history = state["step"], state["history"]
    run.loss_sum, run.last_rate = state["loss_sum"], state["last_rate"]
    run.schedule.restore(run.step)
    run.say(f"Going on from {path}, step {run.step} of {run.total_steps}.")


def save_trained(run: Run) -> None:
    """Write the trained weights as ``model.pt``: ``model`` and, where the recipe averages, ``model_ema``.

    They have the released names; the run's identity tells the file from a released one.

    Raises:
        UserError: the file could not be written.
    """
    if run.folder is None:
        return
    trained = run.plain_model
    if run.whole_model is not None:
        trained = run.whole_model
        weights, _ = whole_state(run.model, run.plain_model, run.optimizer, sharded=True)
        if run.main:
            trained.load_state_dict(weights)
    if not run.main:
        return
    state: dict[str, Any] = {"run": run.identity, "form": form_of(run.plain_model), "model": to_released(trained)}
    if run.ema is not None:
        state["model_ema"] = to_released(run.ema.module)
    try:
        save_weights(run.folder / "model.pt", state)
    except OSError as error:
        raise UserError(
            f"{run.folder / 'model.pt'} could not be written ({error.strerror or error}): free space and repeat the "
            f"command; {last_good(run.folder)}."
        ) from None
