"""Types of command-line options: each number and each path is checked where it is given, with one sentence."""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

#: The largest count that an option takes; what is larger is a slip, and overflows somewhere below.
MOST = 2**31 - 1


def whole_number(least: int, most: int = MOST) -> Callable[[str], int]:
    """A type for argparse: an integer from ``least`` to ``most``."""

    def convert(text: str) -> int:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal()) or int(text) < least:
            raise ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        if int(text) > most:
            raise ArgumentTypeError(f"{text} is more than {most}, the most that can be asked for")
        return int(text)

    return convert


#: A type for argparse: a seed. The others of a run count up from it, and every library must take them all.
seed = whole_number(0)


def number(above: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """A type for argparse: a finite number above ``above`` and at most ``most``."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and above < value <= most):
            low = "" if above == -math.inf else f" above {above:g}"
            high = "" if most == math.inf else f"{' and' if low else ''} of at most {most:g}"
            raise ArgumentTypeError(f"{text!r} is not a number{low}{high}")
        return value

    return convert


def existing_folder(text: str) -> Path:
    """A type for argparse: a folder that is there."""
    path = named_path(text)
    if not path.is_dir():
        what = f"{text!r} is a file, not a folder" if path.exists() else f"there is no folder {text!r}"
        raise ArgumentTypeError(what)
    return path


def existing_file(text: str) -> Path:
    """A type for argparse: a file that is there."""
    path = named_path(text)
    if not path.is_file():
        what = f"{text!r} is a folder, not a file" if path.is_dir() else f"there is no file {text!r}"
        raise ArgumentTypeError(what)
    return path


def existing_path(text: str) -> Path:
    """A type for argparse: a file or a folder that is there."""
    path = named_path(text)
    if not path.exists():
        raise ArgumentTypeError(f"there is no {text!r}")
    return path


def output_folder(text: str) -> Path:
    """A type for argparse: a folder to write into, which is there or can be made."""
    path = named_path(text)
    if path.exists() and not path.is_dir():
        raise ArgumentTypeError(f"{text!r} is no folder; name one")
    _check_parent(text, path)
    return path


def output_file(text: str) -> Path:
    """A type for argparse: a file to write, in a folder which is there or can be made."""
    path = named_path(text)
    if path.exists() and not path.is_file():
        raise ArgumentTypeError(f"{text!r} is no file; name one")
    _check_parent(text, path.parent)
    return path


def named_path(text: str) -> Path:
    """A type for argparse: any path."""
    if not text.strip():
        raise ArgumentTypeError("it names nothing; give a path")
    if "\0" in text:
        raise ArgumentTypeError(f"{text!r} is no path")
    try:
        text.encode()
        path = Path(text).expanduser()
        path.exists()
    except UnicodeEncodeError:  # logs and records are UTF-8
        raise ArgumentTypeError(f"{text!r} is not UTF-8 here; set PYTHONUTF8=1, or rename it") from None
    except (OSError, RuntimeError, ValueError) as error:  # too long a name; no such user's home; half a character
        raise ArgumentTypeError(f"{text!r} is no path ({getattr(error, 'strerror', None) or error})") from None
    return path


def _check_parent(text: str, folder: Path) -> None:
    """Refuse what cannot become a folder that can be written to, as far as that shows before it is made."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists() or each.is_symlink())
    if not there.is_dir():
        raise ArgumentTypeError(f"{text!r} cannot be made: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ArgumentTypeError(f"{text!r} cannot be written: {there} allows no writing here")
