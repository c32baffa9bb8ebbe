"""``./reproduce.sh bench training``: what the training engine costs beyond the arithmetic.

- step: the engine's step on the embedded recipe against a bare loop of the same arithmetic, both on one model;
  the aim is at most 1.05 times.
- loader: 224-pixel JPEGs decoded and augmented in one process, against timm's own loader; the aim is at least 1.

Times are CPU times of one thread, which other processes disturb little; rounds alternate, and the ratio is that of
the medians of all rounds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from torch import nn

from common.training.data import TensorData, epoch_order, make_plan
from common.training.hooks import Hook
from common.training.images import ImageData, Source
from common.training.loop import train
from common.training.options import Options
from common.training.preparation import Preparation
from common.training.recipe import Recipe, load_recipe

RECIPE = Path(__file__).resolve().parents[2] / "papers" / "rvt" / "recipe.toml"
#: Off in both loops: augmentation is not overhead, and the bare loop would have to copy its code.
PLAIN = ("train_crop=none", "horizontal_flip=0", "evaluate_every=1")


class Clock(Hook):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, run: object) -> None:
        self.times.append(time.process_time())


def engine_steps(model: nn.Module, recipe: Recipe, data: TensorData) -> list[float]:
    """Return the seconds of each step after the third."""
    clock = Clock()
    train(model, recipe, data, hooks=[clock], options=Options(device="cpu"))
    return np.diff(clock.times)[3:].tolist()


def bare_steps(model: nn.Module, recipe: Recipe, data: TensorData) -> list[float]:
    """Return the seconds of each step after the third of a loop written by hand."""
    model.train()
    images, labels = data.train
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate("learning_rate"), fused=True)
    criterion = LabelSmoothingCrossEntropy(recipe.label_smoothing)
    mean, scale = 255 * recipe.mean[0], 1 / (255 * recipe.std[0])
    times = []
    for index in epoch_order(len(images), recipe, 0, 0).split(recipe.total_batch):
        batch = images[index].float().sub_(mean).mul_(scale)
        loss = criterion(model(batch), labels[index])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_gradient)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time())
    return np.diff(times)[3:].tolist()


def alternate(calls: Sequence[Callable[[], list[float]]], rounds: int) -> list[float]:
    """Return the median of each call's times over alternating rounds."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, own in zip(calls, times, strict=True):
            own += call()
    return [statistics.median(own) for own in times]


def bench_step(rounds: int, steps: int) -> None:
    """Print the engine's step against the bare loop's."""
    import timm

    recipe = load_recipe(RECIPE, "embedded").with_changes(*PLAIN, "epochs=1", "warmup_epochs=0")
    recipe = recipe.with_changes(f"epoch_images={steps * recipe.total_batch}")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (steps * recipe.total_batch, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (len(images),), generator=generator)
    data = TensorData(images, labels, images[:10], labels[:10])

    def model() -> nn.Module:
        return timm.create_model(
            "vit_tiny_patch16_224",
            img_size=28,
            patch_size=4,
            in_chans=1,
            num_classes=10,
            embed_dim=64,
            depth=3,
            num_heads=2,
        )

    engine, bare = alternate(
        [lambda: engine_steps(model(), recipe, data), lambda: bare_steps(model(), recipe, data)], rounds
    )
    print(f"step    engine {1e3 * engine:.2f} ms, bare loop {1e3 * bare:.2f} ms, ratio {engine / bare:.3f}")


def bench_loader(rounds: int, count: int) -> None:
    """Print images per CPU second against timm's loader."""
    recipe = load_recipe(RECIPE, "imagenet").with_changes(
        "num_classes=2",
        "total_batch=32",
        "repeated_augmentation=1",
        "mixup=0",
        "cutmix=0",
        "random_erasing=0",
        "auto_augment=rand-m9-inc1",  # without noise on the magnitude: at 10, timm's posterize fails with new Pillow
    )
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for split, images in (("train", count), ("val", 4)):
            for number in range(images):
                coarse = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
                path = Path(folder) / split / f"n{number % 2}" / f"{number}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
        ours = ImageData(Source(Path(folder)), recipe, workers=0)
        plan = make_plan(recipe, seed=0, device_batch=0, rank=0, world=1, device=torch.device("cpu"))
        prepare = Preparation(recipe, plan.device)
        theirs = create_loader(
            create_dataset("", folder, split="train"),
            (3, recipe.input_size, recipe.input_size),
            recipe.total_batch,
            is_training=True,
            scale=recipe.crop_scale,
            ratio=recipe.crop_ratio,
            hflip=recipe.horizontal_flip,
            auto_augment=recipe.auto_augment,
            interpolation=recipe.interpolation,
            mean=recipe.mean,
            std=recipe.std,
            num_workers=0,
            device=plan.device,
            persistent_workers=False,
        )

        epochs = itertools.count()

        def own() -> list[float]:
            start = time.process_time()
            for images, _ in ours.training_batches(recipe, plan, next(epochs), 0):
                prepare.normalise(images)
            return [time.process_time() - start]

        def timms() -> list[float]:
            start = time.process_time()
            for _ in theirs:
                pass
            return [time.process_time() - start]

        mine, other = alternate([own, timms], rounds)
    seen = count // recipe.total_batch * recipe.total_batch
    print(f"loader  ours {seen / mine:.0f} images per CPU second, timm {seen / other:.0f}, ratio {other / mine:.3f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both measurements."""
    parser = argparse.ArgumentParser(prog="bench training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds (7)")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of a round (30)")
    parser.add_argument("--images", type=int, default=256, help="JPEGs of a round (256)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bench_step(args.rounds, args.steps)
    bench_loader(args.rounds, args.images)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
