"""``./reproduce.sh SLUG``: measure the claims of a paper and write the report."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import get_args

from common.arguments import existing_file, existing_folder, output_folder, seed, whole_number
from common.declaration import Claim, Paper
from common.devices import device
from common.errors import UserError, nearest
from common.measurement import WeightsChoice
from common.progress import console
from common.run import EVENTS, Run, Settings

CHECKOUT = Path(__file__).resolve().parents[2]


def add_arguments(parser: ArgumentParser, paper: Paper) -> None:
    """Declare the options of a run: of the data sets, those that its claims use."""
    parser.epilog = (
        "Without options, everything is measured that needs no more than the embedded data (Fashion-MNIST).\n"
        "Exit status: 0 as printed, or off for a known reason, and agreeing with our reference results; 1 newly off,\n"
        "broken, or against the reference; 2 could not run; 130 interrupted."
    )
    parser.add_argument("--claims", metavar="A,B", help="measure these claims only")
    add_embedded_arguments(parser)
    parser.add_argument(
        "--no-reference",
        action="store_true",
        help="let this run's own verdicts stand, as with --seeds 6 and more, instead of those of the reference results",
    )
    full = parser.add_argument_group("full scale")
    full.add_argument("--checkpoint", type=existing_file, metavar="FILE", help="released or own weights to evaluate")
    full.add_argument(
        "--weights",
        choices=get_args(WeightsChoice),
        help="of a checkpoint with both: the last step's (default), or averaged",
    )
    full.add_argument("--model", metavar="NAME", help="timm name of the model in --checkpoint")
    for need in paper.data_sets:
        remedy = need.remedy.partition("(")[2].removesuffix(")")
        full.add_argument(need.option, type=existing_folder, metavar="DIR", help=remedy)
    full.add_argument("--limit", type=whole_number(1), metavar="N", help="evaluate on this many images at most")
    full.add_argument("--batch-size", type=whole_number(1), default=64, metavar="N", help="(default: 64)")
    full.add_argument(
        "--workers", type=whole_number(0), default=2, metavar="N", help="processes that load images (default: 2)"
    )


def add_embedded_arguments(parser: ArgumentParser) -> None:
    """Declare what every command that measures on embedded data can be asked."""
    parser.add_argument("--quick", action="store_true", help="smaller budgets everywhere, for CI")
    parser.add_argument("--seeds", type=whole_number(1), metavar="N", help="trainings per trained number (default: 2)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="the first seed (default: 0)")
    parser.add_argument("--epochs", type=whole_number(1), metavar="N", help="epochs of trainings on embedded data")
    parser.add_argument(
        "--device", default="auto", metavar="D", help="cpu, cuda, mps or auto: cuda where there is one (default: auto)"
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        metavar="DIR",
        help="run folder (default: results/runs/NAME/TIME below the checkout)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --output, or with the newest unfinished one"
    )


def embedded_settings(args: Namespace) -> Settings:
    """The settings that ``add_embedded_arguments`` asks for."""
    return Settings(quick=args.quick, seeds=args.seeds, epochs=args.epochs, device=device(args.device), seed=args.seed)


def run(paper: Paper, args: Namespace) -> int:
    """Measure, report, and say how to go on after an interruption."""
    import results
    from results.judge import printed

    claims = _claims(paper, args.claims)
    settings = _settings(paper, args)
    printed(paper)  # a mistake in a manifest is told before anything is measured
    measured = open_run(paper, settings, claims, args)
    command = command_to_go_on(args.words, measured.folder)
    try:
        measured.execute(claims)
    except KeyboardInterrupt:
        results.write_all(measured, alone=args.no_reference)
        console.print(f"Stopped. What was measured is kept; go on with\n  {command}", highlight=False, soft_wrap=True)
        return 130
    return results.write_all(measured, alone=args.no_reference)


def _claims(paper: Paper, selection: str | None) -> tuple[Claim, ...]:
    if not paper.claims:
        raise UserError(f"{paper.slug} declares no claims; add them in {paper.folder / '__init__.py'}.")
    if selection is None:
        return paper.claims
    known = {claim.name: claim for claim in paper.claims}
    names = [name.strip() for name in selection.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UserError(
                f"{paper.slug} has no claim {name!r}.{nearest(name, known)} Its claims are {', '.join(known)}."
            )
    if not names:
        raise UserError(f"--claims names no claim; those of {paper.slug} are {', '.join(known)}.")
    return tuple(claim for claim in paper.claims if claim.name in names)


def _settings(paper: Paper, args: Namespace) -> Settings:
    for option, value in (("--model", args.model), ("--weights", args.weights)):
        if value is not None and args.checkpoint is None:
            raise UserError(f"{option} is of what --checkpoint holds; give --checkpoint FILE, too.")
    given = {need.name: getattr(args, need.name.replace("-", "_")) for need in paper.data_sets}
    return replace(
        embedded_settings(args),
        folders={name: path for name, path in given.items() if path is not None},
        checkpoint=args.checkpoint,
        checkpoint_weights=args.weights,
        model=args.model,
        limit=args.limit,
        batch_size=args.batch_size,
        workers=args.workers,
    )


def open_run(paper: Paper, settings: Settings, claims: tuple[Claim, ...], args: Namespace, name: str = "") -> Run:
    """The run in ``args.output``, a new one, or the newest unfinished one; ``name`` is its folder among the runs."""
    if args.output is not None:
        holds = (args.output / EVENTS).exists()
        if args.resume and not holds:
            raise UserError(f"{args.output} holds no run to go on with; leave out --resume.")
        if not args.resume and holds:
            raise UserError(
                f"{args.output} already holds a run; add --resume to go on with it, or name another folder."
            )
        return Run(paper, settings, args.output)
    base = runs_folder() / (name or paper.slug)
    if args.resume:
        return _newest_unfinished(paper, settings, claims, base)
    return Run(paper, settings, new_folder(base))


def new_folder(base: Path) -> Path:
    """A folder below ``base`` that is not there yet, named by the time."""
    stamp = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    folder, number = base / stamp, 1
    while folder.exists():
        number += 1
        folder = base / f"{stamp}-{number}"
    return folder


def runs_folder() -> Path:
    """Where runs are kept: in the checkout, or below the current folder where resight is installed without one."""
    return (CHECKOUT if (CHECKOUT / "reproduce.sh").exists() else Path.cwd()) / "results" / "runs"


def _newest_unfinished(paper: Paper, settings: Settings, claims: tuple[Claim, ...], base: Path) -> Run:
    refusal = None
    for record in sorted(base.glob(f"*/{EVENTS}"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            candidate = Run(paper, settings, record.parent)
        except UserError as error:
            refusal = refusal or error
            continue
        states = {claim.name: candidate.states.get(claim.name) for claim in claims}
        if any(state is None or state.state in ("interrupted", "failed") for state in states.values()):
            return candidate
    if refusal is not None:
        raise UserError(f"No run with these options is unfinished; of the others: {refusal}")
    raise UserError(f"There is no unfinished run of {paper.slug} in {base}; call without --resume to start one.")


def command_to_go_on(words: list[str], folder: Path) -> str:
    """The command line ``words``, made to resume ``folder``."""
    kept: list[str] = []
    for word, before in zip(words, ["", *words], strict=False):
        if before != "--output" and word not in ("--output", "--resume") and not word.startswith("--output="):
            kept.append(word)
    return shlex.join(["./reproduce.sh", *kept, "--output", str(folder), "--resume"])
