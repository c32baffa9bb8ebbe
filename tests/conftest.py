"""Several processes on the CPU, forked so that nothing has to be imported again."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch

# On a GPU convolutions in float32 would otherwise be computed with 10 bits.
torch.backends.cudnn.allow_tf32 = False


@pytest.fixture
def process_group() -> Callable[[int], dict[str, str]]:
    """The environment in which so many processes find each other; each still has to set its RANK and LOCAL_RANK."""

    def environment(world: int) -> dict[str, str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}

    return environment


@pytest.fixture
def processes() -> Callable[..., list[int]]:
    """Run a function in forked processes, which need no imports; returns their exit codes."""

    def run(function: Callable[..., None], count: int, *args: Any, **environment: str) -> list[int]:
        context = multiprocessing.get_context("fork")
        # No daemons, which may not have loader processes of their own.
        children = [context.Process(target=_child, args=(function, rank, environment, args)) for rank in range(count)]
        try:
            for child in children:
                child.start()
            for child in children:
                child.join(timeout=120)
            return [child.exitcode for child in children]
        finally:
            for child in children:
                child.kill()

    return run


def _child(function: Callable[..., None], rank: int, environment: dict[str, str], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    os.environ.update(environment)
    try:
        function(rank, *args)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
