"""``./reproduce.sh robustness``: measure any timm model on benchmark sets, and show models side by side."""

from __future__ import annotations

import json
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import UserError, nearest
from common.files import write_atomic
from common.measurement import Measurement, Weights, from_json, to_json
from common.progress import console

#: What a folder without a name of a benchmark is measured on: ImageNet's validation set, clean and corrupted.
DEFAULT_BENCHMARKS = ("imagenet", "imagenet-c-generated")

RESULTS = "results.json"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", required=True, metavar="NAME", help="timm name of the model")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="its weights")
    source.add_argument("--pretrained", action="store_true", help="timm's own weights, which it downloads")
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="[BENCHMARK=]DIR",
        help="what to measure, e.g. imagenet-a=/data/imagenet-a; a folder alone is ImageNet's, measured clean and "
        "under corruptions computed on the fly; --data help= shows the benchmarks",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write and to go on (default: robustness/NAME)"
    )
    parser.add_argument(
        "--compare", type=Path, nargs="*", default=[], metavar="DIR", help="other outputs to show beside"
    )
    parser.add_argument("--device", default="", help="torch device (default: the GPU where there is one)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="loader processes")
    parser.add_argument("--limit", type=int, metavar="N", help="evaluate on N images of a fixed random order")
    parser.add_argument("--amp", action=BooleanOptionalAction, help="mixed precision (default: on a GPU)")
    parser.add_argument("--crop", type=float, help="share of the resized image that is cropped (default: the model's)")
    parser.add_argument("--interpolation", choices=("bicubic", "bilinear", "nearest"), help="(default: the model's)")
    parser.add_argument("--mean", type=float, nargs="+", help="of pixels in [0, 1] by channel (default: the model's)")
    parser.add_argument("--std", type=float, nargs="+", help="of pixels in [0, 1] by channel (default: the model's)")
    parser.add_argument("--alexnet-flips", type=Path, metavar="FILE", help="JSON of AlexNet's flip rates, for mFR")
    parser.add_argument("--frost-photos", type=Path, metavar="DIR", help="the original's frost pictures")


def run(args: Namespace) -> int:
    """Measure, write ``results.json`` and ``corruptions.svg`` to the output folder, and print the tables."""
    wanted = [pair for text in args.data for pair in _parse_data(text)]
    if not args.checkpoint and not args.pretrained:
        raise UserError("random weights tell nothing; pass --checkpoint FILE, or --pretrained for timm's weights.")
    others = {path.name: _read_results(path) for path in args.compare}

    import timm
    import torch

    from common.checkpoints import read
    from common.data.preprocessing import Preprocessing
    from common.robustness.benchmarks import benchmark
    from common.robustness.evaluation import Processes, evaluate
    from common.robustness.full_scale_measures import load_weights

    if not timm.is_model(args.model):
        raise UserError(f"timm has no model {args.model!r}.{nearest(args.model, timm.list_models())}")
    processes = Processes.here()
    device = args.device or (f"cuda:{processes.local}" if torch.cuda.is_available() else "cpu")
    model = timm.create_model(args.model, pretrained=args.pretrained)
    weights: Weights = "released"
    if args.checkpoint:
        weights = load_weights(model, read(args.checkpoint), str(args.checkpoint))
    model.to(device)
    preprocessing = Preprocessing.of(model)
    changes = {key: getattr(args, key) for key in ("crop", "interpolation") if getattr(args, key) is not None}
    changes |= {key: tuple(getattr(args, key)) for key in ("mean", "std") if getattr(args, key)}
    preprocessing = replace(preprocessing, **changes)
    # All folders are looked at before the first takes its hours.
    for name, folder in wanted:
        benchmark(name, folder, preprocessing, **_options(name, args, wanted))

    output = args.output or Path("robustness") / args.model
    results: list[Measurement] = []
    for name, folder in wanted:
        results += evaluate(
            model,
            name,
            folder,
            model_name=args.model,
            weights=weights,
            device=device,
            batch_size=args.batch_size,
            workers=args.workers,
            limit=args.limit,
            amp=args.amp,
            preprocessing=preprocessing,
            output=output,
            **_options(name, args, wanted),
        )
        if processes.index == 0:
            write_atomic(output / RESULTS, json.dumps([to_json(result) for result in results], indent=1))
    if processes.index == 0:
        _show(output, {args.model: results, **others})
    return 0


def _show(output: Path, results: dict[str, list[Measurement]]) -> None:
    from common.robustness.report import corruption_errors_of, corruption_figure, corruption_table, summary_table

    errors = {label: corruption_errors_of(measured) for label, measured in results.items()}
    errors = {label: table for label, table in errors.items() if table}
    for label, table in errors.items():
        console.print(corruption_table(label, table))
    console.print(summary_table(results))
    if errors:
        path = write_atomic(output / "corruptions.svg", corruption_figure(errors))
        console.print(f"figure: {path}", highlight=False, soft_wrap=True)
    console.print(f"all numbers: {output / RESULTS}", highlight=False, soft_wrap=True)


def _parse_data(text: str) -> list[tuple[str, str]]:
    from common.robustness.benchmarks import BENCHMARKS

    name, equals, folder = text.partition("=")
    if not equals:
        return [(default, text) for default in DEFAULT_BENCHMARKS]
    if name not in BENCHMARKS:
        raise UserError(f"--data {text}: the benchmarks are {', '.join(BENCHMARKS)}.{nearest(name, BENCHMARKS)}")
    return [(name, folder)]


def _options(name: str, args: Namespace, wanted: Sequence[tuple[str, str]]) -> dict[str, object]:
    if name == "imagenet-c":
        clean = next((folder for other, folder in wanted if other == "imagenet"), None)
        return {"clean": clean} if clean else {}
    if name == "imagenet-c-generated" and args.frost_photos:
        return {"frost_photos": args.frost_photos}
    if name == "imagenet-p" and args.alexnet_flips:
        try:
            return {"alexnet_flips": json.loads(args.alexnet_flips.read_text())}
        except (OSError, ValueError):
            raise UserError(f"{args.alexnet_flips} is not a JSON file of flip rates by perturbation.") from None
    return {}


def _read_results(folder: Path) -> list[Measurement]:
    path = folder / RESULTS
    try:
        records = [from_json(record) for record in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is missing or damaged; --compare takes the --output of another call.") from None
    return [record for record in records if isinstance(record, Measurement)]
