"""``./reproduce.sh test``: linter, format check, type check and tests, as continuous integration runs them.

All of them, or what concerns some papers: those that are named, or those that a change touches (``--changed``).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from common.declaration import Paper
from common.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[2]
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
}
MOST_WORKERS = 4


#: Tests that take each paper; ``--papers`` of tests/conftest.py chooses among their cases.
OF_EACH = (
    "tests/test_contract.py",
    "tests/test_layers.py",
    "tests/test_readme_commands.py",
    "tests/bench/test_traces.py",
    "tests/downstream/test_configs.py",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what is run."""
    parser.epilog = (
        "Exit status: 0 if every check passes. Arguments after -- run pytest alone, with these arguments.\n"
        "docs/ci.md shows how to use this in continuous integration."
    )
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="papers: run what concerns them (default: everything)")
    parser.add_argument(
        "--changed",
        nargs="?",
        const="main",
        metavar="BASE",
        help="run what the changes since the commit or branch BASE concern (default: main)",
    )
    parser.add_argument("--slow", action="store_true", help="also run the tests that are marked slow")


def run(args: Namespace) -> int:
    """Run the checks one after the other; a failure does not keep the others from running."""
    if not (CHECKOUT / "tests").is_dir():
        raise UserError("./reproduce.sh test needs a checkout of resight; the installed package has no tests.")
    for tool in ("pytest", "pytest_cov", "xdist", "ruff", "mypy"):
        if find_spec(tool) is None:
            raise UserError(f"{tool} is not installed; run this through ./reproduce.sh, or install resight[test].")
    slow = ["-m", ""] if args.slow else []
    own = args.words[args.words.index("--") + 1 :] if "--" in args.words else []
    slugs = args.slugs[: len(args.slugs) - len(own)]
    if args.changed is not None and slugs:
        raise UserError("--changed finds the papers itself; leave the names out, or --changed.")
    if own:
        if slugs or args.changed is not None:
            raise UserError("Arguments after -- are for pytest alone; leave papers and --changed out.")
        return _python(["pytest", *slow, *own])
    if args.changed is not None:
        slugs = concerned(changed_files(args.changed))
        if slugs is None:
            print(f"The changes since {args.changed} concern everything.")
        elif not slugs:
            print(f"Nothing differs from {args.changed}.")
            return 0
        else:
            print(f"The changes since {args.changed} concern {', '.join(slugs)}.")
    return _of_papers(slugs, slow) if slugs else _everything(slow)


def changed_files(base: str) -> list[str]:
    """Paths in the checkout of what differs from where ``base`` and the present state part, committed or not.

    Raises:
        UserError: there is no such commit.
    """
    parting = _git("merge-base", "--end-of-options", base, "HEAD")
    if not parting:
        raise UserError(f"There is no commit {base!r} with a common past with this checkout; fetch it, or name one.")
    return sorted({*_git("diff", "--name-only", parting[0]), *_git("ls-files", "--others", "--exclude-standard")})


def concerned(files: Iterable[str]) -> list[str] | None:
    """The papers that changes to these files concern, and those that build on them; None: all of them, and the core."""
    import papers

    known = papers.all_papers()
    found = set()
    for file in files:
        owner = next((slug for slug, paper in known.items() if _belongs(file, paper)), None)
        if owner is None:
            return None
        found.add(owner)
    while more := {slug for slug, paper in known.items() if slug not in found and _uses(paper) & found}:
        found |= more
    return sorted(found)


def _belongs(file: str, paper: Paper) -> bool:
    package = paper.package.partition(".")[2]
    reference = f"results/reference/{paper.slug}"
    return file.startswith((f"papers/{package}/", f"tests/papers/{package}/", f"{reference}.", f"{reference}/"))


def _uses(paper: Paper) -> set[str]:
    """The papers on whose models or training settings a paper's are based."""
    text = paper.recipe.read_text(encoding="utf-8") if paper.recipe.is_file() else ""
    return {*paper.builds_on, *re.findall(r'^base = "([^":]+):', text, flags=re.MULTILINE)}


def _of_papers(slugs: list[str], slow: list[str]) -> int:
    import papers

    chosen = [papers.find(slug) for slug in slugs]
    packages = [paper.package.replace(".", "/") for paper in chosen]
    tests = [f"tests/{package}" for package in packages if (CHECKOUT / "tests" / package).is_dir()]
    shared = [path for path in OF_EACH if "downstream" not in path or any(_detects(paper) for paper in chosen)]
    failed = [
        name
        for name, command in {
            "ruff check": ["ruff", "check", *packages, *tests],
            "ruff format": ["ruff", "format", "--check", *packages, *tests],
            "readme": ["papers", "readme", "--check"],
        }.items()
        if _checked(name, command)
    ]
    return _tests(["--papers", ",".join(slugs), *slow, *tests, *shared], failed)


def _detects(paper: Paper) -> bool:
    return (paper.folder / "downstream").is_dir()


def _everything(slow: list[str]) -> int:
    failed = [name for name, command in CHECKS.items() if _checked(name, command)]
    return _tests(["--cov", "--cov-report=term", "--durations=15", *slow], failed)


def _tests(arguments: list[str], failed: list[str]) -> int:
    workers = min(_cores(), MOST_WORKERS)
    status = _python(["pytest", "-n", str(workers), "--dist", "worksteal", *arguments], workers)
    if failed:
        print(f"Failed beside the tests: {', '.join(failed)}.", file=sys.stderr)
    return status or int(bool(failed))


def _git(*words: str) -> list[str]:
    """The lines that git prints about the checkout; none where it fails."""
    done = subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


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
