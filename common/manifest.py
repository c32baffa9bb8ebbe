"""Manifests: the numbers that a paper's authors print, one a row, each with the place where it is printed."""

from __future__ import annotations

import csv
import io
import math
import re
from functools import lru_cache
from pathlib import Path

import pandas as pd

from common.errors import UserError, nearest

COLUMNS = ("model", "dataset", "metric", "value", "unit", "tolerance", "source", "locator", "note")
_FILLED = ("model", "dataset", "metric", "value", "source", "locator")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_NAME = re.compile(r"\S+")
#: Begins the note of a number that the released code itself does not give; the rest says why, in one sentence.
OFF_KNOWN = "off, known: "
#: Where papers bring their tables.
PAPERS = Path(__file__).resolve().parents[1] / "papers"


NEW_METRIC = "A new one is a row of metrics.csv in the paper's folder, or in common where several papers have it."


@lru_cache(maxsize=1)
def metrics() -> pd.DataFrame:
    """The metrics that a manifest may name, indexed by name, with the columns of ``common/metrics.csv``.

    A metric's name fixes its protocol. ``better`` is the direction; ``tolerance``, how far a measured value may be from
    the printed one with released weights or where weights play no part, and ``trained_tolerance``, after a training of
    our own, are numbers in the metric's unit, ``half unit`` of the last printed digit, ``not judged`` or empty, each
    with its reason. Metrics of a single paper are in a table of the same columns in its folder.

    Raises:
        UserError: two tables have the same metric, or one has other columns.
    """
    found = (Path(__file__).with_name("metrics.csv"), *sorted(PAPERS.glob("*/metrics.csv")))
    tables = [pd.read_csv(path, dtype=str, keep_default_na=False).assign(table=str(path)) for path in found]
    for path, table in zip(found, tables, strict=True):
        if list(table.columns) != list(tables[0].columns):
            raise UserError(f"{path}, line 1: the columns must be {','.join(tables[0].columns[:-1])}.")
    table = pd.concat(tables, ignore_index=True)
    for twice in table[table["metric"].duplicated()].itertuples():
        first = table[table["metric"] == twice.metric]["table"].iloc[0]
        raise UserError(f"{twice.table}: the metric {twice.metric!r} is in {first} already; keep one of the two.")
    return table.set_index("metric")


def load_manifest(path: Path) -> pd.DataFrame:
    """Read and check a manifest.

    Args:
        path: an ``expected.csv`` with the columns ``COLUMNS``. A manifest may have no rows.

    Returns:
        One row a printed number, the columns of the file, all text, with ``printed`` (float), ``line`` (the line in
        the file) and ``known`` added; ``tolerance`` is a float, NaN where the file leaves it to the metric's default.
        ``known`` is what a note says after ``off, known:``, why the released code does not give the number; else empty.

    Raises:
        UserError: the file is missing or malformed; names file, line, column and remedy.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; a manifest without rows needs the header {','.join(COLUMNS)}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it a readable file.") from None
    try:
        # Spreadsheet programs write a byte order mark, which is no part of the header.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: it is not UTF-8 text; save the file as UTF-8.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: it is not valid CSV ({error}); put text with quotes or commas in double "
            "quotes."
        ) from None
    if not rows:
        raise UserError(f"{path}, line 1: the header is missing; it must be {','.join(COLUMNS)}.")
    _check_header(path, rows[0][1])
    seen: dict[tuple[object, ...], int] = {}
    records = []
    for line, cells in rows[1:]:
        record = _check_row(path, line, cells)
        key = tuple(record[name] for name in ("model", "dataset", "metric", "source", "locator"))
        if key in seen:
            raise UserError(
                f"{path}, line {line}: the same number is already on line {seen[key]} (same model, dataset, metric, "
                "source and locator); remove one or make the locator more precise."
            )
        seen[key] = line
        records.append(record)
    table = pd.DataFrame(records, columns=[*COLUMNS, "line"])
    known = table["note"].str.startswith(OFF_KNOWN)
    table["known"] = table["note"].where(known, "").str.removeprefix(OFF_KNOWN)
    table["note"] = table["note"].where(~known, "")
    table["printed"] = table["value"].astype(float)
    table["tolerance"] = pd.to_numeric(table["tolerance"].replace("", None)).astype(float)
    return table


def half_unit(printed: str) -> float:
    """Half a unit of the last printed digit: 0.05 for ``"4.7"``, 0.5 for ``"57"``."""
    decimals = len(printed.partition(".")[2])
    return 0.5 * 10.0**-decimals


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if name not in COLUMNS:
            raise UserError(f"{path}, line 1: unknown column {name!r}.{nearest(name, COLUMNS)}")
    for name in COLUMNS:
        if name not in header:
            raise UserError(f"{path}, line 1: column {name!r} is missing; the header is {','.join(COLUMNS)}.")
    if tuple(header) != COLUMNS:
        raise UserError(f"{path}, line 1: the columns must come in the order {','.join(COLUMNS)}.")


def _check_row(path: Path, line: int, cells: list[str]) -> dict[str, str | int]:
    def fail(column: str, problem: str) -> UserError:
        return UserError(f"{path}, line {line}, column {column!r}: {problem}")

    if len(cells) != len(COLUMNS):
        raise UserError(
            f"{path}, line {line}: {len(cells)} cells where {len(COLUMNS)} are needed; "
            "put a cell with a comma in double quotes."
        )
    row = dict(zip(COLUMNS, (cell.strip() for cell in cells), strict=True))
    for column in _FILLED:
        if not row[column]:
            raise fail(column, "is empty; every printed number needs it.")
    for column in ("model", "dataset", "metric"):
        if not _NAME.fullmatch(row[column]):
            raise fail(column, f"{row[column]!r} contains a space; use the name as declared.")
    if not _NUMBER.fullmatch(row["value"]):
        raise fail(
            "value",
            f"{row['value']!r} is not a number; write the digits as printed, without unit or sign words.",
        )
    if row["metric"] not in metrics().index:
        known = metrics().index
        raise fail(
            "metric",
            f"unknown metric {row['metric']!r}.{nearest(row['metric'], known)} {NEW_METRIC}",
        )
    unit = metrics().loc[row["metric"], "unit"]
    if row["unit"] != unit:
        raise fail(
            "unit",
            f"{row['unit']!r} where {row['metric']} is in {unit!r}; convert the value or mend the unit.",
        )
    if row["note"] == OFF_KNOWN.strip():
        raise fail("note", f"{row['note']!r} does not say why; add one sentence.")
    if row["tolerance"]:
        try:
            tolerance = float(row["tolerance"])
        except ValueError:
            tolerance = math.nan
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise fail(
                "tolerance",
                f"{row['tolerance']!r} is not a number of at least 0; leave it empty for the default.",
            )
    return {**row, "line": line}
