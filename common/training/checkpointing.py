"""The working folder of a run: what a killed run needs to go on as if nothing had happened.

Checkpoints are named by the optimizer step; the newest two are kept. A new one is written beside the old ones and
appears under its name only when it is whole, so a kill or a full disk at any moment leaves the last good one.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import IO, Any

import torch

from common.errors import UserError
from common.files import write_atomic
from common.tensor_files import UnreadableError, read_tensors

FORMAT = 1
KEEP = 2
_NAME = re.compile(r"step-(\d{9})\.pt")


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted(path for path in (folder / "checkpoints").glob("step-*.pt") if _NAME.fullmatch(path.name))


def last_good(folder: Path | None) -> str:
    """Say which checkpoint is left, as the end of a sentence."""
    kept = checkpoints(folder) if folder else []
    return f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint had been written yet"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after ``step`` steps, then remove all but the newest two checkpoints.

    Raises:
        OSError: it could not be written; the earlier checkpoints are as they were.
    """
    path = folder / "checkpoints" / f"step-{step:09d}.pt"
    _write(path, {"format": FORMAT, "step": step, **state})
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path, *, previous: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest checkpoint of a run, or the one before it.

    Args:
        folder: the working folder.
        previous: take the second newest.

    Returns:
        Its path and state (tensors on the CPU), or None where the folder has no checkpoint.

    Raises:
        UserError: the file is damaged, of another version, or there is no previous one.
    """
    found = checkpoints(folder)
    if previous and len(found) < 2:
        has = f"one checkpoint only ({found[0].name})" if found else "no checkpoint"
        raise UserError(f"{folder} has {has}, and no previous one; leave out --from-previous.")
    if not found:
        return None
    path = found[-2] if previous else found[-1]
    try:
        state = read_tensors(path, check=True)
    except UnreadableError as error:
        remedy = (
            "continue from the previous one with --from-previous"
            if len(found) > 1 and not previous
            else "remove it to start again"
        )
        raise UserError(f"The checkpoint {path} {error.reason}; {remedy}.") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a training checkpoint of this version; choose another --output folder.")
    return path, state


def check_same_run(path: Path, stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse a checkpoint of another recipe, model or data set.

    Args:
        path: the checkpoint.
        stored: what it says under ``"run"``.
        current: the same for this run.

    Raises:
        UserError: they differ; the sentence names the first difference.
    """
    words = {"recipe": "another recipe", "model": "another model", "data": "other data", "hooks": "other hooks"}
    for part, other in words.items():
        old, new = stored.get(part), current.get(part)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            key = next(key for key in [*new, *old] if old.get(key) != new.get(key))
            what = f"{other}, where {key} is {old.get(key)!r} and not {new.get(key)!r}"
        else:
            what = f"{other}, {old!r} and not {new!r}"
        raise UserError(
            f"The checkpoint {path} was written with {what}; "
            "repeat that run's command to continue it, or choose another --output folder."
        )


def save_weights(path: Path, state: dict[str, Any]) -> None:
    """Write the final weights, ``{"model": state dict, ...}``, as one file that loads with ``weights_only=True``.

    Raises:
        OSError: the file could not be written.
    """
    _write(path, state)


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically; raises the OSError of a failed write, which torch may hide behind a RuntimeError."""

    def dump(file: IO[bytes]) -> None:
        target = _Target(file)
        try:
            torch.save(state, target)  # type: ignore[arg-type]  # it asks for the method write alone
        except RuntimeError:
            if target.failure is None:
                raise
            raise target.failure from None

    write_atomic(path, dump)


class _Target:
    """A file that remembers why a write failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._file.flush()


def describe_model(model: torch.nn.Module) -> dict[str, Any]:
    """Return what a checkpoint must fit: the class, and a SHA-256 of the names and shapes of all tensors."""
    shapes = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items())
    return {"class": type(model).__name__, "tensors": hashlib.sha256(shapes.encode()).hexdigest()}
