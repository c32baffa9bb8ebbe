"""What moved between two runs, or between a run and our reference results.

What ``./reproduce.sh compare-runs OLD NEW`` shows. ``OLD`` and ``NEW`` are run folders or CSV files in the format of
``measured.csv``. Exit status: 0 nothing moved, 1 something moved or is gone, 2 nothing could be compared.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.arguments import existing_path, output_file
from common.errors import UserError
from common.files import write_atomic
from results.agreement import EXACT
from results.judge import default_tolerance
from results.measured import MEASURED, PROVENANCE, each, load
from results.style import interval, number, pieces

#: One number or finding has the same key in both; findings are told apart by their claim and statement.
KEY = ["kind", "claim", "model", "dataset", "metric", "weights", "statement"]

#: What happened to a number, what needs attention first. ``not comparable``: measured with other budgets or seeds.
STATES = ("moved", "gone", "changed", "not judged", "not comparable", "not measured", "new", "same")

#: States that a regression check must not pass over.
_FAILING = ("moved", "gone")


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its name, its table, and how each claim ended where that is known."""

    name: str
    table: pd.DataFrame
    claims: dict[str, str]


def read(path: Path) -> Side:
    """Read a run folder or a CSV file.

    Raises:
        UserError: there is no table of measured numbers.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a run, or a CSV file that a run wrote.")
    if path.is_file():
        return Side(str(path), load(path), {})
    try:
        provenance = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
        claims = {name: str(claim["state"]) for name, claim in provenance["claims"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} has no readable {PROVENANCE}; give the folder of a run that wrote a report.") from None
    return Side(str(path), load(path / MEASURED), claims)


def changes(old: Side, new: Side) -> pd.DataFrame:
    """Join two tables and say what moved.

    Counts (parameters, FLOPs) and exact findings must be equal. Other numbers may differ within the 95 % interval
    of their difference, taken as independent, or without intervals within the metric's default tolerance; where
    there is neither they are shown and not judged. Numbers of other budgets (quick, epochs, limit, number of seeds)
    are not compared.

    Returns:
        One row a number or finding: the columns of ``KEY``, ``unit``, ``old``, ``new`` (text), ``difference``,
        ``allowed``, ``state`` (one of ``STATES``) and ``why``.
    """
    sides = []
    for side in (old, new):
        table = side.table
        # Measured twice within one run, a number needs a place of its own to be joined with its counterpart.
        sides.append(table.assign(copy=table.groupby(KEY, dropna=False).cumcount()))
    joined = sides[0].merge(sides[1], on=[*KEY, "copy"], how="outer", suffixes=("_old", "_new"), indicator=True)
    records = []
    for row in each(joined.rename(columns={"_merge": "found"})):
        state, difference, allowed, why = _compare_row(row, new)
        records.append(
            {
                **{name: getattr(row, name) for name in KEY},
                "unit": row.unit_new if isinstance(row.unit_new, str) else row.unit_old,
                "old": "" if row.found == "right_only" else _text(row, "old"),
                "new": "" if row.found == "left_only" else _text(row, "new"),
                "difference": difference,
                "allowed": allowed,
                "state": state,
                "why": why,
            }
        )
    columns = [*KEY, "unit", "old", "new", "difference", "allowed", "state", "why"]
    table = pd.DataFrame(records, columns=columns)
    return table.sort_values("state", key=lambda s: s.map(STATES.index), kind="stable", ignore_index=True)


def exit_status(table: pd.DataFrame) -> int:
    """0 nothing moved, 1 something moved or is gone, 2 nothing could be compared."""
    if table["state"].isin(_FAILING).any():
        return 1
    return 0 if table["state"].isin(["same", "changed"]).any() else 2


def show(table: pd.DataFrame, old: Side, new: Side, console: Console | None = None) -> None:
    """Print what is not the same, and how much is."""
    console = console or Console(markup=False)
    console.print(Text(f"old: {old.name}\nnew: {new.name}"))
    shown = table[table["state"] != "same"]
    if len(shown):
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for heading, justify in (("number", "left"), ("old", "right"), ("new", "right"), ("what", "left")):
            grid.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in each(shown):
            what = row.statement if row.kind == "finding" else f"{row.model} {row.dataset} {row.metric}"
            style = "bold red" if row.state in _FAILING else "yellow" if row.state == "changed" else "dim"
            verdict = Text(row.state, style=style).append(f"\n{row.why}" if row.why else "", style="dim")
            grid.add_row(Text(what), row.old, row.new, verdict)
        console.print(grid)
    counts = {name: int((table["state"] == name).sum()) for name in STATES}
    console.print(Text(pieces(counts), style="bold"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the two sides of a comparison."""
    parser.add_argument(
        "old", type=existing_path, help="folder of a run, or a CSV file such as results/reference/vars.csv"
    )
    parser.add_argument("new", type=existing_path, help="folder of a run, or a CSV file")
    parser.add_argument("--output", type=output_file, metavar="FILE", help="write the whole comparison as CSV, too")


def run(args: argparse.Namespace) -> int:
    """Compare, print, and return the exit status."""
    old, new = read(args.old), read(args.new)
    table = changes(old, new)
    show(table, old, new)
    if args.output is not None:
        write_atomic(args.output, table.to_csv(index=False, lineterminator="\n"))
    return exit_status(table)


def _compare_row(row: Any, new: Side) -> tuple[str, float, float, str]:
    """State, difference, allowed difference and reason of one joined row."""
    if row.found == "right_only":
        return "new", math.nan, math.nan, ""
    if row.found == "left_only":
        state = new.claims.get(row.claim, "")
        # Only a claim that could not be measured excuses a missing number; one that ran must still give it.
        if state in ("not measured", "interrupted"):
            return "not measured", math.nan, math.nan, f"{row.claim}: {state}"
        return "gone", math.nan, math.nan, f"{row.claim}: {state}" if state else ""
    if row.kind == "finding":
        return _compare_findings(row)
    difference = row.value_new - row.value_old
    if row.unit_old != row.unit_new:
        return "moved", difference, 0.0, f"its unit was {row.unit_old!r} and is {row.unit_new!r}"
    if row.metric in EXACT:
        equal = math.isclose(row.value_old, row.value_new, rel_tol=1e-9)
        return ("same", difference, 0.0, "") if equal else ("moved", difference, 0.0, "must be equal")
    other = _other_budget(row)
    if other:
        return "not comparable", difference, math.nan, other
    allowed, source = _allowed(row)
    if math.isnan(allowed):
        equal = row.value_old == row.value_new
        return ("same", difference, allowed, "") if equal else ("not judged", difference, allowed, source)
    if abs(difference) <= allowed + 1e-9:
        return "same", difference, allowed, ""
    return "moved", difference, allowed, f"{difference:+.4g}, {source} {allowed:.3g}"


def _compare_findings(row: Any) -> tuple[str, float, float, str]:
    difference = row.value_new - row.value_old
    if row.verdict_old == row.verdict_new:
        return "same", difference, math.nan, ""
    why = f"{row.verdict_old} -> {row.verdict_new}"
    if row.exact_old or row.exact_new:
        return "moved", difference, math.nan, f"{why}; it is exact"
    other = _other_budget(row)
    if other:
        return "not comparable", difference, math.nan, f"{why}; {other}"
    # Chance alone takes a verdict to unclear or back; from one side to the other it does not.
    opposite = {row.verdict_old, row.verdict_new} == {"holds", "does not hold"}
    return "moved" if opposite else "changed", difference, math.nan, why


def _other_budget(row: Any) -> str:
    for name in ("quick", "epochs", "limit", "seeds"):
        old, new = getattr(row, f"{name}_old"), getattr(row, f"{name}_new")
        old, new = (None if pd.isna(value) else value for value in (old, new))
        if old != new:
            return f"{name} was {old} and is {new}"
    return ""


def _allowed(row: Any) -> tuple[float, str]:
    """How far two measurements of one number may be apart, and by what."""
    halves = [(row.high_old - row.low_old) / 2, (row.high_new - row.low_new) / 2]
    known = [half for half in halves if not math.isnan(half)]
    if len(known) == 2:
        return math.hypot(*known), "beyond the interval of the difference,"
    width, _ = default_tolerance(row.metric, row.weights)
    try:
        return float(width), "tolerance"
    except ValueError:
        return math.nan, "neither interval nor tolerance"


def _text(row: Any, side: str) -> str:
    if row.kind == "finding":
        return str(getattr(row, f"verdict_{side}"))
    value, low, high = (getattr(row, f"{name}_{side}") for name in ("value", "low", "high"))
    return number(value) if math.isnan(low) else interval(value, low, high)
