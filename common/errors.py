"""The one exception for what a user can cause and mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend; its text is one sentence that names the thing and the remedy.

    The command line prints the sentence without a traceback and exits with status 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean X?"`` for the known word closest to ``word``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""
