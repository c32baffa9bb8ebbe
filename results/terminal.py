"""What a run ends with in the terminal: at most one screen."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from results.answers import Answer, answers
from results.judge import Judgement, own_models_first
from results.measured import each
from results.missing import by_need
from results.style import MARKS, duration, interval, number, pieces, plural

#: A run ends with no more lines than this.
LINES = 40

#: Outcomes of what was measured.
MEASURED = ("off", "failed", "unclear", "off, known", "reproduced")

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
    "agrees": "green",
    "contradicts": "bold red",
    "not measured": "dim",
}


def show(judged: Judgement, console: Console | None = None) -> None:
    """Print what the run says of each claim, what it lacked, and last what is off or contradicts the reference.

    At most ``LINES`` lines: what does not fit is counted, and the report has it. What is off is never cut for the rest.

    Args:
        judged: the run.
        console: where to; standard output by default. Its width decides the layout.
    """
    console = console or Console(markup=False)
    paper = judged.run.paper
    end = _end(judged)
    trouble = [part for line in _trouble(judged) for part in line.wrap(console, console.width)]
    trouble = [Text(), *trouble[-LINES // 3 :]] if trouble else []
    left = LINES - 2 - len(end) - len(trouble)
    found = answers(judged)
    claims = _within(
        [line for answer in found if answer.verdict != "not measured" for line in _claim(answer)], left - 8
    )
    numbers = _within(_numbers(judged), left - len(claims) - 7)
    waiting = _within(_waiting(judged), left - len(claims) - len(numbers))
    console.print()
    console.print(Rule(Text(f"{paper.title} ({paper.venue})", style="bold"), align="left", style="dim"))
    for line in (*claims, *numbers, *waiting):
        console.print(line, no_wrap=True, overflow="ellipsis")
    # Paths stay whole, so that they can be clicked and copied.
    for line in end:
        console.print(line, soft_wrap=True)
    for line in trouble:
        console.print(line)


def verdict(name: str) -> Text:
    """Mark and name of a verdict in its colour."""
    return Text(f"{MARKS[name]} {name}", style=COLOURS[name])


def _within(lines: list[Text], most: int) -> list[Text]:
    """``lines``, or the first of them and how many more the report has."""
    if len(lines) <= most:
        return lines
    kept = max(0, most - 1)
    return [*lines[:kept], Text(f"... {plural(len(lines) - kept, 'more line')} in the report", style="dim")]


def _claim(answer: Answer) -> list[Text]:
    """Verdict and statement; below them the key number of this run, beside the reference."""
    first = verdict(answer.verdict).append(" " * max(1, 16 - len(answer.verdict) - 2))
    first.append(answer.statement, style="bold" if answer.decisive else "default not bold")
    beside = f"; reference {answer.reference}" if answer.reference else ""
    said = Text(f"{'':16}{'this run ' if beside else ''}{answer.here}{beside}", style="dim")
    if answer.agreement:
        said.append(f"; {answer.agreement}", style=COLOURS.get(answer.agreement, "dim"))
    return [first, said]


def _numbers(judged: Judgement) -> list[Text]:
    """How many printed numbers came out how; then those that were evaluated on data of the user."""
    if judged.rows.empty:
        return []
    lines = [Text(), Text("Printed numbers: ", style="bold").append(pieces(judged.counts), style="not bold")]
    rows = own_models_first(judged.run.paper, judged.rows)
    for index, row in rows[(rows["dataset"] != "-") & rows["outcome"].isin(MEASURED)].iterrows():
        found = judged.comparisons[judged.comparisons["row"] == index]
        line = Text("  ").append(verdict(row["outcome"])).append(f"  {_what(row)}: printed {row['value']}")
        lines.append(line.append(f", {_measured(found, row['value'])}"))
    return lines


def _what(row: Any) -> str:
    return " ".join(part for part in (row["model"], row["dataset"], row["metric"]) if part != "-")


def _measured(found: pd.DataFrame, like: str) -> str:
    """``released 78.37, trained 77.9 ± 0.4``."""
    parts = [
        f"{'measured' if x.weights == 'none' else x.weights} "
        + (interval(x.measured, x.low, x.high) if pd.notna(x.low) else number(x.measured, like))
        for x in each(found)
    ]
    return ", ".join(parts)


def _waiting(judged: Judgement) -> list[Text]:
    """What the run lacked, a line each, with the numbers that it would settle."""
    missing = by_need(judged)
    if not missing:
        return []
    lines = [Text(), Text("Not measured", style="bold")]
    first = max(len(one.need) for one in missing)
    for one in missing:
        numbers = plural(len(one.rows), "number") if one.rows else plural(len(one.claims), "claim")
        said = f"  {one.need:{first}}  {numbers:>11}  "
        lines.append(Text(said).append(one.command or one.what, style="dim"))
    return lines


def _trouble(judged: Judgement) -> list[Text]:
    """What the eye must not miss, the worst last: off for a known reason, not finished, off, against the reference."""
    told: dict[tuple[str, str], list[str]] = {}

    def tell(name: str, what: str, why: str) -> None:
        told.setdefault((name, why), []).append(what)

    def rows(outcome: str) -> None:
        for index, row in judged.rows[judged.rows["outcome"] == outcome].iterrows():
            found = judged.comparisons[judged.comparisons["row"] == index]
            why = row["known"] if outcome == "off, known" else row["explanation"]
            tell(outcome, _what(row), f"printed {row['value']}, {_measured(found, row['value'])}; {why}")

    rows("off, known")
    for row in each(judged.claims[~judged.claims["state"].isin(["done", "not measured"])]):
        tell(str(row.state), str(row.claim), str(row.reason))
    rows("off")
    for row in each(judged.findings[judged.findings["exact"] & (judged.findings["verdict"] == "does not hold")]):
        tell("does not hold", str(row.statement), str(row.evidence))
    for row in each(judged.contradictions):
        what = row.statement if row.kind == "finding" else f"{row.claim}: {row.model} {row.dataset} {row.metric}"
        tell("contradicts", what, row.why)
    return [
        verdict(name).append(f"  {', '.join(dict.fromkeys(what))}: {why}", style="default")
        for (name, why), what in told.items()
    ]


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)


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


def _end(judged: Judgement) -> list[Text]:
    seconds = float(judged.claims["seconds"].sum())
    lines = [Text()]
    if len(judged.findings):
        lines.append(Text("Findings: ", style="bold").append(pieces(judged.finding_counts), style="not bold"))
    report = Text("Report: ", style="bold").append(str(judged.run.folder / "report.html"), style="not bold")
    lines.append(report.append(f"  ({duration(seconds)})", style="dim"))
    if judged.claims["state"].isin(["interrupted", "not reached"]).any():
        lines.append(Text("Unfinished: the same command with --resume goes on where it stopped.", style="bold yellow"))
    return lines
