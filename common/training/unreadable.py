"""What stands in for an image that could not be read, on its way from a loader process to the user."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

#: What reading a broken image may raise.
READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Unreadable:
    """In place of an image; an exception would bring the traceback of a loader process with it.

    Args:
        name: file, or key and shard.
        reason: why.
    """

    name: str
    reason: str
