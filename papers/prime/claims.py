"""How PRIME's claims are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import bench, figures
from common.measurement import Finding, Picture, Result
from common.profiling import Spread, ratio_finding
from common.run import Run
from common.training.randomness import preserved_global_state, seed_global
from papers.augmix import claims as augmix
from papers.augmix import draws as augmix_draws
from papers.augmix.method import augment_and_mix
from papers.prime.draws import PRIMITIVES, Draws, PrimeSettings
from papers.prime.method import apply, augment
from papers.prime.primitives import Colours, Displacement, Filters, displace, field, recolour, refilter
from papers.prime.training import hooks, settings_of

RECIPE = Path(__file__).with_name("recipe.toml")
#: What differs with the consistency term.
WITH_TERM = RECIPE.parent / "consistency" / "recipe.toml"
HOST, AUGMIX = augmix.HOST, augmix.AUGMIX
PRIME, TERM, NO_MIXING = f"{HOST}+prime", f"{HOST}+prime.jsd", f"{HOST}+prime.no_mixing"
#: Draws from which statistics are estimated, and how far those may be from what they should be: four standard errors.
DRAWN, STATISTICS_TOLERANCE = 50_000, 0.04


def contenders() -> list[bench.Contender]:
    """The host trained plainly, with AugMix, with PRIME, with PRIME and the consistency term, and without mixing."""
    plain = (bench.host(HOST), *(one for one in augmix.contenders() if one.name == AUGMIX))
    build = bench.hosts.resnet_mini
    return [
        *plain,
        bench.Contender(PRIME, build, hooks, recipe=RECIPE),
        bench.Contender(TERM, build, hooks, recipe=WITH_TERM),
        bench.Contender(NO_MIXING, build, hooks, ("method.mixing=false",), RECIPE),
    ]


def robustness(run: Run) -> Iterator[Result]:
    """Small networks at equal budget: accuracy on clean images and under corruption."""
    scores = bench.scores(run, contenders(), bench.calibration)
    yield from bench.measurements(scores, ("top1", "corruption_top1"))
    yield from bench.findings(
        scores,
        f"{PRIME} > {HOST}: corruption_top1",
        f"{TERM} > {AUGMIX}: corruption_top1",
        f"{TERM} > {PRIME}: corruption_top1",
        f"{PRIME} = {HOST}: top1",
    )
    yield bench.difference_picture("differences", scores, HOST, ("top1", "corruption_top1"))
    yield bench.corruption_picture("corruptions", scores)
    yield _examples(run)


def mixing(run: Run) -> Iterator[Result]:
    """PRIME with and without mixing: the ablation of the paper."""
    scores = bench.scores(run, contenders(), bench.calibration)
    yield from bench.findings(scores, f"{PRIME} > {NO_MIXING}: corruption_top1", f"{PRIME} > {NO_MIXING}: top1")


def identity(run: Run) -> Iterator[Result]:
    """Each primitive without strength, and what no strength changes."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    images = torch.rand(4, 3, 28, 28, generator=generator)
    still = Displacement(torch.randn(9, 9, generator=generator), torch.randn(9, 9, generator=generator), 0.0)
    colours, noise = torch.randn(4, 3, 9, generator=generator), torch.randn(4, 3, 3, generator=generator)
    for name, changed in (
        ("displace", displace(images, still)),
        ("recolour", recolour(images, Colours(colours, 1, 0.0))),
        ("refilter", refilter(images, Filters(noise, 0.0))),
    ):
        yield _exact(name, f"Without strength, {name} changes nothing", changed, images)
    ends = torch.tensor([0.0, 1.0]).repeat(4, 3, 28, 14)
    yield _exact(
        "ends", "Maps of colours leave black and white as they are", recolour(ends, Colours(colours, 1, 0.05)), ends
    )
    released = refilter(images, Filters(noise, 0.0, centred=False))
    shifted = torch.zeros_like(images)
    shifted[:, :, :-1, :-1] = images[:, :, 1:, 1:]
    yield _exact("released", "As released, a filter without noise moves images by a pixel", released, shifted)


def maximum_entropy(run: Run) -> Iterator[Result]:
    """The second moments that make Gaussian coefficients those of maximum entropy, from many draws."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    # Sine waves are orthogonal on the grid between the borders: projecting a field on them gives its coefficients.
    cut, side = 4, 17
    number = torch.arange(1, cut + 1).float()
    norm = (number[:, None] ** 2 + number**2).sqrt()
    drawn = torch.randn(100, cut, cut, generator=generator)
    waves = (torch.pi * torch.linspace(0, 1, side)[:, None] * number).sin()
    fields = torch.stack([field(one, side) for one in drawn])
    yield _exact(
        "modes",
        "A displacement has the modes that were drawn, in a circle, each with the same share of the squared gradient",
        norm * torch.einsum("xi,nyx,yj->nij", waves, fields, waves) * (2 / (side - 1)) ** 2,
        torch.where(norm < cut + 0.5, drawn, 0),
        bound=1e-5,
    )
    strength, frequencies = 1e-4, 5  # so weak that nothing reaches the ends of the range of colours
    colours = torch.rand(DRAWN, 1, 1, 16, generator=generator) * 0.6 + 0.2
    maps = Colours(torch.randn(DRAWN, 1, frequencies, generator=generator), 1, strength)
    expected = strength * sum((torch.pi * k * colours).sin().square().mean() for k in range(1, frequencies + 1))
    change = (recolour(colours, maps) - colours).square().mean()
    yield _statistic(
        "colours", "Maps of colours move colours by the variance that is asked for", change[None] / expected
    )
    point = torch.zeros(DRAWN, 1, 5, 5)
    point[:, :, 2, 2] = 1e-2
    filters = Filters(torch.randn(DRAWN, 3, 3, generator=generator), 2.0)
    around = [0, 1, 2, 3, 5, 6, 7, 8]  # all but the middle, where the identity is
    answer = refilter(point, filters)[:, 0, 1:4, 1:4].flatten(1)[:, around] / 1e-2
    # What is below black is cut off, and with it half of the variance.
    share = answer.square().mean(dim=0) / (filters.sigma**2 / 2)
    yield _statistic("filters", "Filters have the noise that is asked for, the same at each place", share)


def _statistic(name: str, statement: str, found: Tensor) -> Finding:
    """A mean over draws, relative to what it should be."""
    return _exact(name, statement, found, torch.ones_like(found), bound=STATISTICS_TOLERANCE)


def _exact(name: str, statement: str, found: Tensor, expected: Tensor, bound: float = 1e-6) -> Finding:
    error = float((found - expected).abs().max())
    return Finding.exactly(
        name=name,
        statement=f"{statement}.",
        holds=error < bound,
        evidence=f"The largest difference is {error:.1e} (bound {bound:g}).",
        value=error,
    )


def cost(run: Run) -> Iterator[Result]:
    """Time to augment a batch at once by PRIME and by AugMix, at the sizes of CIFAR and ImageNet."""
    generator = np.random.default_rng(run.settings.seed)
    threads = torch.get_num_threads()
    clock = time.process_time if run.settings.device == "cpu" else time.perf_counter
    torch.set_num_threads(1)
    try:
        with preserved_global_state():
            seed_global(run.settings.seed, "cost")
            for side, count, settings in (
                (32, 128, PrimeSettings()),
                (224, 4, PrimeSettings(highest_cut=500, colours=500, bandwidth=20, strength=0.05)),
            ):
                pixels = torch.from_numpy(generator.integers(0, 256, (count, 3, side, side), dtype=np.uint8))
                prime, other = _both(pixels.to(run.settings.device), settings, generator)
                rounds = [_seconds(prime, clock) / _seconds(other, clock) for _ in range(10)]
                yield ratio_finding(
                    f"Augmenting by PRIME takes no longer than by AugMix, at {side} pixels.",
                    Spread.of(rounds[1:]),  # the first one fills caches
                    1.0,
                    whose="AugMix's",
                    name=f"augmix_at_{side}",
                    rest=f" for {count} images on {run.settings.device}, one core for each",
                )
    finally:
        torch.set_num_threads(threads)


def _both(pixels: Tensor, settings: PrimeSettings, generator: np.random.Generator) -> tuple[Callable[[], object], ...]:
    """PRIME and AugMix, each with draws of its own at every call, which wait for the device."""
    images, count = pixels.float() / 255, len(pixels)
    augmented = augmix_draws.AugMixSettings()
    return (
        lambda: augment(images, Draws.sample(images, settings)).sum().item(),
        lambda: augment_and_mix(pixels, augmix_draws.Draws.sample(count, augmented, generator)).sum().item(),
    )


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def _examples(run: Run) -> Picture:
    """Garments, what each primitive makes of them, and the mixture, as the paper's first figure shows them."""
    rows = 4
    images = bench.test_set(run.settings.quick).clean[0, :rows].float() / 255
    settings = settings_of(contenders()[2].settings(quick=run.settings.quick))
    with preserved_global_state():
        seed_global(0, "examples")
        columns = {"image": images}
        for code, name in enumerate(PRIMITIVES):
            step = Draws.sample(images, settings).steps[0]
            columns[name] = apply(images, code, step, torch.arange(rows))
        columns["mixed"] = augment(images, Draws.sample(images, settings))
    with figures.figure("examples", width=1.2 * len(columns), height=1.25 * rows) as drawn:
        axes = drawn.subplots(rows, len(columns))
        for row, cells in enumerate(axes):
            for axis, (title, shown) in zip(cells, columns.items(), strict=True):
                axis.imshow(shown[row].permute(1, 2, 0).numpy().clip(0, 1))
                axis.set_xticks([])
                axis.set_yticks([])
                if not row:
                    axis.set_title(title, fontsize=8)
        svg = figures.to_svg(drawn)
    return Picture(
        name="examples",
        caption="The first test images, each primitive applied to them, and mixtures of chains of primitives.",
        svg=svg,
    )
