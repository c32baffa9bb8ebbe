"""``./reproduce.sh robustness``: measure any timm models on benchmark sets, and show them side by side."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from common.arguments import existing_file, existing_folder, named_path, number, output_folder, whole_number
from common.devices import device as find_device
from common.errors import UserError, nearest
from common.files import write_atomic
from common.locks import held
from common.measurement import Measurement, Weights, WeightsChoice, from_json, to_json
from common.progress import console
from common.signed import checked, signed

if TYPE_CHECKING:
    from torch import nn

    from common.data.preprocessing import Preprocessing
    from common.robustness.evaluation import Execution

#: What a folder without a name of a benchmark is measured on: ImageNet's validation set, clean and corrupted.
DEFAULT_BENCHMARKS = ("imagenet", "imagenet-c-generated")

RESULTS = "results.json"
#: Where results are kept without ``--output``.
OUTPUT = Path("robustness")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    from common.robustness.benchmarks import BENCHMARKS

    parser.add_argument(
        "--model", nargs="+", required=True, metavar="NAME", help="timm name of the model; several stand side by side"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--checkpoint", nargs="+", type=existing_file, metavar="FILE", help="its weights, one file a model"
    )
    parser.add_argument(
        "--weights",
        choices=get_args(WeightsChoice),
        help="of checkpoints with both: the last step's (default), or averaged",
    )
    source.add_argument("--pretrained", action="store_true", help="timm's own weights, which it downloads")
    parser.add_argument(
        "--num-classes",
        type=whole_number(1),
        metavar="N",
        help="classes of the checkpoints (default: 1000, ImageNet-1k's)",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="[BENCHMARK,...=]DIR",
        help="what to measure on the data in DIR, e.g. imagenet-a=/data/imagenet-a, or on ImageNet's validation set "
        "imagenet,imagenet-attacks,imagenet-occlusion=/data/imagenet; images, images-occlusion and images-frequency "
        "take class folders of any data; a folder alone is ImageNet's, measured clean and under corruptions computed "
        f"on the fly; the benchmarks: {', '.join(BENCHMARKS)}",
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        metavar="DIR",
        help=f"where to write and to go on; several models have a folder each in it (default: {OUTPUT}/NAME)",
    )
    parser.add_argument(
        "--compare", type=existing_folder, nargs="*", default=[], metavar="DIR", help="other outputs to show beside"
    )
    parser.add_argument(
        "--device", default="auto", metavar="D", help="torch device (default: the GPU, where there is one)"
    )
    parser.add_argument("--batch-size", type=whole_number(1), default=64, metavar="N")
    parser.add_argument("--workers", type=whole_number(0), default=4, metavar="N", help="loader processes")
    parser.add_argument(
        "--limit", type=whole_number(1), metavar="N", help="evaluate on N images of a fixed random order"
    )
    parser.add_argument("--amp", action=BooleanOptionalAction, help="mixed precision (default: on a GPU)")
    parser.add_argument(
        "--crop", type=number(above=0, most=1), help="share of the resized image that is cropped (default: the model's)"
    )
    parser.add_argument("--interpolation", choices=("bicubic", "bilinear", "nearest"), help="(default: the model's)")
    parser.add_argument(
        "--mean", type=number(), nargs="+", help="of pixels in [0, 1] by channel (default: the model's)"
    )
    parser.add_argument(
        "--std", type=number(above=0), nargs="+", help="of pixels in [0, 1] by channel (default: the model's)"
    )
    parser.add_argument(
        "--alexnet-flips", type=existing_file, metavar="FILE", help="JSON of AlexNet's flip rates, for mFR"
    )
    parser.add_argument(
        "--alexnet-distances", type=existing_file, metavar="FILE", help="JSON of AlexNet's top-5 distances, for mT5D"
    )
    parser.add_argument(
        "--frost-photos",
        type=existing_folder,
        metavar="DIR",
        help="frost1.png to frost5.jpg of the ImageNet-C scripts (default: textures with their statistics)",
    )
    parser.add_argument(
        "--saliency",
        type=existing_file,
        metavar="FILE",
        help="DINO's weights of ViT-S/16, by which -occlusion drops salient and other patches too",
    )


def run(args: Namespace) -> int:
    """Measure, write ``results.json`` and the figures to the output folder, and print the tables."""
    from common.robustness.benchmarks import benchmark
    from common.robustness.corruptions.frost_textures import read_pictures
    from common.robustness.evaluation import Execution, Processes

    wanted = _wanted(args.data)
    if args.frost_photos is not None:
        read_pictures(str(args.frost_photos))  # before anything is measured
    device = find_device(args.device)
    if args.weights is not None and args.pretrained:
        raise UserError("--weights is of what --checkpoint holds; leave it out.")
    if not args.checkpoint and not args.pretrained:
        raise UserError("random weights tell nothing; pass --checkpoint FILE, or --pretrained for timm's weights.")
    if args.num_classes is not None and args.pretrained:
        raise UserError("--num-classes is of what --checkpoint holds; timm's own weights say theirs.")
    files = _files(args)
    others = _others(args.compare, set(files))

    # All models and folders are looked at before the first takes its hours.
    models = {label: _load(name, file, args) for label, (name, file) in files.items()}
    for _, _, preprocessing in models.values():
        for name, folder in wanted:
            benchmark(name, folder, preprocessing, **_options(name, args, wanted))

    processes = Processes.here()
    execution = Execution(
        device=f"cuda:{processes.local}" if device == "cuda" else device,
        batch_size=args.batch_size,
        workers=args.workers,
        limit=args.limit,
        amp=args.amp,
        processes=processes,
    )
    with ExitStack() as folders:
        for label in models if processes.index == 0 else ():
            folders.enter_context(held(_folder(label, args)))
        return _measure(args, models, files, others, wanted, execution)


def _measure(
    args: Namespace,
    models: Mapping[str, tuple[nn.Module, Weights, Preprocessing]],
    files: Mapping[str, tuple[str, Path | None]],
    others: Mapping[str, list[Measurement]],
    wanted: Sequence[tuple[str, str]],
    execution: Execution,
) -> int:
    """Measure every model, and show them side by side."""
    from common.robustness.evaluation import evaluate

    results: dict[str, list[Measurement]] = {}
    for label, (model, weights, preprocessing) in models.items():
        output = _folder(label, args)
        results[label] = []
        model.to(execution.device)
        for name, folder in wanted:
            results[label] += evaluate(
                model,
                name,
                folder,
                model_name=files[label][0],
                weights=weights,
                execution=execution,
                preprocessing=preprocessing,
                output=output,
                **_options(name, args, wanted),
            )
            if execution.processes.index == 0:
                write_atomic(
                    output / RESULTS, json.dumps([signed(to_json(result)) for result in results[label]], indent=1)
                )
        model.to("cpu")
    if execution.processes.index == 0:
        _show({_folder(label, args): label for label in results}, args.output, {**results, **others})
    return 0


def _files(args: Namespace) -> dict[str, tuple[str, Path | None]]:
    """Each model's label, which is its name, with its file's where a name stands twice, to name and checkpoint."""
    checkpoints: Sequence[Path | None] = args.checkpoint or [None] * len(args.model)
    if len(checkpoints) != len(args.model):
        raise UserError(f"{len(args.model)} models and {len(checkpoints)} checkpoints; give one --checkpoint a model.")
    labels = [
        f"{name}-{file.stem}" if file is not None and args.model.count(name) > 1 else name
        for name, file in zip(args.model, checkpoints, strict=True)
    ]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"--model names {label} twice with the same weights or files of the same name.")
    return dict(zip(labels, zip(args.model, checkpoints, strict=True), strict=True))


def _others(folders: Sequence[Path], taken: set[str]) -> dict[str, list[Measurement]]:
    """The results to show beside, by their folder's name, or its path where that name is taken."""
    names = [folder.name for folder in folders]
    return {
        name if names.count(name) == 1 and name not in taken else str(folder): _read_results(folder)
        for folder, name in zip(folders, names, strict=True)
    }


def _load(name: str, checkpoint: Path | None, args: Namespace) -> tuple[nn.Module, Weights, Preprocessing]:
    """The model on the CPU with its weights, where these come from, and how its images are prepared."""
    import timm

    from common.data.preprocessing import Preprocessing
    from common.robustness.full_scale_measures import load_checkpoint

    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}.{nearest(name, timm.list_models())}")
    classes = {} if args.num_classes is None else {"num_classes": args.num_classes}
    try:
        model = timm.create_model(name, pretrained=args.pretrained, **classes)
    except Exception as error:  # of what downloads, which has errors of its own (network, proxy)
        if not args.pretrained:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"timm cannot get its weights of {name} ({reason}); pass --checkpoint FILE instead.") from None
    weights: Weights = "released"
    if checkpoint is not None:
        weights = load_checkpoint(model, checkpoint, args.weights)
    changes: dict[str, Any] = {
        key: getattr(args, key) for key in ("crop", "interpolation") if getattr(args, key) is not None
    }
    changes |= {key: tuple(getattr(args, key)) for key in ("mean", "std") if getattr(args, key)}
    return model, weights, replace(Preprocessing.of(model), **changes)


def _folder(label: str, args: Namespace) -> Path:
    if len(args.model) == 1:
        return args.output or OUTPUT / label
    return (args.output or OUTPUT) / label


def _show(folders: dict[Path, str], output: Path | None, results: dict[str, list[Measurement]]) -> None:
    from common.figures import accuracy_panels
    from common.robustness.benchmarks.sets import STAND_IN_FROST
    from common.robustness.report import (
        comparison_table,
        corruption_errors_of,
        corruption_figure,
        corruption_table,
        frequency_panels,
        occlusion_panels,
        summary_table,
    )

    errors = {label: corruption_errors_of(measured) for label, measured in results.items()}
    errors = {label: table for label, table in errors.items() if table}
    for label, table in errors.items():
        console.print(corruption_table(label, table))
    if len(errors) > 1:
        console.print(comparison_table(errors))
    console.print(summary_table(results))
    if any(STAND_IN_FROST in m.protocol for measured in results.values() for m in measured):
        console.print(
            "Frost is made of textures with the statistics of the original's pictures, which resight does not have; "
            "--frost-photos DIR takes the originals.",
            highlight=False,
            soft_wrap=True,
        )
    where = next(iter(folders)) if len(folders) == 1 else output or OUTPUT
    occluded, filtered = occlusion_panels(results), frequency_panels(results)
    figures = {
        "corruptions.svg": corruption_figure(errors) if errors else "",
        "occlusion.svg": accuracy_panels("occlusion", occluded) if occluded else "",
        "frequency.svg": accuracy_panels("frequency", filtered) if filtered else "",
    }
    for name, svg in figures.items():
        if svg:
            path = write_atomic(where / name, svg)
            console.print(f"figure: {path}", highlight=False, soft_wrap=True)
    for folder, label in folders.items():
        console.print(f"all numbers of {label}: {folder / RESULTS}", highlight=False, soft_wrap=True)


def _wanted(data: Sequence[str]) -> list[tuple[str, str]]:
    """The benchmarks of ``--data``, each with its folder."""
    wanted = [pair for text in data for pair in _parse_data(text)]
    for pair in wanted:
        if wanted.count(pair) > 1:
            raise UserError(f"--data names {pair[0]} twice on {pair[1]}; leave one out.")
    return wanted


def _parse_data(text: str) -> list[tuple[str, str]]:
    from common.robustness.benchmarks import BENCHMARKS

    before, equals, after = text.partition("=")
    names = before.split(",")
    # An = may also be part of a folder's name.
    if not equals or (not any(name in BENCHMARKS for name in names) and _given(text).exists()):
        return [(default, str(_given(text))) for default in DEFAULT_BENCHMARKS]
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"--data {text}: the benchmarks are {', '.join(BENCHMARKS)}.{nearest(name, BENCHMARKS)}")
    if not after:
        raise UserError(f"--data {text} names no folder; give {before}=DIR.")
    return [(name, str(_given(after))) for name in names]


def _given(text: str) -> Path:
    try:
        return named_path(text)
    except ArgumentTypeError as error:
        raise UserError(f"--data: {error}.") from None


def _options(name: str, args: Namespace, wanted: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The options of a benchmark that the arguments give."""
    options: dict[str, Any] = {}
    if name in ("imagenet-c", "imagenet-o"):
        options["clean"] = next((folder for other, folder in wanted if other == "imagenet"), None)
    if name in ("imagenet-c-generated", "imagenet-patch-corruption"):
        options["frost_photos"] = args.frost_photos
    if name in ("imagenet-occlusion", "images-occlusion"):
        options["saliency"] = args.saliency
    if name == "imagenet-p":
        options["alexnet_flips"] = _read_table(args.alexnet_flips, "flip rates")
        options["alexnet_distances"] = _read_table(args.alexnet_distances, "top-5 distances")
    return {key: value for key, value in options.items() if value is not None}


def _read_table(path: Path | None, what: str) -> dict[str, float] | None:
    """Numbers by perturbation from a JSON file."""
    if path is None:
        return None
    try:
        return {str(name): float(value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path} is not a JSON file of {what} by perturbation.") from None


def _read_results(folder: Path) -> list[Measurement]:
    path = folder / RESULTS
    try:
        records = [from_json(checked(record)) for record in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is missing or damaged; --compare takes the --output of another call.") from None
    return [record for record in records if isinstance(record, Measurement)]
