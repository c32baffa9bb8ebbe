"""Records in JSON with a check sum of what they say, so that a damaged one is told rather than read."""

from __future__ import annotations

import json
import zlib
from typing import Any

_KEY = "crc32"


def signed(record: dict[str, Any]) -> dict[str, Any]:
    """``record``, which must be JSON-able, with its check sum."""
    return {**record, _KEY: _sum(record)}


def checked(record: Any) -> dict[str, Any]:
    """What :func:`signed` was given.

    Raises:
        ValueError: it is damaged.
    """
    if not isinstance(record, dict):
        raise ValueError("it is no record")
    content = {name: value for name, value in record.items() if name != _KEY}
    # There is none in what older versions wrote.
    if _KEY in record and record[_KEY] != _sum(content):
        raise ValueError("the check sum differs")
    return content


def _sum(record: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"
