"""``./reproduce.sh test``: linter, format check, type check and tests, as continuous integration runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path

from common.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[2]
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
}
MOST_WORKERS = 4


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what is run."""
    parser.epilog = "Exit status: 0 if every check passes. Arguments after -- run pytest alone, with these arguments."
    parser.add_argument("--slow", action="store_true", help="also run the tests that are marked slow")
    parser.add_argument("pytest", nargs="*", metavar="-- ARGUMENT", help="arguments of pytest, e.g. -- -k corruptions")


def run(args: Namespace) -> int:
    """Run the checks one after the other; a failure does not keep the others from running."""
    if not (CHECKOUT / "tests").is_dir():
        raise UserError("./reproduce.sh test needs a checkout of resight; the installed package has no tests.")
    for tool in ("pytest", "pytest_cov", "xdist", "ruff", "mypy"):
        if find_spec(tool) is None:
            raise UserError(f"{tool} is not installed; run this through ./reproduce.sh, or install resight[test].")
    slow = ["-m", ""] if args.slow else []
    if args.pytest:
        return _python(["pytest", *slow, *args.pytest])
    failed = [name for name, command in CHECKS.items() if _checked(name, command)]
    workers = min(_cores(), MOST_WORKERS)
    options = ["-n", str(workers), "--dist", "worksteal", "--cov", "--cov-report=term", "--durations=15", *slow]
    status = _python(["pytest", *options], workers)
    if failed:
        print(f"Failed beside the tests: {', '.join(failed)}.", file=sys.stderr)
    return status or int(bool(failed))


def _checked(name: str, command: list[str]) -> int:
    print(f"== {name}", flush=True)
    return _python(command)


def _python(module: list[str], processes: int = 1) -> int:
    """Run ``python -m MODULE`` in the checkout; its threads share the cores with the other processes."""
    threads = str(max(1, _cores() // processes))
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "MPLBACKEND": "Agg", **os.environ}
    return subprocess.run([sys.executable, "-m", *module], cwd=CHECKOUT, env=environment, check=False).returncode


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
