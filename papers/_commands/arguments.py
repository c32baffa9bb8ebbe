"""Parsing of options, with complaints that are single sentences; the types of options are in common.arguments."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
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
