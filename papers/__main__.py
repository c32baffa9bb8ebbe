"""The command line: ``./reproduce.sh`` sets up the environment and runs this (``python -m papers``)."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError, machine_sentence
from common.parentage import end_with_parent
from papers._commands import dispatch

#: The folder of our packages.
PROJECT = Path(__file__).resolve().parents[1]
#: Seconds that a training has to write its checkpoint when torchrun is gone.
GRACE = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: arguments after the program's name; ``sys.argv`` by default.

    Returns:
        Exit status: 0 done; 1 something is newly off, broken, or against our reference; 2 could not be done; 130
            interrupted.
    """
    try:
        return dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone: what Python still holds back must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or (PROJECT / package).exists():
            raise
        return _fail(
            f"{sys.executable} lacks the package {package}: call ./reproduce.sh, which makes an environment with all "
            "packages, or that environment's Python."
        )
    except OSError as error:
        sentence = machine_sentence(error)
        if sentence is None:
            raise
        return _fail(sentence)


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


def _terminate(*_: Any) -> None:
    raise KeyboardInterrupt


def entry() -> int:
    """Run this process' command line: what ``python -m papers`` and the installed ``resight`` do."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(GRACE)  # torchrun stops its processes unless it is killed itself
    # A batch system's SIGTERM keeps what has been measured, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    # reproduce.sh starts in the checkout, so that the checkout's code runs; paths are relative to where it was called.
    os.chdir(os.environ.pop("RESIGHT_CALLED_FROM", "."))
    return main()


if __name__ == "__main__":
    sys.exit(entry())
