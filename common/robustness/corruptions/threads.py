"""A batch of images on several threads of the CPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


def in_threads(run: Callable[[int, int], None], images: int, chunk: int) -> None:
    """Call ``run(start, stop)`` for at most ``chunk`` images at a time, on as many threads as torch uses."""
    chunk = min(chunk, max(1, -(-images // torch.get_num_threads())))
    workers = min(torch.get_num_threads(), -(-images // chunk))
    if workers <= 1:
        for start in range(0, images, chunk):
            run(start, min(start + chunk, images))
        return
    starts = iter(range(0, images, chunk))

    def work() -> None:
        for start in starts:  # shared: each thread takes the next chunk
            run(start, min(start + chunk, images))

    pool = _pool(workers, os.getpid())
    for job in [pool.submit(work) for _ in range(workers)]:
        job.result()


@cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Threads that each run torch's operators on one core; made anew in a forked process."""
    threads = torch.get_num_threads()
    ready = threading.Barrier(workers + 1)

    def single() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(workers, "corrupt", initializer=single)
    for _ in range(workers):
        pool.submit(lambda: None)
    ready.wait()
    torch.set_num_threads(threads)  # set_num_threads acts on its own thread and on threads to come
    return pool
