"""What a run leaves behind: its recipe and provenance, a CSV row per epoch, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import provenance
from common.errors import UserError
from common.files import write_atomic

#: Steps between two points of the loss curve in TensorBoard and Weights & Biases.
STEPS_BETWEEN_POINTS = 50


class RunLog:
    """Writes the log of a run into its folder; a write that fails is reported once and never stops training.

    Args:
        folder: the working folder, or None to keep nothing.
        say: takes each line meant for the user.
        tensorboard: whether to write TensorBoard events (tensorboard is imported only then).
        wandb: project of Weights & Biases; empty: not used.
        settings: the run as plain data, for ``run.json`` and Weights & Biases.
        step: the step from which a resumed run goes on; later points of an earlier process are dropped.
    """

    def __init__(
        self,
        folder: Path | None,
        say: Callable[[str], None],
        *,
        tensorboard: bool,
        wandb: str,
        settings: Mapping[str, Any],
        step: int,
    ) -> None:
        self.folder, self.say = folder, say
        self._failed: set[str] = set()
        self._events: Any = None
        self._wandb: Any = None
        if folder is not None:
            record = json.dumps(provenance.collect(dict(settings)), indent=1) + "\n"
            self._try("run.json", lambda: write_atomic(folder / "run.json", record))
        if folder is not None and tensorboard:
            self._try("TensorBoard", lambda: self._open_events(folder / "tensorboard", step))
        if wandb:
            self._open_wandb(wandb, folder, settings)

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curves, at most one in `STEPS_BETWEEN_POINTS` steps."""
        if step % STEPS_BETWEEN_POINTS == 0:
            self._curves(step, {f"step/{key}": value for key, value in values.items()})

    def epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the table of all epochs and add the last one to the curves."""
        last = history[-1]
        if self.folder is not None:
            folder = self.folder
            self._try("history.csv", lambda: write_atomic(folder / "history.csv", history_csv(history)))
        self._curves(int(last["step"]), {f"epoch/{key}": value for key, value in last.items() if key != "step"})

    def close(self) -> None:
        """Flush and close what is open."""
        if self._events is not None:
            self._try("TensorBoard", self._events.close)
        if self._wandb is not None:
            self._wandb.finish()

    def _curves(self, step: int, values: Mapping[str, float]) -> None:
        if self._events is not None:
            events = self._events
            self._try("TensorBoard", lambda: [events.add_scalar(key, value, step) for key, value in values.items()])
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def _open_events(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(folder), purge_step=step or None, max_queue=1000)

    def _open_wandb(self, project: str, folder: Path | None, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError("Weights & Biases is not installed: pip install wandb, or leave out --wandb.") from None
        try:
            self._wandb = wandb.init(
                project=project, dir=None if folder is None else str(folder), config=dict(settings)
            )
        except wandb.Error as error:  # no key, no network
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(
                f"Weights & Biases cannot start ({reason}): call wandb login, set WANDB_MODE=offline, or leave out "
                "--wandb."
            ) from None

    def _try(self, what: str, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if what not in self._failed:
                self._failed.add(what)
                self.say(f"{what} could not be written ({error.strerror or error}); training goes on without it.")


def history_csv(history: Sequence[Mapping[str, float | str]]) -> str:
    """Return one CSV row per epoch; the columns are the union over the epochs."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
