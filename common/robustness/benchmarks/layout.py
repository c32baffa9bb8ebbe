"""Finding a data set in the folder that a user names, and saying precisely what is wrong when it is not there."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from common.errors import UserError


def find_folder(
    root: Path, title: str, layout: str, places: Iterable[str], expected: Collection[str], *, all_of_them: bool = True
) -> Path:
    """The folder at or below ``root`` that holds the expected folders.

    Args:
        root: what the user named.
        title: of the data set, for messages.
        layout: how it must be laid out, for messages.
        places: folders below ``root`` to look in, ``"."`` for ``root`` itself; the first with an expected one counts.
        expected: names of the folders.
        all_of_them: whether each expected folder must be there, and none else.

    Raises:
        UserError: the folder is missing; it is laid out otherwise; the number of class folders is wrong.
    """
    if not root.exists():
        raise UserError(f"{root} does not exist; give the folder of {title}, laid out as {layout}.")
    if not root.is_dir():
        raise UserError(f"{root} is a file; give the folder of {title}, laid out as {layout}.")
    for place in places:
        folder = root / place
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
        if not present & set(expected):
            continue
        if all_of_them:
            _check_complete(folder, title, present, expected)
        return folder
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir())
    found = f"{len(names)} entries, the first {', '.join(names[:3])}" if names else "nothing"
    raise UserError(f"{root} is not laid out as {title}: expected {layout}; found {found}.")


def _check_complete(folder: Path, title: str, present: set[str], expected: Collection[str]) -> None:
    missing = [name for name in expected if name not in present]
    extra = sorted(present - set(expected))
    if not missing and not extra:
        return
    problems = []
    if missing:
        problems.append(f"{len(missing)} are missing, the first {missing[0]}")
    if extra:
        problems.append(f"{len(extra)} do not belong, the first {extra[0]}")
    raise UserError(
        f"{folder} has {len(present)} class folders where {title} has {len(expected)}: {'; '.join(problems)}."
    )
