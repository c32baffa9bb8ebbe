"""The command ``./reproduce.sh SLUG train``: recipe, model and data become a run in a working folder."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import timm
from torch import nn

from common.arguments import existing_file, named_path, output_folder, seed, whole_number
from common.checkpoints import load_initial
from common.data.cifar import CLASSES, load_cifar
from common.errors import UserError, nearest
from common.measurement import WeightsChoice
from common.training.data import TensorData, TrainingData
from common.training.hooks import Hook
from common.training.images import ImageData, Source
from common.training.loop import Interrupted, train
from common.training.options import Options, TrainingResult
from common.training.randomness import seed_global
from common.training.recipe import Recipe, load_recipe

#: Exit status after SIGINT or SIGTERM, the one that shells use for SIGINT.
INTERRUPTED = 130
#: The setting that trains on Fashion-MNIST in memory.
EMBEDDED = "embedded"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of ``train``."""
    parser.add_argument("--recipe", default="imagenet", metavar="SETTING", help="table of recipe.toml (imagenet)")
    parser.add_argument("--model", required=True, metavar="NAME", help="timm's name of the model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting; repeatable")
    parser.add_argument("--quick", action="store_true", help="apply the recipe's quick form")
    parser.add_argument(
        "--initial", type=existing_file, metavar="FILE", help="start from these weights, released or trained"
    )
    parser.add_argument(
        "--weights", choices=get_args(WeightsChoice), help="of a FILE with both: the last step's (default), or averaged"
    )
    parser.add_argument("--seed", type=seed, metavar="N", help="instead of the recipe's")
    parser.add_argument("--output", type=output_folder, metavar="DIR", help="working folder; a run in it is continued")

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=named_path, metavar="DIR", help="folder with train and val, as folders or tar files"
    )
    data.add_argument(
        "--dataset", default="", metavar="NAME", help="timm's data set: wds/, hfds/X, hfids/X, tfds/X, torch/cifar10"
    )
    data.add_argument("--download", action="store_true", help="fetch torch/cifar10 or torch/cifar100 to --data")
    data.add_argument("--train-split", default="train", metavar="SPLIT", help="split or shards (train)")
    data.add_argument("--validation-split", default="validation", metavar="SPLIT", help="split or shards (validation)")
    data.add_argument(
        "--train-images", type=whole_number(0), default=0, metavar="N", help="length of a stream that has none"
    )
    data.add_argument("--validation-images", type=whole_number(0), default=0, metavar="N", help="likewise")
    data.add_argument("--skip-unreadable", action="store_true", help="train without images that cannot be read")
    data.add_argument(
        "--workers", type=whole_number(0), metavar="N", help="decoding processes (one per core, at most 16)"
    )

    machine = parser.add_argument_group("execution")
    machine.add_argument(
        "--device", default="auto", metavar="NAME", help="cpu, cuda, mps or auto: cuda where there is one (auto)"
    )
    machine.add_argument(
        "--device-batch",
        type=whole_number(1),
        default=0,
        metavar="N",
        help="images per device and pass (all of a device at once)",
    )
    machine.add_argument("--compile", nargs="?", const="inductor", default="", metavar="BACKEND", help="torch.compile")
    machine.add_argument(
        "--sync-batch-norm", action="store_true", help="take batch norm's statistics over the images of all processes"
    )
    machine.add_argument("--fsdp", action="store_true", help="shard the model over the devices")
    machine.add_argument(
        "--checkpoint-steps", type=whole_number(1), default=0, metavar="N", help="also save every N steps"
    )
    machine.add_argument("--from-previous", action="store_true", help="continue from the second newest checkpoint")
    machine.add_argument("--no-tensorboard", action="store_true", help="write no TensorBoard events")
    machine.add_argument("--wandb", default="", metavar="PROJECT", help="log to Weights & Biases")


def run(
    args: Namespace,
    *,
    slug: str,
    recipe_path: Path,
    models: Sequence[str],
    hooks: Callable[[Recipe], Sequence[Hook]] | None = None,
    report: Callable[[Path], Path | None] | None = None,
) -> int:
    """Train as the arguments say.

    Args:
        args: parsed from `add_arguments`.
        slug: the paper, for the name of the working folder.
        recipe_path: the paper's ``recipe.toml``.
        models: the names that the paper declares; other models are refused.
        hooks: makes the paper's hooks from the resolved recipe.
        report: writes a report into the working folder and returns its path; called however the training ends.

    Returns:
        0 when the run is finished, 130 when it was interrupted (its folder then holds what it needs to go on).

    Raises:
        UserError: whatever the user can mend.
    """
    if args.model not in models:
        raise UserError(f"{args.model} is not a model of {slug}.{nearest(args.model, models)}")
    recipe = load_recipe(recipe_path, args.recipe, model=args.model, quick=args.quick, changes=args.set)
    seed = recipe.seed if args.seed is None else args.seed
    data = open_data(args, recipe)
    if args.weights is not None and args.initial is None:
        raise UserError("--weights is of what --initial holds; leave it out, or name a file.")
    model = create_model(args.model, recipe, seed)
    notes = [] if args.initial is None else load_initial(model, args.initial, args.weights)
    folder = working_folder(args, slug, seed)
    options = Options(
        device=args.device,
        device_batch=args.device_batch,
        compile=args.compile,
        fsdp=args.fsdp,
        sync_batch_norm=args.sync_batch_norm,
        checkpoint_steps=args.checkpoint_steps,
        from_previous=args.from_previous,
        tensorboard=not args.no_tensorboard,
        wandb=args.wandb,
        initial=tuple(notes),
        progress=f"training {args.model}",
        say=print,
    )
    first = int(os.environ.get("RANK", "0")) == 0
    try:
        result = train(
            model, recipe, data, seed=seed, folder=folder, hooks=hooks(recipe) if hooks else (), options=options
        )
    except Interrupted as stopped:
        if first:
            print(stopped)
        return INTERRUPTED
    finally:
        written = report(folder) if report is not None and first else None
        if written is not None:
            print(f"Report: {written}")
    if first:
        print(summary(result))
    return 0


def working_folder(args: Namespace, slug: str, seed: int) -> Path:
    """Where the run is kept: ``--output``, or a folder named after what it trains."""
    name = f"{slug}-{args.model}-{args.recipe}{'-quick' if args.quick else ''}-seed{seed}"
    return args.output or Path("results/runs") / name


def open_data(args: Namespace, recipe: Recipe) -> TrainingData:
    """Return the data that the arguments name; without any, the embedded setting takes Fashion-MNIST."""
    if args.data is None and not args.dataset:
        if args.recipe != EMBEDDED:
            raise UserError(f"The recipe {args.recipe} needs --data DIR, a folder with train and val as ImageNet has.")
        from common.data.fashion_mnist import load_fashion_mnist

        mnist = load_fashion_mnist()
        return TensorData(
            mnist.train_images[:, None], mnist.train_labels, mnist.test_images[:, None], mnist.test_labels
        )
    if args.dataset in CLASSES:
        return _cifar(args.dataset, args.data, download=args.download)
    if args.download:
        raise UserError(f"--download fetches {' or '.join(CLASSES)} only; name one of them with --dataset.")
    if args.data is not None and not args.data.is_dir():
        raise UserError(f"There is no folder {args.data}; --data names a folder with train and val.")
    workers = min(16, os.cpu_count() or 1) if args.workers is None else args.workers
    source = Source(
        args.data or Path(),
        args.dataset,
        args.train_split,
        args.validation_split,
        args.train_images,
        args.validation_images,
    )
    return ImageData(source, recipe, workers=workers, skip_unreadable=args.skip_unreadable)


def _cifar(name: str, root: Path | None, *, download: bool) -> TensorData:
    if root is None:
        raise UserError(f"--dataset {name} needs --data DIR, the folder that holds it.")
    train, test = (load_cifar(name, root, train=part, download=download) for part in (True, False))
    return TensorData(*train, *test, num_classes=CLASSES[name])


def create_model(name: str, recipe: Recipe, seed: int) -> nn.Module:
    """Return timm's model for a recipe, its initial weights drawn from the seed.

    Raises:
        UserError: the model cannot be built with the recipe's input size or drop rates.
    """
    seed_global(seed, "model")
    settings: dict[str, Any] = {
        "num_classes": recipe.num_classes,
        "in_chans": len(recipe.mean),
        "drop_rate": recipe.drop_rate,
        "drop_path_rate": recipe.drop_path_rate,
    }
    native = timm.get_pretrained_cfg(name)
    try:
        if native is None or native.input_size[-1] != recipe.input_size:
            try:
                return timm.create_model(name, **settings, img_size=recipe.input_size)
            except TypeError as error:  # a model that takes any size has no such argument
                if "img_size" not in str(error):
                    raise
        return timm.create_model(name, **settings)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"{name} cannot be built for the recipe {recipe.setting} with input_size {recipe.input_size} ({reason})."
        ) from None


def summary(result: TrainingResult) -> str:
    """Return what came out, in two lines."""
    metrics = ", ".join(f"{key} {value:.4g}" for key, value in result.metrics.items())
    deviating = f" Deviates from the recipe: {', '.join(result.recipe.changes)}." if result.recipe.changes else ""
    return f"Trained {result.steps} steps: {metrics}.{deviating}\nWeights: {result.folder}/model.pt"
