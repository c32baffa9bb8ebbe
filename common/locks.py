"""One call at a time in an output folder, which is tried before anything is computed for it."""

from __future__ import annotations

import errno
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError

LOCK = ".lock"
#: How files are called that are being written, see :func:`common.files.write_atomic`.
_HALF = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
#: Folders that this process holds; the system's locks tell processes apart only.
_held: set[Path] = set()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make ``folder`` and keep other calls out of it; what a killed one left half written there is removed.

    The lock ends with the process, however that ends, and is not handed on to processes that it forks.

    Raises:
        UserError: the folder cannot be made or written to, or another call works in it.
    """
    place = make_folder(folder).resolve()
    if place in _held:
        raise UserError(f"{folder} is in use by this process already; choose another --output.")
    file = _open(folder)
    _held.add(place)
    try:
        for half in folder.rglob(".*.part"):
            if _HALF.fullmatch(half.name):
                half.unlink(missing_ok=True)
        yield
    finally:
        _held.discard(place)
        (folder / LOCK).unlink(missing_ok=True)  # while it is locked, so that nobody holds a file without a name
        os.close(file)


def make_folder(folder: Path) -> Path:
    """Make ``folder`` and those above it.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(_cannot(folder, error)) from None
    return folder


def _open(folder: Path) -> int:
    """The descriptor of the folder's lock, which is held."""
    import fcntl  # not on every system

    path = folder / LOCK
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(_cannot(folder, error)) from None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {platform.node()}".encode())
                return file
            os.close(file)  # its owner removed it before it was locked here
        except OSError as error:
            owner = os.pread(file, 200, 0).decode(errors="replace")
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"{folder} is in use by another call ({owner}); wait for its end, or choose another --output."
                ) from None
            raise UserError(_cannot(folder, error)) from None


def _cannot(folder: Path, error: OSError) -> str:
    return f"{folder} cannot be written ({error.strerror or error}); choose another --output."
