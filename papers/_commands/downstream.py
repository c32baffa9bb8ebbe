"""``./reproduce.sh SLUG downstream``: train and evaluate detectors and segmenters with a paper's backbones."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import get_args

from common.arguments import existing_file, existing_folder, output_folder, seed, whole_number
from common.declaration import Claim, Paper
from common.devices import device
from common.errors import UserError
from common.measurement import WeightsChoice
from common.progress import console
from common.run import Run, Settings, measured_claims
from papers._commands.reproduce import command_to_go_on, open_run

#: Data sets of each task; each is a need, an option, and the end of a config's name.
TASKS: dict[str, tuple[str, ...]] = {"detection": ("coco",), "segmentation": ("ade20k", "cityscapes")}


def add_arguments(parser: ArgumentParser, paper: Paper) -> None:
    """Declare the options of a run of detection and segmentation."""
    parser.epilog = (
        "Without a data set, small backbones are compared on the embedded composition (garments on canvases).\n"
        "On several GPUs: torchrun --nproc_per_node 8 -m papers SLUG downstream ... --output DIR\n"
        "Exit status: 0 as printed, or off for a known reason, and agreeing with our reference results; 1 newly off,\n"
        "broken, or against the reference; 2 could not run; 130 interrupted."
    )
    parser.add_argument("--task", choices=list(TASKS), help="one of them only")
    parser.add_argument("--coco", type=existing_folder, metavar="DIR", help="COCO 2017")
    parser.add_argument("--ade20k", type=existing_folder, metavar="DIR", help="ADEChallengeData2016")
    parser.add_argument("--cityscapes", type=existing_folder, metavar="DIR", help="Cityscapes, prepared as mmseg says")
    parser.add_argument("--setting", metavar="NAME", help="one of the paper's configs (--list names them)")
    parser.add_argument("--list", action="store_true", help="list the paper's settings and end")
    parser.add_argument("--model", metavar="NAME", help="timm name of the backbone (default: the setting's)")
    parser.add_argument("--checkpoint", type=existing_file, metavar="FILE", help="classifier that training starts from")
    parser.add_argument(
        "--checkpoint-weights",
        choices=get_args(WeightsChoice),
        help="of a checkpoint with both: the last step's (default), or averaged",
    )
    parser.add_argument(
        "--weights", type=existing_file, metavar="FILE", help="detector or segmenter to evaluate instead of training"
    )
    parser.add_argument(
        "--corruptions", action="store_true", help="also measure under every corruption and severity (dozens of times)"
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--iterations", type=whole_number(1), metavar="N", help="shorten the training to N iterations")
    parser.add_argument("--quick", action="store_true", help="smaller budgets on the embedded composition")
    parser.add_argument("--seeds", type=whole_number(1), metavar="N", help="trainings there per number (default: 3)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="the first seed (default: 0)")
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda or auto (default: auto)")
    parser.add_argument(
        "--workers", type=whole_number(0), default=2, metavar="N", help="processes that load images (default: 2)"
    )
    parser.add_argument("--output", type=output_folder, metavar="DIR", help="run folder")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --output, or the newest unfinished"
    )
    parser.add_argument("--verbose", action="store_true", help="show mmengine's log (it is in the run folder anyway)")


def run(paper: Paper, args: Namespace) -> int:
    """Measure what the options ask for and write the report."""
    import downstream  # noqa: F401  (first of all that imports OpenMMLab)
    import results
    from downstream.settings import DownstreamSettings

    if args.list:
        return _list(paper)
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if size > 1 and args.output is None:
        raise UserError("Processes of a distributed run must share a folder; name it with --output DIR.")
    wanted = [name for task, names in TASKS.items() if args.task in (None, task) for name in names]
    folders = {name: folder for name in wanted if (folder := getattr(args, name)) is not None}
    if size > 1 and not folders:
        raise UserError(
            "The embedded composition is compared in one process after the other; leave torchrun out, or give a data "
            "set (--coco DIR, --ade20k DIR, --cityscapes DIR)."
        )
    _check_options(paper, args, folders)
    ignored = [name for names in TASKS.values() for name in names if getattr(args, name) and name not in wanted]
    if ignored:
        raise UserError(f"--{ignored[0]} is not for --task {args.task}; leave one of them out.")
    settings = DownstreamSettings(
        quick=args.quick,
        seeds=args.seeds,
        device=device(args.device),
        seed=args.seed,
        folders=folders,
        checkpoint=args.checkpoint,
        checkpoint_weights=args.checkpoint_weights,
        model=args.model,
        workers=args.workers,
        setting=args.setting,
        weights=args.weights,
        amp=args.amp,
        corruptions=args.corruptions,
        iterations=args.iterations,
        verbose=args.verbose,
    )
    claims = _claims(paper, args.task, folders)
    if rank > 0:
        return _assist(paper, settings, claims, args.output, rank)
    measured = open_run(paper, settings, claims, args, f"{paper.slug}-downstream")
    command = command_to_go_on(args.words, measured.folder)
    try:
        measured.execute(claims)
    except KeyboardInterrupt:
        results.write_all(measured)
        console.print(f"Stopped. What was measured is kept; go on with\n  {command}", highlight=False, soft_wrap=True)
        return 130
    return results.write_all(measured)


def _claims(paper: Paper, task: str | None, folders: dict[str, Path]) -> tuple[Claim, ...]:
    """The paper's claims on what was given: on data sets, or on the embedded composition where none was."""
    kind = set(folders) or {"embedded"}
    claims = [claim for claim in paper.claims if "downstream" in claim.needs and kind & set(claim.needs)]
    if not folders and task is not None:
        claims = [claim for claim in claims if claim.name == f"embedded_{task}"]
    if not claims and not folders:
        options = " or ".join(f"--{name} DIR" for names in TASKS.values() for name in names)
        raise UserError(f"{paper.slug} compares nothing on the embedded composition; give {options}.")
    if not claims:
        raise UserError(f"{paper.slug} declares no claim on {' and '.join(sorted(kind))}.")
    return tuple(claims)


def _check_options(paper: Paper, args: Namespace, folders: dict[str, Path]) -> None:
    """Refuse options that would change nothing, and settings that are not for the data sets."""
    from common.errors import nearest
    from downstream.measure import choose
    from downstream.training import settings

    known = settings(paper)
    if args.setting is not None and args.setting not in known:
        have = f"It has {', '.join(known)}." if known else "It has none."
        raise UserError(f"{paper.slug} has no setting {args.setting!r}.{nearest(args.setting, known)} {have}")
    of_data = [name for name in ("setting", "model", "checkpoint", "weights", "corruptions", "amp") if vars(args)[name]]
    if not folders and of_data:
        options = " or ".join(f"--{name} DIR" for names in TASKS.values() for name in names)
        raise UserError(f"--{of_data[0]} is for a data set; give {options}, or leave it out.")
    of_canvases = [name for name in ("quick", "seeds") if vars(args)[name]]
    if folders and of_canvases:
        raise UserError(f"--{of_canvases[0]} is for the embedded composition; leave it out (--iterations shortens).")
    of_training = [name for name in ("checkpoint", "iterations", "amp") if vars(args)[name]]
    if args.weights and of_training:
        raise UserError(f"--weights is evaluated as it is, and --{of_training[0]} is for training; leave one out.")
    for name in folders:
        choose(paper, name, args.setting)


def _list(paper: Paper) -> int:
    from downstream.training import load_config, settings

    for name, path in settings(paper).items():
        print(f"{name:32} {load_config(path).model.backbone.name}")
    return 0


def _assist(paper: Paper, settings: Settings, claims: tuple[Claim, ...], output: Path, rank: int) -> int:
    """Take part in a distributed run whose first process reports: in the claims that it has not measured before."""
    import shutil

    folder = output / "ranks" / str(rank)
    shutil.rmtree(folder, ignore_errors=True)
    helper = Run(paper, settings, folder)
    done = measured_claims(output)
    helper.execute(tuple(claim for claim in claims if claim.name not in done))
    return int(any(state.state == "failed" for state in helper.states.values()))
