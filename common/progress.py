"""Progress for everything that takes more than two seconds: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")

#: Text is printed as it is: brackets in a path are no markup.
console = Console(stderr=True, markup=False)

#: Without a terminal, at most one line in this many seconds.
SECONDS_BETWEEN_LINES = 10.0


def track(
    items: Iterable[T], description: str, total: int | None = None, *, unit: str = "", units_per_item: float = 1
) -> Iterator[T]:
    """Yield ``items`` and show how far it is.

    On a terminal this is a bar with the elapsed and the remaining time. Elsewhere (a log, CI) it is silent for
    short work and prints at most one line every ``SECONDS_BETWEEN_LINES`` seconds.

    Args:
        items: what to go through.
        description: what is being done, e.g. ``"training vars_d, seed 0"``.
        total: number of items, where ``items`` has no length.
        unit: what the throughput counts, e.g. ``"images"``; empty: no throughput is shown.
        units_per_item: how many of them an item is.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if console.is_terminal:
        yield from _bar(items, description, total, unit, units_per_item)
    else:
        yield from _lines(items, description, total, unit, units_per_item)


class _Throughput(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str, units_per_item: float) -> None:
        super().__init__()
        self.unit, self.units_per_item = unit, units_per_item

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed * self.units_per_item:.0f} {self.unit}/s" if task.speed else "")


def _bar(items: Iterable[T], description: str, total: int | None, unit: str, units_per_item: float) -> Iterator[T]:
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *([_Throughput(unit, units_per_item)] if unit else []),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(items, description=description, total=total)


def _lines(items: Iterable[T], description: str, total: int | None, unit: str, units_per_item: float) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            of = f"/{total}" if total else ""
            left = f", about {(now - start) / done * (total - done):.0f} s left" if total else ""
            speed = f", {done * units_per_item / (now - start):.0f} {unit}/s" if unit else ""
            print(f"{description}: {done}{of}, {now - start:.0f} s{left}{speed}", flush=True)
