"""The embedded experiment: small models trained at equal budget on Fashion-MNIST, then measured for robustness.

It stands in for training and evaluation at full scale where neither ImageNet nor a GPU is at hand. Every contender
sees the same images in the same order for the same number of steps, with several seeds; every model is measured on
the same test images with the same random draws, so that differences between contenders are paired.

Numbers from here are never compared with printed ImageNet numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from common import figures
from common.data.fashion_mnist import load_fashion_mnist
from common.files import write_atomic
from common.measurement import Finding, FindingVerdict, Measurement, Picture
from common.robustness.attacks import PROTOCOLS
from common.robustness.corruptions import CORRUPTIONS, corrupt
from common.robustness.normalisation import Normalized
from common.robustness.occlusion import random_drop
from common.run import Run
from common.statistics import Estimate, mean_interval, paired_interval
from common.training.data import TensorData
from common.training.hooks import Hook
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import Recipe, load_recipe

DATASET = "fashion-mnist"
#: What the embedded experiment does, written with every number; the version rises when the procedure changes.
PROTOCOL = "embedded/1"
SEVERITIES = (1, 2, 3, 4, 5)
#: Tiles of 4 pixels, the patch size of the small models.
OCCLUSION_GRID = 7
OCCLUSION_SHARES = (0.25, 0.5, 0.75)
#: The metrics of the experiment: of the model as it is, and of what is done to its input.
METRICS = ("top1", "corruption_top1", "fgsm_top1", "pgd_top1", "pgd_eps4_top1", "occlusion_top1")
#: The metrics that a statement about robustness is tested on.
ROBUSTNESS_METRICS = ("corruption_top1", "pgd_eps4_top1", "occlusion_top1")


def _no_hooks(recipe: Recipe) -> Sequence[Hook]:
    return ()


@dataclass(frozen=True)
class Contender:
    """One model of the comparison.

    Attributes:
        name: the model's name in measurements, unique for what it computes: results are kept under it.
        build: makes the untrained model for images (B, 3, 28, 28) and 10 classes; called with torch seeded.
        hooks: makes the training hooks, from the recipe.
        changes: recipe settings ``"key=value"`` that differ for this contender.
    """

    name: str
    build: Callable[[], nn.Module]
    hooks: Callable[[Recipe], Sequence[Hook]] = _no_hooks
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TestSet:
    """Test images and all that is done to them; the same for every model.

    Attributes:
        clean: (N, 3, 28, 28) uint8, with ``clean_labels`` (N,).
        images: the first of them, which are corrupted, attacked and occluded, with ``labels``.
        corrupted: ``(corruption, severity)`` -> uint8 images like ``images``.
        occluded: share of tiles dropped -> uint8 images like ``images``.
    """

    clean: Tensor
    clean_labels: Tensor
    images: Tensor
    labels: Tensor
    corrupted: Mapping[tuple[str, int], Tensor]
    occluded: Mapping[float, Tensor]


@lru_cache(maxsize=2)
def test_set(quick: bool) -> TestSet:
    """2,000 test images clean, the first 200 (quick: 500 and 100) under every corruption, attack and occlusion."""
    data = load_fashion_mnist()
    clean_count, count = (500, 100) if quick else (2000, 200)
    clean = _three_channels(data.test_images[:clean_count])
    images = clean[:count]
    seeds = list(range(count))
    return TestSet(
        clean=clean,
        clean_labels=data.test_labels[:clean_count],
        images=images,
        labels=data.test_labels[:count],
        corrupted={
            (name, severity): corrupt(images, name, severity, seeds=seeds)
            for name in CORRUPTIONS
            for severity in SEVERITIES
        },
        occluded={
            share: random_drop(images, round(share * OCCLUSION_GRID**2), grid=OCCLUSION_GRID, seeds=seeds)
            for share in OCCLUSION_SHARES
        },
    )


@lru_cache(maxsize=1)
def training_data() -> TensorData:
    """Fashion-MNIST's training set as three equal channels; 1,000 test images, beyond the test set, for validation."""
    data = load_fashion_mnist()
    return TensorData(
        _three_channels(data.train_images),
        data.train_labels,
        _three_channels(data.test_images[-1000:]),
        data.test_labels[-1000:],
    )


def recipe_for(run: Run, path: Path, contender: Contender) -> Recipe:
    """The paper's embedded recipe as this contender is trained with it."""
    changes = contender.changes
    if run.settings.epochs is not None:
        changes = (*changes, f"epochs={run.settings.epochs}", f"evaluate_every={run.settings.epochs}")
    return load_recipe(path, "embedded", quick=run.settings.quick, changes=changes)


def trained(run: Run, contender: Contender, seed: int, path: Path, data: TensorData | None = None) -> nn.Module:
    """The contender trained with ``seed``, in eval mode; from the run's folder if it has been trained before.

    Args:
        run: whose folder keeps the weights.
        contender: what to train.
        seed: of initialisation, order and augmentation.
        path: the ``recipe.toml`` with the setting ``embedded``.
        data: instead of ``training_data()``; the contender's name must tell it apart.
    """
    recipe = recipe_for(run, path, contender)
    torch.manual_seed(seed)
    model = contender.build()
    file = run.folder / "weights" / f"{run.key(f'{contender.name} seed {seed} {recipe.as_dict()}')}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    else:
        train(
            model,
            recipe,
            data or training_data(),
            seed=seed,
            hooks=contender.hooks(recipe),
            options=Options(device=run.settings.device, progress=f"training {contender.name}, seed {seed}"),
        )
        write_atomic(file, lambda handle: torch.save(model.state_dict(), handle))
    return model.to(run.settings.device).eval()


def evaluated(run: Run, contender: Contender, seed: int, path: Path) -> dict[str, float]:
    """All metrics of the contender trained with ``seed``, in per cent; kept in the run's folder.

    Besides ``METRICS`` there is one entry ``corruption_top1/<name>/<severity>`` a cell, and one
    ``occlusion_top1/<share>`` a share.
    """

    def compute() -> dict[str, float]:
        model = trained(run, contender, seed, path)
        recipe = recipe_for(run, path, contender)
        return measure(model, test_set(run.settings.quick), recipe, run.settings.device)

    return run.memo(f"embedded {contender.name} seed {seed} {recipe_for(run, path, contender).as_dict()}", compute)


def measure(model: nn.Module, tests: TestSet, recipe: Recipe, device: str) -> dict[str, float]:
    """Accuracy of ``model`` on clean, corrupted, attacked and occluded images, in per cent."""
    normalized = Normalized(model, _per_channel(recipe.mean), _per_channel(recipe.std)).to(device).eval()
    labels = tests.labels.to(device)

    def top1(images: Tensor, truth: Tensor) -> float:
        return 100 * _correct(normalized, images, truth, device) / len(truth)

    scores = {"top1": top1(tests.clean, tests.clean_labels)}
    cells = {f"corruption_top1/{n}/{s}": top1(images, labels) for (n, s), images in tests.corrupted.items()}
    shares = {f"occlusion_top1/{share}": top1(images, labels) for share, images in tests.occluded.items()}
    scores["corruption_top1"] = math.fsum(cells.values()) / len(cells)
    scores["occlusion_top1"] = math.fsum(shares.values()) / len(shares)
    pixels = tests.images.to(device).float() / 255
    for metric, attack in PROTOCOLS.items():
        adversarial = [
            attack(normalized, part, truth, seeds=range(first, first + len(part)))
            for first, part, truth in zip(range(0, len(pixels), 100), pixels.split(100), labels.split(100), strict=True)
        ]
        scores[metric] = top1(torch.cat(adversarial), labels)
    return {**scores, **cells, **shares}


def compare(run: Run, contenders: Iterable[Contender], path: Path) -> pd.DataFrame:
    """Train and measure every contender with every seed.

    Returns:
        A row a contender and seed (in the index), a column a metric, in per cent.
    """
    seeds = run.seeds()
    rows = {(c.name, seed): evaluated(run, c, seed, path) for seed in seeds for c in contenders}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "seed"])


def measurements(table: pd.DataFrame, quick: bool, metrics: Sequence[str] = METRICS) -> Iterator[Measurement]:
    """Mean over seeds with 95 % interval, of every contender and metric of ``compare``."""
    for name in table.index.unique("model"):
        scores = table.loc[name]
        for metric in metrics:
            estimate = mean_interval(list(scores[metric]))
            cells: dict[str, object] = {
                column: float(scores[column].mean()) for column in map(str, table) if column.startswith(f"{metric}/")
            }
            yield Measurement(
                model=name,
                dataset=DATASET,
                metric=metric,
                value=estimate.value,
                unit="%",
                weights="trained",
                interval=estimate.interval,
                seeds=len(scores),
                n=len(test_set(quick).clean if metric == "top1" else test_set(quick).images),
                protocol=PROTOCOL,
                detail={"per_seed": [float(score) for score in scores[metric]], **cells},
            )


def differences(table: pd.DataFrame, baseline: str, metric: str) -> dict[str, Estimate]:
    """Paired differences to ``baseline`` over seeds, in percentage points, of every other contender."""
    base = list(table.loc[baseline][metric])
    others = [name for name in table.index.unique("model") if name != baseline]
    return {name: paired_interval(list(table.loc[name][metric]), base) for name in others}


def more_robust(table: pd.DataFrame, baseline: str, metrics: Sequence[str] = ROBUSTNESS_METRICS) -> Iterator[Finding]:
    """One finding a contender and metric: is it better than ``baseline``, by a paired t interval over seeds?"""
    for metric in metrics:
        for name, estimate in differences(table, baseline, metric).items():
            yield difference_finding(
                f"{name} has a higher {metric} than {baseline} at equal budget.", estimate, len(table.loc[name])
            )


def difference_finding(statement: str, estimate: Estimate, seeds: int, unit: str = "points") -> Finding:
    """The finding that a difference is above zero: it holds, or not, where the interval leaves out zero."""
    verdict: FindingVerdict = "unclear"
    if estimate.low > 0:
        verdict = "holds"
    elif estimate.high < 0:
        verdict = "does not hold"
    spread = f"95 % interval {estimate.low:+.2f} to {estimate.high:+.2f}" if estimate.interval else "no interval"
    return Finding(
        statement=statement,
        verdict=verdict,
        evidence=f"Difference {estimate.value:+.2f} {unit} ({spread}, {seeds} {'seed' if seeds == 1 else 'seeds'}).",
        value=estimate.value,
        interval=estimate.interval,
        seeds=seeds,
    )


def difference_picture(name: str, table: pd.DataFrame, baseline: str, metrics: Sequence[str] = METRICS) -> Picture:
    """Paired differences to ``baseline`` with intervals, a panel a metric."""
    panels = {
        metric: {n: (e.value, e.low, e.high) for n, e in differences(table, baseline, metric).items()}
        for metric in metrics
    }
    finite = all(math.isfinite(low) for panel in panels.values() for _, low, _ in panel.values())
    if not finite:
        panels = {m: {n: (v, v, v) for n, (v, _, _) in panel.items()} for m, panel in panels.items()}
    seeds = table.index.get_level_values("seed").nunique()
    return Picture(
        name=name,
        caption=(
            f"Difference to {baseline} in percentage points, right is better; "
            + (f"bars are 95 % intervals over {seeds} seeds, paired." if finite else "one seed, no interval.")
        ),
        svg=figures.intervals(name, panels, xlabel="percentage points", zero=True),
    )


def corruption_picture(name: str, table: pd.DataFrame) -> Picture:
    """Error by corruption (mean over severities) and by severity (mean over corruptions), contenders side by side."""
    means = table.groupby(level="model", sort=False).mean()
    with figures.figure(name, width=9.0, height=3.6) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=(3, 1), sharey=True)
        for position, (label, row) in enumerate(means.iterrows()):
            colour = figures.COLOURS[position % len(figures.COLOURS)]
            error = {(n, s): 100 - row[f"corruption_top1/{n}/{s}"] for n in CORRUPTIONS for s in SEVERITIES}
            by_name = [sum(error[n, s] for s in SEVERITIES) / len(SEVERITIES) for n in CORRUPTIONS]
            by_severity = [sum(error[n, s] for n in CORRUPTIONS) / len(CORRUPTIONS) for s in SEVERITIES]
            left.plot(range(len(CORRUPTIONS)), by_name, "o", color=colour, markersize=4, label=str(label))
            right.plot(SEVERITIES, by_severity, "o-", color=colour, markersize=4, linewidth=1.5)
        left.set_xticks(range(len(CORRUPTIONS)), [n.replace("_", " ") for n in CORRUPTIONS], rotation=60, ha="right")
        left.set_ylabel("error, %")
        right.set_xticks(SEVERITIES)
        right.set_xlabel("severity")
        left.grid(axis="y")
        right.grid(axis="y")
        drawn.legend(loc="outside upper center", ncols=min(5, len(means)))
        svg = figures.to_svg(drawn)
    return Picture(
        name=name,
        caption="Error by corruption (mean over severities) and by severity (mean over corruptions).",
        svg=svg,
    )


def _correct(model: nn.Module, images: Tensor, labels: Tensor, device: str) -> int:
    total = 0
    with torch.inference_mode():
        for part, truth in zip(images.split(500), labels.split(500), strict=True):
            pixels = part.to(device)
            pixels = pixels if pixels.is_floating_point() else pixels.float() / 255
            total += int((model(pixels).argmax(1) == truth.to(device)).sum())
    return total


def _three_channels(images: Tensor) -> Tensor:
    return images[:, None].repeat(1, 3, 1, 1)


def _per_channel(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(values) * 3 if len(values) == 1 else tuple(values)
