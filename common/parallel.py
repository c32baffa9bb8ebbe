"""Independent jobs side by side, one a core."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import joblib
from joblib.externals.loky import process_executor

from common.parentage import end_with_parent
from common.progress import track

Argument = TypeVar("Argument")
Result = TypeVar("Result")

#: Workers at most; each imports torch and may hold a data set (about 1 GB).
MOST_WORKERS = 8


def side_by_side(
    function: Callable[[Argument], Result], arguments: Sequence[Argument], description: str, *, workers: int = 0
) -> Iterator[Result]:
    """Yield ``function(argument)`` for every argument, in order, as soon as it is there, and show progress.

    Args:
        function: of a module, so that a worker process can import it.
        arguments: one a job; must be picklable.
        description: for the progress bar.
        workers: processes; 0: as many as there are cores, at most ``MOST_WORKERS``. One works in this process.
            Several share the cores' threads among them.
    """
    count = min(workers or _cores(), MOST_WORKERS, max(len(arguments), 1))
    parallel = joblib.Parallel(n_jobs=count, return_as="generator", initializer=_begin)
    yield from track(parallel(joblib.delayed(function)(a) for a in arguments), description, len(arguments))


def _begin() -> None:
    """Make a worker end with the process that it works for, and keep it where its memory grows.

    joblib takes it for a leak where a worker holds 300 MB more than after its first job, and starts another, which
    imports torch and reads its data anew. Ours grow with the largest model, since freed memory is kept for the next.
    """
    end_with_parent()
    process_executor._MAX_MEMORY_LEAK_SIZE = math.inf


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
