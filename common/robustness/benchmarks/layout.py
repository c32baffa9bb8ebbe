"""Finding a data set in the folder that a user names, and saying precisely what is wrong when it is not there."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from common.data.folders import flat, is_image, visible_folders
from common.errors import UserError


def find_folder(
    root: Path, title: str, layout: str, places: Collection[str], expected: Collection[str], *, all_of_them: bool = True
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
    _check_folder(root, title, layout)
    for place in places:
        folder = root / place
        if not folder.is_dir():
            continue
        present = set(visible_folders(folder))
        if not present & set(expected):
            continue
        if all_of_them:
            _check_complete(folder, title, present, expected)
        return folder
    nearest = next(place for place in (*places, ".") if (root / place).is_dir())
    raise _other_layout(root, title, layout, nearest)


def find_class_folders(root: Path, title: str, layout: str, places: Iterable[str]) -> tuple[Path, list[str]]:
    """The first of ``places`` below ``root`` that is there, and the folders in it, in the order of timm's labels.

    Args:
        root, title, layout, places: as of ``find_folder``.

    Raises:
        UserError: the folder is missing, or has fewer than two folders.
    """
    _check_folder(root, title, layout)
    folder = next(root / place for place in places if (root / place).is_dir())
    names = visible_folders(folder)
    if len(names) < 2:
        raise _other_layout(folder, title, layout)
    return folder, names


def _check_folder(root: Path, title: str, layout: str) -> None:
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise UserError(f"{root} {problem}; give the folder of {title}, laid out as {layout}.")


def _other_layout(root: Path, title: str, layout: str, place: str = ".") -> UserError:
    folder = root / place
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    images = sum(is_image(name) for name in names)
    if images and not visible_folders(folder):
        return flat(folder, images)
    found = f"{len(names)} entries, the first {', '.join(names[:3])}" if names else "nothing"
    where = "" if place == "." else f" in {place}/"
    return UserError(f"{root} is not laid out as {title}: expected {layout}; found {found}{where}.")


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
