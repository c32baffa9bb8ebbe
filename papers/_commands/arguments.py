"""Parsing of options, with complaints that are single sentences."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from common.errors import UserError, nearest


class Parser(ArgumentParser):
    """argparse that raises ``UserError`` and names the nearest option."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise a ``UserError`` where argparse would print its usage."""
        raise UserError(f"{message[:1].upper()}{message[1:].rstrip('.')}; {self.prog} --help explains.")

    def parse(self, words: list[str]) -> Namespace:
        """Parse ``words``; an unknown option is answered with the nearest one."""
        parsed, unknown = self.parse_known_args(words)
        if unknown:
            word = unknown[0].partition("=")[0]
            hint = nearest(word, self._option_string_actions) if word.startswith("-") else ""
            raise UserError(f"{self.prog} does not know {word!r}.{hint} {self.prog} --help shows what it knows.")
        return parsed


def whole_number(least: int) -> Callable[[str], int]:
    """A type for argparse: an integer of at least ``least``."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return convert


def existing_folder(text: str) -> Path:
    """A type for argparse: a folder that is there."""
    path = Path(text).expanduser()
    if not path.is_dir():
        raise ArgumentTypeError(f"there is no folder {text!r}")
    return path


def existing_file(text: str) -> Path:
    """A type for argparse: a file that is there."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise ArgumentTypeError(f"there is no file {text!r}")
    return path
