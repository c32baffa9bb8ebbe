"""One page, one table and one JUnit file for the runs of several papers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from common.declaration import Paper
from common.files import write_atomic
from results import figures, junit, page
from results.judge import FINDINGS, OUTCOMES
from results.measured import MEASURED, PROVENANCE, load
from results.output import JUNIT, REPORT
from results.style import DASH, MARKS, duration, number, pieces
from results.svg import inline
from results.terminal import COLOURS, verdict

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
    def measured(self) -> dict[str, int]:
        """Printed numbers by outcome, without those that were not measured."""
        return {name: n for name, n in self.numbers.items() if name != "not measured"}

    @property
    def findings(self) -> dict[str, int]:
        counted = self.record.get("findings", {})
        return {name: counted[name] for name in reversed(FINDINGS) if name in counted}

    @property
    def main(self) -> dict[str, Any]:
        """The answer to the paper's main claim, as ``results.answers`` gives it; empty where there is none."""
        answers = self.record.get("answers", [])
        return dict(answers[0]) if answers else {}

    @property
    def seconds(self) -> float:
        return float(self.record.get("seconds", 0.0))

    @property
    def link(self) -> str:
        """The paper's report, relative to the index; empty where there is none."""
        return f"{self.folder.name}/{REPORT}" if (self.folder / REPORT).exists() else ""


def write(
    folder: Path, entries: Sequence[Entry], console: Console | None = None, costs: Mapping[str, float] | None = None
) -> int:
    """Write ``index.html`` and ``junit.xml`` of all papers into ``folder``, and print what they come to.

    Args:
        folder: holds the run of each paper in a folder with its slug.
        entries: how the runs ended, in the order of the page.
        console: standard output by default.
        costs: multiply-adds in millions of the small models to compare, by name.

    Returns:
        Exit status, the worst of all.
    """
    lines = [_Line(entry, folder / entry.paper.slug) for entry in entries]
    write_atomic(folder / JUNIT, junit.combine({line.entry.paper.slug: _cases(line) for line in lines}))
    path = write_atomic(folder / INDEX, _render(lines, costs or {}))
    _show(lines, path, console or Console(markup=False))
    return max((STATUS[entry.state] for entry in entries), default=2)


def show_line(entry: Entry, folder: Path, left: float | None, console: Console | None = None) -> None:
    """Print the line of a table that grows paper by paper: main claim, numbers, findings, time, and what is left.

    Args:
        entry: how the run of the paper ended.
        folder: holds the run of each paper in a folder with its slug.
        left: seconds that the papers after this one will take, or None after the last one.
        console: standard output by default.
    """
    line = _Line(entry, folder / entry.paper.slug)
    text = Text(f"{entry.paper.slug:16} ", style="bold")
    text.append_text(verdict(entry.state)).append(" " * max(1, 14 - len(entry.state) - 2))
    main = line.main.get("verdict", "")
    told = f"{MARKS.get(main, DASH)} {main}".rstrip()
    text.append(f"{told:18} ", style=COLOURS.get(main, "dim"))
    text.append(f"{duration(line.seconds) if line.record else DASH:>12}", style="default not bold")
    text.append(f"  numbers: {pieces(line.measured)}; findings: {pieces(line.findings)}", style="default not bold")
    if left is not None:
        text.append(f"; about {duration(left)} left", style="dim not bold")
    (console or Console(markup=False, highlight=False)).print(text, soft_wrap=True)


def _cases(line: _Line) -> str:
    """The paper's own JUnit XML, or the sentence why there is none."""
    path, entry = line.folder / JUNIT, line.entry
    # A run that failed after an earlier call had reported has the report of that call only.
    stale = entry.state == "failed" and line.record.get("exit_status") != STATUS["failed"]
    if path.exists() and line.record and not stale:
        return path.read_text(encoding="utf-8")
    return entry.reason or entry.state


def _render(lines: Sequence[_Line], costs: Mapping[str, float]) -> str:
    calls = [line.record["calls"][-1] for line in lines if line.record.get("calls")]
    numbers, findings = _total(lines)
    states = Counter(line.entry.state for line in lines)
    kinds: dict[str, list[_Line]] = {}
    for line in lines:
        kinds.setdefault(line.entry.paper.kind, []).append(line)
    small = _small_models(lines, costs)
    picture = figures.small_models(small)
    return page.render(
        "index.html",
        kinds=kinds,
        headline=f"{len(lines)} paper{'' if len(lines) == 1 else 's'}: {pieces({n: states[n] for n in STATUS})}.",
        mains=Counter(line.main["verdict"] for line in lines if line.main),
        numbers=numbers,
        findings=findings,
        seconds=sum(line.seconds for line in lines),
        calls=calls[-1:],
        picture=picture and {"caption": picture.caption, "svg": Markup(inline(picture.svg, "bench", picture.caption))},
        small=small.assign(
            **{name: [number(value) for value in small[name]] for name in ("cost", *figures.COMPARED)}
        ).to_dict("records"),
    )


def _small_models(lines: Sequence[_Line], costs: Mapping[str, float]) -> pd.DataFrame:
    """The bench's models whose cost is known, best first: ``model``, ``paper``, ``cost``, and the metrics compared.

    A model that several papers train alike is that of the first one.
    """
    tables = [
        load(line.folder / MEASURED).assign(paper=line.entry.paper.slug)
        for line in lines
        if (line.folder / MEASURED).exists()
    ]
    columns = ["model", "paper", "cost", *figures.COMPARED]
    if not tables:
        return pd.DataFrame(columns=columns)
    table = pd.concat(tables, ignore_index=True)
    chosen = table["protocol"].str.startswith("bench/") & table["metric"].isin(figures.COMPARED)
    table = table[chosen & table["model"].isin(list(costs))].drop_duplicates(["model", "metric"])
    wide = table.pivot(index="model", columns="metric", values="value").reindex(columns=list(figures.COMPARED)).dropna()
    wide = wide.assign(
        paper=table.drop_duplicates("model").set_index("model")["paper"], cost=[costs[name] for name in wide.index]
    )
    return wide.sort_values("top1", ascending=False).reset_index()[columns]


def _total(lines: Sequence[_Line]) -> tuple[dict[str, int], dict[str, int]]:
    """Printed numbers and findings of all papers; a number that two papers measure counts for each."""
    numbers = {name: sum(line.numbers.get(name, 0) for line in lines) for name in OUTCOMES}
    return numbers, {name: sum(line.findings.get(name, 0) for line in lines) for name in reversed(FINDINGS)}


def _show(lines: Sequence[_Line], path: Path, console: Console) -> None:
    for line in lines:
        if line.entry.reason:
            console.print(Text(f"{line.entry.paper.slug}: {line.entry.reason}", style="red"), soft_wrap=True)
    total = Text("\nAll papers: ", style="bold").append(str(path), style="not bold")
    console.print(total.append(f"  ({duration(sum(line.seconds for line in lines))})", style="dim"), soft_wrap=True)
