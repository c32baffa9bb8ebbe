"""Loader processes where memory that processes share is scarce, as in a container (Docker gives 64 MB).

torch hands batches from loader processes over in shared memory. Where that cannot hold them, they go through pipes.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError

#: Where Linux keeps memory that processes share; other systems have no such limit.
SHARED_MEMORY = Path("/dev/shm")
#: Batches of a loader process that wait to be taken (torch's default), and the one that is being made.
_WAITING = 3


def collation(
    collate: Callable[[Any], Any], workers: int, batch_bytes: int, say: Callable[[str], object]
) -> Callable[[Any], Any]:
    """``collate`` for loader processes: as it is where shared memory holds their batches, else by pipes.

    Args:
        collate: makes a batch, a tensor or a tuple with tensors.
        workers: processes.
        batch_bytes: of a batch.
        say: takes a sentence where pipes are taken.
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return collate
    needed, free = workers * _WAITING * batch_bytes, shutil.disk_usage(SHARED_MEMORY).free
    if needed <= free:
        return collate
    say(
        f"Shared memory ({SHARED_MEMORY}) has {free / 2**20:.1f} MB free and {workers} loader processes can need "
        f"{needed / 2**20:.1f} MB: batches go through pipes, which is slower (Docker: --shm-size 8g or --ipc host)."
    )
    return ByPipe(collate)


class ByPipe:
    """Makes batches of arrays, which processes hand over as bytes."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        """The batch of ``collate`` with arrays in place of tensors."""
        return _mapped(self.collate(samples), lambda part: part.numpy() if isinstance(part, Tensor) else part)


def received(batch: Any) -> Any:
    """A batch with tensors again, however it came."""
    return _mapped(batch, lambda part: torch.from_numpy(part) if isinstance(part, np.ndarray) else part)


def _mapped(batch: Any, change: Callable[[Any], Any]) -> Any:
    return tuple(map(change, batch)) if type(batch) is tuple else change(batch)


@contextmanager
def watched_loaders() -> Iterator[None]:
    """Say in a sentence that a loader process was killed, and end the others, for which the exit would wait.

    Raises:
        UserError: it was, most often for want of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        for child in multiprocessing.active_children():
            if type(child).__module__.startswith("multiprocessing"):  # not joblib's workers, which load no images
                child.kill()
        raise UserError(
            f"A process that loads images was killed by the system, most often for want of shared memory "
            f"({SHARED_MEMORY}; Docker: --shm-size 8g or --ipc host) or of memory: give more, or take fewer --workers."
        ) from None
