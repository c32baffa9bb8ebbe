"""One page, one table and one JUnit file for the runs of several papers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.declaration import Paper
from common.files import write_atomic
from results import junit, page
from results.judge import FINDINGS, OUTCOMES
from results.measured import PROVENANCE
from results.output import JUNIT, REPORT
from results.style import DASH, duration, pieces
from results.terminal import verdict

INDEX = "index.html"

#: The exit status that the state of a paper stands for.
STATUS = {"done": 0, "off": 1, "failed": 2, "not reached": 130, "interrupted": 130}


@dataclass(frozen=True)
class Entry:
    """How the run of one paper ended; ``reason`` says what failed.

    ``state`` is ``done``, ``off`` (something that was measured is), ``failed`` (something could not be measured to its
    end, or nothing was), ``interrupted`` or ``not reached``.
    """

    paper: Paper
    state: str
    reason: str = ""


@dataclass(frozen=True)
class _Line:
    """An entry with what its folder says."""

    entry: Entry
    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """The provenance of the paper's run; empty where it did not come so far."""
        try:
            found: dict[str, Any] = json.loads((self.folder / PROVENANCE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    @property
    def numbers(self) -> dict[str, int]:
        return self.record.get("verdicts", {})

    @property
    def findings(self) -> dict[str, int]:
        counted = self.record.get("findings", {})
        return {name: counted[name] for name in reversed(FINDINGS) if name in counted}

    @property
    def seconds(self) -> float:
        return float(self.record.get("seconds", 0.0))

    @property
    def link(self) -> str:
        """The paper's report, relative to the index; empty where there is none."""
        return f"{self.folder.name}/{REPORT}" if (self.folder / REPORT).exists() else ""


def write(folder: Path, entries: Sequence[Entry], console: Console | None = None) -> int:
    """Write ``index.html`` and ``junit.xml`` of all papers into ``folder``, and print a table.

    Args:
        folder: holds the run of each paper in a folder with its slug.
        entries: how the runs ended, in the order of the page.
        console: standard output by default.

    Returns:
        Exit status, the worst of all.
    """
    lines = [_Line(entry, folder / entry.paper.slug) for entry in entries]
    write_atomic(folder / JUNIT, junit.combine({line.entry.paper.slug: _cases(line) for line in lines}))
    path = write_atomic(folder / INDEX, _render(lines))
    _show(lines, path, console or Console(markup=False))
    return max((STATUS[entry.state] for entry in entries), default=2)


def _cases(line: _Line) -> str:
    """The paper's own JUnit XML, or the sentence why there is none."""
    path, entry = line.folder / JUNIT, line.entry
    # A run that failed after an earlier call had reported has the report of that call only.
    stale = entry.state == "failed" and line.record.get("exit_status") != STATUS["failed"]
    if path.exists() and line.record and not stale:
        return path.read_text(encoding="utf-8")
    return entry.reason or entry.state


def _render(lines: Sequence[_Line]) -> str:
    calls = [line.record["calls"][-1] for line in lines if line.record.get("calls")]
    numbers, findings = _total(lines)
    states = Counter(line.entry.state for line in lines)
    return page.render(
        "index.html",
        lines=lines,
        headline=f"{len(lines)} paper{'' if len(lines) == 1 else 's'}: {pieces({n: states[n] for n in STATUS})}.",
        numbers=numbers,
        findings=findings,
        seconds=sum(line.seconds for line in lines),
        calls=calls[-1:],
    )


def _total(lines: Sequence[_Line]) -> tuple[dict[str, int], dict[str, int]]:
    """Printed numbers and findings of all papers; a number that two papers measure counts for each."""
    numbers = {name: sum(line.numbers.get(name, 0) for line in lines) for name in OUTCOMES}
    return numbers, {name: sum(line.findings.get(name, 0) for line in lines) for name in reversed(FINDINGS)}


def _show(lines: Sequence[_Line], path: Path, console: Console) -> None:
    table = Table("paper", "run", "printed numbers", "findings", box=None, pad_edge=False, header_style="dim")
    table.add_column("time", justify="right", no_wrap=True)
    for line in lines:
        entry = line.entry
        spent = duration(line.seconds) if line.record else DASH
        table.add_row(entry.paper.slug, verdict(entry.state), pieces(line.numbers), pieces(line.findings), spent)
    console.print()
    console.print(table)
    for line in lines:
        if line.entry.reason:
            console.print(Text(f"{line.entry.paper.slug}: {line.entry.reason}", style="red"), soft_wrap=True)
    total = Text("\nAll papers: ", style="bold").append(str(path), style="not bold")
    console.print(total.append(f"  ({duration(sum(line.seconds for line in lines))})", style="dim"), soft_wrap=True)
