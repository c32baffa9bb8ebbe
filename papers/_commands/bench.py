"""``./reproduce.sh bench NAME``: measure our speed against the released implementations."""

from __future__ import annotations

import importlib.util
from argparse import REMAINDER, ArgumentParser, Namespace
from pathlib import Path

from common.errors import UserError, nearest

#: ``bench_NAME.py`` in here is the benchmark NAME: a module with ``main(arguments) -> exit status``.
BENCHMARKS = Path(__file__).resolve().parents[2] / "tests" / "benchmarks"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare which benchmark; its own arguments follow its name."""
    parser.epilog = "./reproduce.sh bench NAME --help shows the arguments of one."
    names = ", ".join(sorted(_benchmarks())) or "only in a checkout of resight"
    parser.add_argument("name", metavar="NAME", help=names)
    parser.add_argument("arguments", nargs=REMAINDER, metavar="...", help="arguments of the benchmark")


def run(args: Namespace) -> int:
    """Run the benchmark in this process."""
    known = _benchmarks()
    if args.name not in known:
        raise UserError(
            f"There is no benchmark {args.name!r}.{nearest(args.name, known)} There are: {', '.join(sorted(known))}."
            if known
            else f"The benchmarks are in a checkout of resight; there is none at {BENCHMARKS.parents[1]}."
        )
    path = known[args.name]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(args.arguments)


def _benchmarks() -> dict[str, Path]:
    return {path.stem.removeprefix("bench_"): path for path in BENCHMARKS.glob("bench_*.py")}
