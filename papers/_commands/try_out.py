"""``./reproduce.sh SLUG try CONTENDER``: train one contender once and show its curve, to find a size or a setting."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace

from common import bench
from common.arguments import whole_number
from common.declaration import Paper
from common.devices import device
from common.errors import UserError, nearest
from common.run import Run, Settings
from common.training.curves import TRAININGS, read_history
from papers._commands.compare import contenders
from papers._commands.reproduce import new_folder, runs_folder


def add_arguments(parser: ArgumentParser, paper: Paper) -> None:
    """Declare the contender and what is tried."""
    parser.epilog = "Prints loss and accuracy over the training, then accuracy and robustness, beside the floor."
    parser.add_argument("contender", metavar="CONTENDER", help="one of those that the paper trains on the bench")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe")
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--quick", action="store_true", help="the quick form of the recipe")
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda, mps or auto (default: auto)")


def run(paper: Paper, args: Namespace) -> int:
    """Train, measure, print."""
    known = {contender.name: contender for contender in contenders(paper)}
    if args.contender not in known:
        raise UserError(
            f"{paper.slug} trains no {args.contender!r} on the bench.{nearest(args.contender, known)} Known are "
            f"{', '.join(known) or 'none'}."
        )
    chosen = replace(known[args.contender], changes=(*known[args.contender].changes, *args.set))
    chosen.settings(quick=args.quick)  # a wrong setting is told at once
    settings = Settings(quick=args.quick, seeds=1, seed=args.seed, device=device(args.device))
    measured = Run(paper, settings, new_folder(runs_folder() / f"{paper.slug}-try"))
    start = time.perf_counter()
    bench.trained(measured, chosen, args.seed)
    trained = time.perf_counter()
    scores = bench.scores(measured, [chosen], bench.robustness)
    (log,) = (measured.folder / TRAININGS).glob("*.csv")
    for row in read_history(log):
        told = [f"{key} {float(text):.4g}" for key, text in row.items() if key not in ("model", "seed", "epoch")]
        print(f"epoch {float(row['epoch']):.3f}: {', '.join(told)}")
    for metric in bench.ROBUSTNESS:
        print(f"{metric} {scores.mean(chosen.name, metric):.2f} %")
    print(
        f"Training took {trained - start:.0f} s, measuring {time.perf_counter() - trained:.0f} s; logistic regression "
        f"reaches {bench.floor():.1f} %, chance {bench.CHANCE:g} %."
    )
    return 0
