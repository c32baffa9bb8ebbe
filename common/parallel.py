"""Independent jobs side by side, one a core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import joblib

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
    results = joblib.Parallel(n_jobs=count, return_as="generator")(joblib.delayed(function)(a) for a in arguments)
    yield from track(results, description, len(arguments))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
