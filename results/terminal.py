"""The table that a run ends with."""

from __future__ import annotations

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from results.judge import Judgement
from results.measured import each
from results.style import DASH, MARKS, beside_reference, duration, interval, number, pieces, wide

COLOURS = {
    "reproduced": "green",
    "holds": "green",
    "done": "green",
    "off": "bold red",
    "does not hold": "red",
    "failed": "bold red",
    "interrupted": "bold yellow",
    "not reached": "yellow",
    "unclear": "yellow",
    "off, known": "cyan",
    "no difference": "cyan",
    "contradicts": "bold red",
    "not measured": "dim",
}


def show(judged: Judgement, console: Console | None = None) -> None:
    """Print what was measured, what it says, and what was not measured and why.

    Args:
        judged: the run.
        console: where to; standard output by default. Its width decides the layout.
    """
    console = console or Console(markup=False)
    paper = judged.run.paper
    console.print()
    console.print(Rule(Text(f"{paper.title} ({paper.venue})", style="bold"), align="left", style="dim"))
    parts = (_rows(judged), _findings(judged), *_own(judged, console.width), _not_measured(judged))
    for part in (*parts, _contradictions(judged)):
        if part is not None:
            console.print(part)
    # Paths stay whole, so that they can be clicked and copied.
    console.print(_end(judged), soft_wrap=True)


def verdict(name: str) -> Text:
    """Mark and name of a verdict in its colour."""
    return Text(f"{MARKS[name]} {name}", style=COLOURS[name])


def _section(title: str, *parts: RenderableType) -> Group:
    return Group(Text(), Text(title, style="bold"), *parts)


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)


def _rows(judged: Judgement) -> Group | None:
    """Printed numbers that were measured, or should have been."""
    table = _table()
    table.add_column("model", overflow="fold")
    table.add_column("number", overflow="fold")
    table.add_column("printed", justify="right", no_wrap=True)
    table.add_column("measured", justify="right")
    table.add_column("verdict", no_wrap=True)
    notes = []
    measured = judged.rows[judged.rows["outcome"] != "not measured"]
    for index, row in measured.iterrows():
        found = judged.comparisons[judged.comparisons["row"] == index]
        values = Text(justify="right")
        for x in each(found):
            values.append("\n" if values else "")
            values.append("" if x.weights == "none" else f"{x.weights} ", style="dim")
            values.append(interval(x.measured, x.low, x.high) if pd.notna(x.low) else number(x.measured, row["value"]))
        what = row["metric"] if row["dataset"] == "-" else f"{row['dataset']} {row['metric']}"
        unit = f" {row['unit']}" if row["unit"] else ""
        table.add_row(
            row["model"],
            what,
            f"{row['value']}{unit}",
            values or DASH,
            verdict(row["outcome"]),
        )
        # A claim that failed is told of once, below.
        if row["outcome"] != "reproduced" and row["explanation"]:
            notes.append(f"{row['model']} {what}: {row['explanation']}")
    if measured.empty:
        return None
    return _section("Printed numbers", table, *_notes(notes))


def _notes(notes: list[str], most: int = 8) -> list[Padding]:
    """The first few notes; the report has all of them."""
    shown = [Padding(Text(note, style="dim"), (0, 0, 0, 2)) for note in notes[:most]]
    if len(notes) > most:
        shown.append(Padding(Text(f"... and {len(notes) - most} more in the report", style="dim"), (0, 0, 0, 2)))
    return shown


def _findings(judged: Judgement) -> Group | None:
    if judged.findings.empty:
        return None
    table = _table()
    table.add_column("verdict", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for row in each(judged.findings):
        said = f"\n{row.evidence}" + (f" {beside}" if (beside := beside_reference(row)) else "")
        table.add_row(verdict(row.standing), Text(row.statement).append(said, style="dim"))
    return _section("Findings", table)


def _contradictions(judged: Judgement) -> Group | None:
    if judged.contradictions.empty:
        return None
    table = _table()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.show_header = False
    for row in each(judged.contradictions):
        what = row.statement if row.kind == "finding" else f"{row.claim}: {row.model} {row.dataset} {row.metric}"
        table.add_row(verdict("contradicts"), Text(what).append(f"\n{row.why}", style="dim"))
    return _section("Contradicts the reference results", table)


def _own(judged: Judgement, width: int) -> list[Group]:
    """Numbers that nobody printed: a table a claim and data set, a column a metric, as many columns as fit."""
    groups = []
    for (claim, dataset), part in judged.own.groupby(["claim", "dataset"], sort=False):
        tables = fitting(wide(part), width)
        what = "of the model or this machine" if dataset == "-" else f"on {dataset}"
        groups.append(_section(f"{claim}: measured {what} (± 95 % interval)", *tables))
    return groups


def fitting(grid: pd.DataFrame, width: int) -> list[RenderableType]:
    """A grid of text with a row a model as tables, each with as many columns as fit into ``width`` characters."""
    first = max(len(str(name)) for name in grid.index) + 2
    tables: list[RenderableType] = []
    columns = list(grid.columns)
    while columns:
        table = _table()
        table.add_column("model", no_wrap=True)
        chosen: list[str] = []
        left = width - first
        while columns and (not chosen or left >= _width(grid, columns[0])):
            left -= _width(grid, columns[0])
            chosen.append(columns.pop(0))
        for name in chosen:
            table.add_column(Text(name), justify="right")
        for model, cells in grid[chosen].iterrows():
            table.add_row(str(model), *cells)
        tables += [Text(), table] if tables else [table]
    return tables


def _width(grid: pd.DataFrame, column: str) -> int:
    return max(len(column), int(grid[column].str.len().max())) + 2


def _not_measured(judged: Judgement) -> Group | None:
    missing = judged.rows[judged.rows["outcome"] == "not measured"]
    waiting = judged.claims[judged.claims["state"] != "done"]
    if missing.empty and waiting.empty:
        return None
    table = _table()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.show_header = False
    reasons = missing["verdict"].str.removeprefix("not measured: ").value_counts().to_dict()
    for (state, reason), claims in waiting.groupby(["state", "reason"], sort=False):
        n = reasons.pop(reason, 0)
        settles = f"; would settle {_numbers(n)}" if n else ""
        names = Text(", ".join(claims["claim"])).append(f"\n{reason}{settles}", style="dim")
        table.add_row(verdict(str(state)), names)
    for reason, n in reasons.items():
        table.add_row(Text(_numbers(n), style="dim"), Text(str(reason), style="dim"))
    failed = waiting["state"].ne("not measured").any()
    return _section("Not measured, or not to its end" if failed else "Not measured", table)


def _numbers(n: int) -> str:
    return f"{n} printed number{'s' if n > 1 else ''}"


def _end(judged: Judgement) -> Text:
    seconds = float(judged.claims["seconds"].sum())
    lines = Text("\n")
    if len(judged.rows):
        lines.append("Printed numbers: ", style="bold").append(pieces(judged.counts) + "\n")
    if len(judged.findings):
        lines.append("Findings: ", style="bold").append(pieces(judged.finding_counts) + "\n")
    lines.append("Report: ", style="bold").append(str(judged.run.folder / "report.html"))
    lines.append(f"  ({duration(seconds)})", style="dim")
    if judged.claims["state"].isin(["interrupted", "not reached"]).any():
        lines.append("\nUnfinished: the same command with --resume goes on where it stopped.", style="bold yellow")
    return lines
