"""``./reproduce.sh bench training``: what the training engine costs beyond the arithmetic.

- step: the engine's step on the embedded recipe against a bare loop of the same arithmetic, both on one model;
  the aim is at most 1.05 times.
- loader: 224-pixel JPEGs decoded and augmented in one process, against timm's own loader; the aim is at least 1.

Both sides take turns, step by step and batch by batch, so that a pair of times saw the same machine. The ratio is the
median over pairs, with its 95 % interval. On a CPU, times are CPU times of one thread, which other processes disturb
least.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from scipy.stats import quantile_test
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from torch import nn

from common.training.data import TensorData, epoch_order, make_plan
from common.training.hooks import Hook, Training
from common.training.images import ImageData, Source
from common.training.loop import train
from common.training.options import Options
from common.training.preparation import Preparation
from common.training.recipe import Recipe, load_recipe

RECIPE = Path(__file__).resolve().parents[2] / "papers" / "rvt" / "recipe.toml"
#: Off in both loops: augmentation is not overhead, and the bare loop would have to copy its code.
PLAIN = ("train_crop=none", "horizontal_flip=0", "evaluate_every=1")
#: Steps of either loop at the start that are not timed.
WARM_UP = 10
#: Steps between two waits for a GPU, which otherwise computes while the next step is being prepared.
GPU_STEPS = 20


class Ratios:
    """Pairs of times, and what their ratio is."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.second: list[float] = []

    def add(self, first: float, second: float) -> None:
        self.first.append(first)
        self.second.append(second)

    def __str__(self) -> str:
        ratios = np.divide(self.first, self.second)
        low, high = quantile_test(ratios, q=1.0, p=0.5).confidence_interval(0.95)
        return f"ratio {np.median(ratios):.3f} [{low:.3f}, {high:.3f}] over {len(ratios)} pairs"


def clock(device: str) -> float:
    """Seconds: of this process on the CPU, or on the wall when a GPU has done its work."""
    if device == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


class Turns(Hook):
    """After so many steps of the engine, does as many of another loop, and notes what either took."""

    def __init__(self, other: Callable[[], Iterator[None]], device: str) -> None:
        self.other, self.device, self.block = other, device, 1 if device == "cpu" else GPU_STEPS
        self.times = Ratios()

    def start(self, run: Training) -> None:
        self.steps = self.other()
        self.began = clock(self.device)

    def on_step(self, run: Training) -> None:
        if run.step % self.block:
            return
        ended = clock(self.device)
        for _ in itertools.islice(self.steps, self.block):
            pass
        after = clock(self.device)
        if run.step > WARM_UP:
            self.times.add(ended - self.began, after - ended)
        self.began = after


def bare_steps(model: nn.Module, recipe: Recipe, data: TensorData, device: str) -> Iterator[None]:
    """Train as the engine does, by hand; yields after each step."""
    model.train()
    images, labels = (tensor.to(device) for tensor in data.train)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate("learning_rate"), fused=True)
    criterion = LabelSmoothingCrossEntropy(recipe.label_smoothing)
    mean, scale = 255 * recipe.mean[0], 1 / (255 * recipe.std[0])
    for index in epoch_order(len(images), recipe, 0, 0).to(device).split(recipe.total_batch):
        batch = images[index].float().sub_(mean).mul_(scale)
        loss = criterion(model(batch), labels[index])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_gradient)
        optimizer.step()
        optimizer.zero_grad()
        yield


def bench_step(steps: int, device: str, batch: int) -> None:
    """Print the engine's step against the bare loop's."""
    recipe = load_recipe(RECIPE, "embedded").with_changes(*PLAIN, "epochs=1", "warmup_epochs=0", f"total_batch={batch}")
    recipe = recipe.with_changes(f"epoch_images={steps * batch}")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (steps * batch, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (len(images),), generator=generator)
    data = TensorData(images, labels, images[:10], labels[:10])

    def model() -> nn.Module:
        sizes: dict[str, Any] = {"img_size": 28, "patch_size": 4, "embed_dim": 64, "depth": 3, "num_heads": 2}
        return timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=10, **sizes).to(device)

    turns = Turns(lambda: bare_steps(model(), recipe, data, device), device)
    train(model(), recipe, data, hooks=[turns], options=Options(device=device))
    engine, bare = (1e3 * np.median(times) / turns.block for times in (turns.times.first, turns.times.second))
    print(f"step    batch {batch} on {device}: engine {engine:.2f} ms, bare loop {bare:.2f} ms, {turns.times}")


def bench_loader(rounds: int, count: int) -> None:
    """Print images per CPU second against timm's loader."""
    recipe = load_recipe(RECIPE, "imagenet").with_changes(
        "num_classes=2",
        "total_batch=8",  # many pairs
        "repeated_augmentation=1",
        "mixup=0",
        "cutmix=0",
        "random_erasing=0",
        "auto_augment=",  # timm's on both sides, and some draws take many times as long as others
        "color_jitter=0",
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
            color_jitter=0.0,
            interpolation=recipe.interpolation,
            mean=recipe.mean,
            std=recipe.std,
            num_workers=0,
            device=plan.device,
            persistent_workers=False,
        )

        def own(epoch: int) -> Iterator[None]:
            for images, _ in ours.training_batches(recipe, plan, epoch, 0):
                prepare.normalise(images)
                yield

        times = Ratios()
        for epoch in range(rounds):
            mine, other = own(epoch), iter(theirs)
            for batch in range(count // recipe.total_batch):
                start = time.process_time()
                next(mine)
                between = time.process_time()
                next(other)
                if epoch or batch:
                    times.add(time.process_time() - between, between - start)
    theirs_seen, ours_seen = (recipe.total_batch / np.median(seconds) for seconds in (times.first, times.second))
    print(f"loader  ours {ours_seen:.0f} images per CPU second, timm {theirs_seen:.0f}, {times}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both measurements."""
    parser = argparse.ArgumentParser(prog="bench training", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the steps")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of each loop (150)")
    parser.add_argument("--batch", type=int, default=64, help="images of a step (64, the recipe's)")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each loader (7)")
    parser.add_argument("--images", type=int, default=256, help="JPEGs of an epoch (256)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bench_step(args.steps, args.device, args.batch)
    bench_loader(args.rounds, args.images)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
