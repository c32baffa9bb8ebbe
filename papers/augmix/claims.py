"""How AugMix's claims are measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common import bench
from common.manifest import load_manifest
from common.measurement import Finding, Result
from common.profiling import Spread, ratio_finding
from common.robustness.metrics.corruption import alexnet
from common.run import Run
from papers.augmix import pillow
from papers.augmix.draws import ALL_OPERATIONS, AugMixSettings, Draws, magnitudes
from papers.augmix.method import augment_and_mix, jensen_shannon
from papers.augmix.operations import apply
from papers.augmix.training import hooks

RECIPE = Path(__file__).with_name("recipe.toml")

HOST, AUGMIX, NO_TERM = "resnet_mini", "resnet_mini+augmix", "resnet_mini+augmix.no_jsd"


def operations(run: Run) -> Iterator[Result]:
    """Every operation at random levels, on noise and on smooth images, beside Pillow's."""
    generator = np.random.default_rng(run.settings.seed)
    count = 30 if run.settings.quick else 200
    images = _pictures(generator, count)
    different = {}
    for code, name in enumerate(ALL_OPERATIONS):
        operation = np.full(count, code)
        magnitude = magnitudes(operation, generator.uniform(0, 10, count), generator.random(count) > 0.5, 32, 32)
        ours = apply(_on(run, images), operation, magnitude).permute(0, 2, 3, 1).cpu().numpy()
        theirs = [pillow.apply(Image.fromarray(i), name, float(m)) for i, m in zip(images, magnitude, strict=True)]
        different[name] = int((ours != np.stack([np.asarray(image) for image in theirs])).sum())
    total = sum(different.values())
    worst = max(different, key=different.__getitem__)
    yield Finding.exactly(
        name="operations",
        statement="Each operation on a batch gives what Pillow gives image by image.",
        holds=total == 0,
        evidence=f"{total} of {images.size * len(different):,} values differ, over {count} images and {len(different)} "
        f"operations{'' if total == 0 else f', most of them after {worst}'}; on {run.settings.device}.",
        value=float(total),
    )


def divergence(run: Run) -> Iterator[Result]:
    """The consistency term at its ends, and between them."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    logits = torch.randn(8, 10, generator=generator)
    same = jensen_shannon(logits.expand(3, -1, -1)).item()
    apart = jensen_shannon(100 * torch.eye(3)[:, None].expand(-1, 8, -1)).item()
    between = [jensen_shannon(scale * torch.randn(3, 8, 10, generator=generator)).item() for scale in (0.1, 1, 10, 100)]
    holds = abs(same) < 1e-6 and math.isclose(apart, math.log(3), rel_tol=1e-5) and all(0 < b < 1.0987 for b in between)
    yield Finding.exactly(
        name="divergence",
        statement="The divergence is 0 for equal predictions, log 3 for disjoint ones, and between them otherwise.",
        holds=holds,
        evidence=f"{same:.1e} for equal predictions, {apart:.5f} for disjoint ones (log 3 is {math.log(3):.5f}), "
        f"{', '.join(f'{value:.4f}' for value in between)} for random logits of scale 0.1, 1, 10, 100.",
        value=apart,
    )


def normaliser(run: Run) -> Iterator[Result]:
    """The errors of AlexNet in the released code, which the manifest has, and those that ``mce`` divides by."""
    printed = load_manifest(run.paper.manifest)
    printed = printed[printed["model"] == "augmix.alexnet"]
    ours = alexnet()["error"]
    gaps = {row.dataset: abs(row.printed - 100 * ours[row.dataset.partition("/")[2]]) for row in printed.itertuples()}
    complete = len(gaps) == len(ours)
    worst = max(gaps.values())
    yield Finding.exactly(
        name="errors_of_alexnet",
        statement="Corruption errors are divided by the same errors of AlexNet as in the released code.",
        holds=complete and worst < 1e-9,
        evidence=f"{len(gaps)} of {len(ours)} corruptions, largest difference {worst:.1e} points.",
        value=worst,
    )


def contenders() -> list[bench.Contender]:
    """The host trained plainly, with AugMix, and with augmented images but without the consistency term.

    With the term an image goes through the network three times. So that it takes as long as the host's training, AugMix
    sees fewer images, in smaller batches; without the term it sees the same.
    """

    def augmented(name: str, *changes: str) -> bench.Contender:
        return bench.Contender(name, bench.hosts.resnet_mini, hooks, changes, RECIPE)

    return [
        bench.host(HOST),
        augmented(AUGMIX),
        augmented(NO_TERM, "method.consistency=0.0"),
    ]


def robustness(run: Run) -> Iterator[Result]:
    """Small networks at equal budget: accuracy on clean images and under corruption."""
    scores = bench.scores(run, contenders(), bench.calibration)
    yield from bench.measurements(scores, ("top1", "corruption_top1"))
    yield from bench.findings(
        scores,
        f"{AUGMIX} > {HOST}: corruption_top1",
        f"{AUGMIX} = {HOST}: top1",
        f"{AUGMIX} > {NO_TERM}: corruption_top1",
    )
    yield bench.difference_picture("differences", scores, HOST, bench.CALIBRATION)
    yield bench.corruption_picture("corruptions", scores)


def calibration(run: Run) -> Iterator[Result]:
    """The same networks: how far confidence is from accuracy, on clean images and under corruption."""
    scores = bench.scores(run, contenders(), bench.calibration)
    errors = ("corruption_rms_calibration_error", "rms_calibration_error")
    yield from bench.measurements(scores, errors)
    yield from bench.findings(scores, *(f"{AUGMIX} > {HOST}: {error}" for error in errors))


def cost(run: Run) -> Iterator[Result]:
    """Time to augment a batch at once, and image by image with Pillow, at the sizes of CIFAR and ImageNet.

    On a CPU both have one core, as a loader's worker has, and the time is that of the core: what else runs there
    does not count.
    """
    generator = np.random.default_rng(run.settings.seed)
    threads = torch.get_num_threads()
    clock = time.process_time if run.settings.device == "cpu" else time.perf_counter
    torch.set_num_threads(1)
    try:
        for side, count in ((32, 128), (224, 8)):
            images = _pictures(generator, count, side)
            draws = Draws.sample(count, AugMixSettings(), generator)
            batched, one_by_one = _both(_on(run, images), images, draws)
            rounds = [_seconds(batched, clock) / _seconds(one_by_one, clock) for _ in range(10)]
            yield ratio_finding(
                f"Augmenting a batch at once is faster than image by image, at {side} pixels.",
                Spread.of(rounds[1:]),  # the first one fills caches
                1.0,
                whose="Pillow's",
                name=f"batched_at_{side}",
                rest=f" for {count} images on {run.settings.device}, one core for each",
            )
    finally:
        torch.set_num_threads(threads)


def _both(batch: Tensor, images: np.ndarray, draws: Draws) -> tuple[Callable[[], object], Callable[[], object]]:
    """The batched form, which waits for the device, and Pillow's."""
    return (
        lambda: augment_and_mix(batch, draws).sum().item(),
        lambda: [pillow.augment_and_mix(image, draws, index) for index, image in enumerate(images)],
    )


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def _pictures(generator: np.random.Generator, count: int, side: int = 32) -> np.ndarray:
    """Half noise, half smooth waves with few grey levels, (count, side, side, 3) uint8."""
    noise = generator.integers(0, 256, (count, side, side, 3))
    x, y = np.arange(side)[:, None], np.arange(side)[:, None, None]
    phase = generator.uniform(0, 6, (count, 1, 1, 3))
    waves = 120 + generator.uniform(20, 130, (count, 1, 1, 1)) * np.sin(x / 5 + y / 9 + phase)
    chosen = (np.arange(count) % 2 == 0)[:, None, None, None]
    return np.where(chosen, noise, waves.clip(0, 255)).astype(np.uint8)


def _on(run: Run, images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(run.settings.device)
