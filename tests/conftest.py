"""Several processes on the CPU, forked so that nothing has to be imported again; ``--papers``."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.declaration import Paper

# On a GPU convolutions in float32 would otherwise be computed with 10 bits.
torch.backends.cudnn.allow_tf32 = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--papers", metavar="SLUG,...", help="of tests with parameters, the cases of these papers only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--papers"):
        return
    import papers

    chosen = [papers.find(slug) for slug in config.getoption("--papers").split(",")]
    kept = [item for item in items if any(_concerns(item, paper) for paper in chosen)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _concerns(item: pytest.Item, paper: Paper) -> bool:
    """Whether a test is among the paper's, or has it, a file, a model or a command of it as a parameter."""
    if paper.package.partition(".")[2] == item.path.parent.name and item.path.parts[-3] == "papers":
        return True
    words = {paper.slug, *(model.name for model in paper.all_models)}
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any(
        value == paper
        or (isinstance(value, Path) and paper.folder in value.parents)
        or (isinstance(value, str) and not words.isdisjoint(value.split()))
        for value in values
    )


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
