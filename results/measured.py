"""Measured numbers and findings as one tidy table: of a run, or of a file that was written from one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import UserError
from common.measurement import Finding, Measurement
from common.run import Run

#: Files in a run folder: this table, and what its numbers depend on.
MEASURED, PROVENANCE = "measured.csv", "provenance.json"

#: One row a measurement or a finding. ``kind`` is ``measurement`` or ``finding``; for a finding ``verdict`` is its own.
COLUMNS: dict[str, str] = {
    "kind": "str",
    "claim": "str",
    "model": "str",
    "dataset": "str",
    "metric": "str",
    "weights": "str",
    "value": "float",
    "unit": "str",
    "low": "float",
    "high": "float",
    "over": "str",
    "seeds": "Int64",
    "n": "Int64",
    "name": "str",
    "statement": "str",
    "verdict": "str",
    "exact": "bool",
    "evidence": "str",
    "seconds": "float",
    "peak_memory": "float",
    "protocol": "str",
    "note": "str",
    "detail": "str",
    "commit": "str",
    "dirty": "str",
    "command": "str",
    "started": "str",
    "device": "str",
    "hardware": "str",
    "torch": "str",
    "first_seed": "Int64",
    "quick": "bool",
    "epochs": "Int64",
    "limit": "Int64",
}

#: Columns that tables written before they existed lack: they are empty there.
_ADDED = ("over", "name")


def of_run(run: Run) -> pd.DataFrame:
    """Everything that ``run`` measured, a row each, with provenance; columns as in ``COLUMNS``."""
    records = []
    for claim, results in run.results.items():
        provenance = _provenance(run, claim)
        for result in results:
            if isinstance(result, Measurement):
                records.append({**_measurement(result), "claim": claim, **provenance})
            elif isinstance(result, Finding):
                records.append({**_finding(result), "claim": claim, **provenance})
    return _typed(pd.DataFrame(records))


def load(path: Path) -> pd.DataFrame:
    """Read a table that ``to_csv`` wrote.

    Raises:
        UserError: the file is missing or not such a table.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; give the folder of a run, or a CSV file that a run wrote.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        raise UserError(f"{path} is not a table of measured numbers; give measured.csv of a run.") from None
    missing = [name for name in COLUMNS if name not in table and name not in _ADDED]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; give measured.csv of a run.")
    try:
        return _typed(table)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} holds a malformed value ({error}); write it again from its run.") from None


def to_csv(table: pd.DataFrame) -> str:
    """The table as CSV text, with every digit of each value."""
    return table.to_csv(index=False, lineterminator="\n")


def each(table: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples, with the columns as attributes and the index as ``Index``."""
    return iter(table.itertuples())


def _ends(interval: tuple[float, float] | None) -> dict[str, float]:
    """Columns of an interval."""
    low, high = interval or (math.nan, math.nan)
    return {"low": low, "high": high}


def _measurement(result: Measurement) -> dict[str, Any]:
    return {
        "kind": "measurement",
        **{name: getattr(result, name) for name in ("model", "dataset", "metric", "weights", "value", "unit")},
        **{
            name: getattr(result, name) for name in ("over", "seeds", "n", "seconds", "peak_memory", "protocol", "note")
        },
        **_ends(result.interval),
        "detail": json.dumps(result.detail, sort_keys=True) if result.detail else "",
    }


def _finding(result: Finding) -> dict[str, Any]:
    return {
        "kind": "finding",
        **{name: getattr(result, name) for name in ("name", "statement", "verdict", "evidence", "value")},
        **{name: getattr(result, name) for name in ("over", "seeds", "exact")},
        **_ends(result.interval),
    }


def _provenance(run: Run, claim: str) -> dict[str, Any]:
    if claim not in run.call_of:
        return {}
    call = run.calls[run.call_of[claim]]
    hardware, settings = call["hardware"], call["settings"]
    return {
        "commit": call["code"]["commit"],
        "dirty": call["code"]["dirty"],
        "command": call["command"],
        "started": call["started"],
        "device": hardware["device"],
        "hardware": hardware["accelerator"] or hardware["cpu"],
        "torch": call["versions"]["torch"],
        "first_seed": settings["seed"],
        "quick": settings["quick"],
        "epochs": settings["epochs"],
        "limit": settings["limit"],
    }


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with exactly ``COLUMNS`` and their types, whether it comes from a run or from text."""
    typed: dict[str, pd.Series] = {}
    for name, kind in COLUMNS.items():
        column = table[name] if name in table else pd.Series([None] * len(table), index=table.index, dtype=object)
        column = column.astype(object).where(column.notna() & (column.astype(str) != ""), None)
        if kind == "float":
            typed[name] = column.astype(float)
        elif kind == "Int64":
            typed[name] = pd.to_numeric(column).astype("Int64")
        elif kind == "bool":
            typed[name] = column.map(lambda value: str(value) == "True").astype(bool)
        else:
            typed[name] = column.map(lambda value: "" if value is None else str(value)).astype(object)
    return pd.DataFrame(typed, columns=list(COLUMNS))
