"""``./reproduce.sh reference SLUG ...``: measure what we stand behind, and keep it in the repository.

Every contender is trained with six seeds or more, all by the code of one commit. The command can be interrupted and
goes on when it is called again at the same commit; ``--shard`` divides the training over machines, whose folders are
then copied together.
"""

from __future__ import annotations

import csv
import io
from argparse import ArgumentParser, Namespace
from pathlib import Path

from rich.text import Text

import papers
from common import bench, provenance
from common.arguments import whole_number
from common.declaration import Paper
from common.devices import device
from common.errors import UserError
from common.files import write_atomic
from common.progress import console
from common.run import Run, Settings
from papers._commands.compare import contenders
from papers._commands.reproduce import runs_folder

#: Seeds that a verdict needs at least.
SEEDS = 6


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the papers, the seeds and the share of the work."""
    parser.epilog = (
        "Writes results/reference/SLUG.csv and results/reference/traces/SLUG.csv. Needs committed code. Call it again\n"
        "to go on where it was interrupted. To divide the training over machines, call it with --shard 1/3, 2/3 and\n"
        "3/3, copy the folders results/runs/reference/COMMIT together, and call it once without --shard.\n"
        "Exit status: 0 written; 2 could not be measured; 130 interrupted."
    )
    parser.add_argument("slugs", nargs="+", metavar="SLUG", help="papers to measure")
    parser.add_argument(
        "--seeds", type=whole_number(1), default=SEEDS, metavar="N", help=f"trainings per number (default: {SEEDS})"
    )
    parser.add_argument(
        "--untrained", action="store_true", help="measure only claims that train nothing; keep the others' results"
    )
    parser.add_argument(
        "--shard", type=_shard, metavar="I/N", help="train every N-th contender and seed from the I-th on"
    )
    parser.add_argument(
        "--device", default="auto", metavar="D", help="cpu, cuda, mps or auto: cuda where there is one (default: auto)"
    )


def run(args: Namespace) -> int:
    """Measure paper after paper and write its reference as soon as it is complete."""
    from results import reference, write_all

    chosen = [papers.find(slug) for slug in dict.fromkeys(args.slugs)]
    state = provenance.code()
    if state["commit"] is None or state["dirty"]:
        raise UserError("A reference is of committed code: commit what has changed (git status), and call again.")
    folder = runs_folder() / "reference" / state["commit"][:12]
    settings = Settings(seeds=args.seeds, device=device(args.device), shared=folder / "contenders")
    if args.shard:
        return _train_share(chosen, settings, folder, *args.shard)
    for paper in chosen:
        console.rule(Text(paper.slug, style="bold"), align="left", style="dim")
        claims = tuple(c for c in paper.claims if "embedded" not in c.needs) if args.untrained else paper.claims
        measured = Run(paper, settings, folder / (f"{paper.slug}-untrained" if args.untrained else paper.slug))
        try:
            measured.execute(claims)
        finally:
            write_all(measured)
        traces = write_traces(paper)
        written = reference.write(measured.folder, part=args.untrained)
        console.print(f"Wrote {written}{f' and {traces}' if traces else ''}.", highlight=False, soft_wrap=True)
    return 0


def write_traces(paper: Paper) -> Path | None:
    """Write the first losses of the paper's contenders to where its tests find them; None where it has none."""
    own = contenders(paper)
    if not own:
        return None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("contender", "step", "loss"))
    for contender in own:
        for step, loss in enumerate(bench.first_losses(contender), start=1):
            writer.writerow((contender.name, step, f"{loss:.6g}"))
    return write_atomic(bench.traces_path(paper.slug), text.getvalue())


def _train_share(chosen: list[Paper], settings: Settings, folder: Path, share: int, of: int) -> int:
    """Train and measure this machine's share of all contenders and seeds."""
    every = {contender.name: contender for paper in chosen for contender in contenders(paper)}
    runs = Run(chosen[0], settings, folder / f"shard-{share}-of-{of}")
    bench.train_share(runs, list(every.values()), bench.robustness, share, of)
    console.print(f"Trained share {share} of {of} into {settings.shared}.", highlight=False, soft_wrap=True)
    return 0


def _shard(text: str) -> tuple[int, int]:
    """``I/N`` as two numbers."""
    from argparse import ArgumentTypeError

    first, separator, second = text.partition("/")
    if not (separator and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
        raise ArgumentTypeError(f"{text!r} is no share; write 1/3 for the first of three")
    return int(first), int(second)
