"""The one exception for what a user can cause and mend."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend; its text is one sentence that names the thing and the remedy.

    The command line prints the sentence without a traceback and exits with status 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean X?"`` for the known word closest to ``word``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


#: Failures of the machine, not of the code.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTDIR),
    *(errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ENXIO, errno.EBUSY),
}


def machine_sentence(error: BaseException) -> str | None:
    """What to say of a failure of the machine (a full disk, no permission); None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _MACHINE:
        return None
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror}{where}; make room or choose another folder, and call again."
