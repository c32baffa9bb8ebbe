"""The text of a ``recipe.toml``: its tables, the bases of its settings, and the line on which a value is stated."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.errors import UserError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What ``base = "bench"`` names: the setting that small models of all papers are trained by.
BENCH = (Path(__file__).parents[1] / "bench" / "recipe.toml", "embedded")
#: Where papers are that are not beside the one that names them as a base.
PAPERS = Path(__file__).parents[2] / "papers"
SUB_TABLES = ("models", "quick", "method")


@dataclass(frozen=True)
class Origin:
    """Where a value is stated.

    Attributes:
        path: the file.
        line: the line, from 1.
        comment: what stands behind the value on its line, which is its source; may be empty.
    """

    path: Path
    line: int
    comment: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def short(self) -> str:
        """Folder, file and line, as in ``vars/recipe.toml:12``."""
        return f"{self.path.parent.name}/{self.path.name}:{self.line}"


@dataclass(frozen=True)
class Table:
    """One table of a file.

    Attributes:
        path: the file.
        text: what the file holds.
        name: the table's dotted name without quotes, e.g. ``imagenet.models.rvt_base*``.
        values: the table as TOML gives it.
    """

    path: Path
    text: str
    name: str
    values: Mapping[str, Any]

    def origin(self, key: str) -> Origin:
        """Where this table states ``key``."""
        line = _line(self.text, self.name, key)
        return Origin(self.path, line, _comment(self.text.splitlines()[line - 1]))

    @property
    def header(self) -> str:
        """File and line of the table's header."""
        return f"{self.path}:{_line(self.text, self.name, None)}"

    def sub_table(self, key: str) -> Table:
        """The table under this one that is called ``key``, empty where there is none."""
        values = self.values.get(key, {})
        if not isinstance(values, dict) or (key == "models" and not all(isinstance(v, dict) for v in values.values())):
            raise UserError(f"{self.origin(key)}: {key} must be a table, [{self.name}.{key}].")
        return Table(self.path, self.text, f"{self.name}.{key}", values)

    @property
    def base(self) -> str:
        """What the table names as its base; empty where it has none."""
        base = self.values.get("base", "")
        if not isinstance(base, str) or ("base" in self.values and not base):
            raise UserError(
                f'{self.origin("base")}: base must be a text like "deit:imagenet", "imagenet" (of this file) or '
                f'"bench", not {base!r}.'
            )
        return base


def settings(path: Path) -> list[str]:
    """Return the names of the settings in a file, in file order."""
    return list(_parse(path, _read(path)))


def bases(path: Path, setting: str) -> list[Table]:
    """Return a setting's table after those that it is based on, the root first.

    Raises:
        UserError: no such file, setting or base, or bases that go in a circle.
    """
    chain = [_setting(path, setting)]
    while chain[-1].base:
        next_one = _base_of(chain[-1])
        if any(table.path == next_one.path and table.name == next_one.name for table in chain):
            way = ", ".join(f"{table.path.parent.name}:{table.name}" for table in [*chain, next_one])
            raise UserError(
                f"{chain[-1].origin('base')}: the bases of [{setting}] go in a circle ({way}); one of them must state "
                "its keys itself."
            )
        chain.append(next_one)
    return chain[::-1]


def layers(path: Path, setting: str, *, model: str = "", quick: bool = False) -> list[Table]:
    """Return the tables that make a setting, each of which changes what those before it state.

    From the root of the bases to the setting itself: the table, then its tables under ``models`` that match ``model``
    in file order; so a setting changes its base as the base is for this model. Then, with ``quick``, the tables
    ``quick`` in the same order: they come last of all, since a setting that states another length or batch than its
    base would else be long in the quick form.
    """
    chain = bases(path, setting)
    stated = []
    for table in chain:
        stated.append(table)
        models = table.sub_table("models")
        stated += [models.sub_table(pattern) for pattern in models.values if model and fnmatchcase(model, pattern)]
    if quick:
        stated += [table.sub_table("quick") for table in chain]
    for table in stated:
        if table not in chain and "base" in table.values:
            raise UserError(f"{table.origin('base')}: a base stands in the setting itself, not in [{table.name}].")
    return stated


def _base_of(table: Table) -> Table:
    place, base = table.origin("base"), table.base
    if base == "bench":
        return _setting(*BENCH)
    paper, colon, setting = base.rpartition(":")
    path = table.path
    if colon:
        folders = (PAPERS, path.absolute().parents[1])  # what is beside the file goes first
        of_papers = {file.parent.name.replace("_", "-"): file for at in folders for file in at.glob(f"*/{path.name}")}
        if paper not in of_papers:
            raise UserError(f"{place}: the base {base} is of no paper that has a recipe.{nearest(paper, of_papers)}")
        path = of_papers[paper]
    known = settings(path)
    if setting not in known:
        other = f"; {path} has {', '.join(known)}"
        hint = nearest(setting, known if colon else [*known, "bench"])
        raise UserError(f"{place}: the base {base} is not a setting{other}.{hint}")
    return _setting(path, setting)


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"The recipe {path} cannot be read ({error.strerror}); make it a readable file.") from None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: it is not UTF-8 text; save the file as UTF-8.") from None


def _parse(path: Path, text: str) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}.") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            line = _line(text, "", name)
            raise UserError(f"{path}:{line}: {name} stands outside a table; put it under a setting like [imagenet].")
    return tables


def _setting(path: Path, setting: str) -> Table:
    text = _read(path)
    tables = _parse(path, text)
    if setting not in tables:
        raise UserError(
            f"{path} has no setting {setting}; it has {', '.join(tables) or 'none'}.{nearest(setting, tables)}"
        )
    return Table(path, text, setting, tables[setting])


def _line(text: str, table: str, key: str | None) -> int:
    """Return the line (from 1) of a key in a table, or of the table's header where ``key`` is None.

    What has no line of its own (in a table that is written in one line) has that of the table.
    """
    headers, keys = _lines(text)
    name = table if key is None else f"{table}.{key}"
    above, _, last = name.rpartition(".")
    found = [headers.get(name), keys.get((table, key or ""))]
    if key is None:
        found.append(keys.get((above, last)))
    lines = [line for line in found if line]
    if lines or not table:
        return min(lines, default=1)
    return _line(text, table, None) if key is not None else _line(text, above, None)


@lru_cache(maxsize=16)
def _lines(text: str) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """The first line (from 1) of each table's header, and of each (table, key)."""
    word = r"""(?:"[^"]+"|'[^']+'|[\w-]+)"""
    current = ""
    headers: dict[str, int] = {}
    keys: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[([^\[\]]+)\]", line)
        key = None if header else re.match(rf"\s*({word}(?:\s*\.\s*{word})*)\s*=", line)
        if header:
            current = re.sub(r"[\"'\s]", "", header.group(1))
            headers.setdefault(current, number)
        elif key:
            table = current
            for part in re.findall(word, key.group(1)):
                name = part.strip("\"'")
                keys.setdefault((table, name), number)
                table = f"{table}.{name}" if table else name
    return headers, keys


def _comment(line: str) -> str:
    """What stands behind the first ``#`` outside quotes."""
    found = re.match(r"""(?:[^#"']|"(?:\\.|[^"\\])*"|'[^']*')*#\s*(.*)""", line)
    return found.group(1).strip() if found else ""
