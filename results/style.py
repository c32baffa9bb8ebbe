"""How numbers and verdicts read, in the terminal as in the report."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from results.measured import each

#: A mark for each verdict, so that none is told by its colour alone.
MARKS = {
    "reproduced": "✓",
    "holds": "✓",
    "off": "✗",
    "off, known": "≠",
    "does not hold": "✗",
    "failed": "!",
    "interrupted": "!",
    "not reached": "!",
    "unclear": "?",
    "no difference": "=",
    "agrees": "✓",
    "contradicts": "✗",
    "another budget": "–",
    "not measured": "–",
    "done": "✓",
}

#: What is measured where, as column headings.
WEIGHTS = {"none": "measured", "released": "released weights", "trained": "our training"}

DASH = "–"


def number(value: float, like: str = "") -> str:
    """``value`` with one digit more than the printed number ``like``, else with four significant digits."""
    if not math.isfinite(value):
        return DASH
    if like:
        return f"{value:.{len(like.partition('.')[2]) + 1}f}"
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2e}"
    # Four significant digits, without the exponent that "%g" would give to 12345.
    decimals = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(decimals, 4)}f}"


def signed(difference: float, like: str) -> str:
    """A difference with its sign and one digit more than the printed number ``like``."""
    size = number(abs(difference), like)
    return f"{'-' if difference < 0 and size.strip('0.') else '+'}{size}"


def interval(value: float, low: float, high: float) -> str:
    """``value ± half width``, with the two ends where the interval is not symmetric, to two digits of the width."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return number(value)
    half = (high - low) / 2
    if half <= 0:
        return number(value)
    decimals = min(6, max(0, 1 - math.floor(math.log10(half))))
    if abs((high + low) / 2 - value) > 0.1 * half:
        return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
    return f"{value:.{decimals}f} ± {half:.{decimals}f}"


def beside_reference(row: Any) -> str:
    """How a finding of this run stands to the reference's, one sentence; empty where they cannot be compared."""
    if not row.agreement:
        return ""
    seeds = f", {row.seeds} seed{'' if row.seeds == 1 else 's'}" if pd.notna(row.seeds) and row.seeds else ""
    how = "agrees with" if row.agreement == "agrees" else "contradicts"
    return f"This run ({row.verdict}{seeds}) {how} the reference ({row.reference})."


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``0.4 s``, ``47 s``, ``3 min 20 s``, ``1 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plural(n: int, noun: str) -> str:
    """``1 number``, ``2 numbers``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def pieces(counts: dict[str, int]) -> str:
    """``2 off, 3 reproduced``: the counts that are not zero, or ``none``."""
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "none"


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Measurements of one data set with a row a model (and kind of weights), a column a metric and its unit.

    Cells are text, ``±`` the half width of the 95 % interval; several values of one cell are joined by a slash.
    """
    cells = table.assign(
        cell=[interval(row.value, row.low, row.high) for row in each(table)],
        model=[row.model if row.weights != "released" else f"{row.model} (released)" for row in each(table)],
        heading=[f"{row.metric} [{row.unit}]" if row.unit else row.metric for row in each(table)],
    )
    grid = cells.pivot_table(index="model", columns="heading", values="cell", aggfunc=" / ".join, sort=False)
    return grid.fillna(DASH)
