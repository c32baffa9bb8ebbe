"""How PixMix's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import bench, figures
from common.measurement import Finding, Picture, Result
from common.run import Run
from papers.augmix import claims as augmix
from papers.pixmix import mixing
from papers.pixmix.draws import Draws, PixMixSettings
from papers.pixmix.measures import BATTERY, battery
from papers.pixmix.method import pixmix
from papers.pixmix.pictures import Generated
from papers.pixmix.training import hooks, settings_of

RECIPE = Path(__file__).with_name("recipe.toml")
HOST, AUGMIX = augmix.HOST, augmix.AUGMIX
MIXUP, CUTMIX, PIXMIX = (f"{HOST}+{name}" for name in ("mixup", "cutmix", "pixmix"))
#: As label mixing is trained on the bench: all batches are too many for so few steps.
HALF = ("mix_probability=0.5",)


def contenders() -> list[bench.Contender]:
    """The host trained plainly, with mixup, with CutMix, with AugMix, and with PixMix."""
    build = bench.hosts.resnet_mini
    return [
        bench.host(HOST),
        bench.Contender(MIXUP, build, changes=(*HALF, "mixup=1.0")),
        bench.Contender(CUTMIX, build, changes=(*HALF, "cutmix=1.0")),
        *(one for one in augmix.contenders() if one.name == AUGMIX),
        bench.Contender(PIXMIX, build, hooks, recipe=RECIPE),
    ]


def corruptions(run: Run) -> Iterator[Result]:
    """Small networks at equal budget: the whole battery in one table and one picture; errors under corruption."""
    scores = bench.scores(run, contenders(), battery)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores,
        f"{PIXMIX} > {HOST}: corruption_top1",
        f"{PIXMIX} > {AUGMIX}: corruption_top1",
        f"{PIXMIX} = {HOST}: top1",
    )
    yield bench.difference_picture("battery", scores, HOST, BATTERY)
    yield bench.corruption_picture("corruptions", scores)
    yield _examples(run)


def consistency(run: Run) -> Iterator[Result]:
    """The same networks: predictions for frames that hardly differ."""
    scores = bench.scores(run, contenders(), battery)
    yield from bench.findings(scores, f"{PIXMIX} > {HOST}: flip_rate", f"{PIXMIX} > {AUGMIX}: flip_rate")


def adversaries(run: Run) -> Iterator[Result]:
    """The same networks under PGD."""
    scores = bench.scores(run, contenders(), battery)
    yield from bench.findings(scores, f"{PIXMIX} > {HOST}: pgd_eps2_top1", f"{PIXMIX} > {AUGMIX}: pgd_eps2_top1")


def calibration(run: Run) -> Iterator[Result]:
    """The same networks: how far confidence is from accuracy, under corruption and on clean images."""
    scores = bench.scores(run, contenders(), battery)
    errors = ("corruption_rms_calibration_error", "rms_calibration_error")
    yield from bench.findings(scores, *(f"{PIXMIX} > {HOST}: {error}" for error in errors))


def anomaly_detection(run: Run) -> Iterator[Result]:
    """The same networks: telling images of no garment by low confidence."""
    scores = bench.scores(run, contenders(), battery)
    yield from bench.findings(scores, f"{PIXMIX} > {HOST}: auroc", f"{PIXMIX} > {HOST}: aupr")


def identity(run: Run) -> Iterator[Result]:
    """What is exact about mixing."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    first, second = torch.rand(2, 8, 3, 28, 28, generator=generator)
    one, none = torch.ones(8), torch.zeros(8)
    some = torch.rand(8, generator=generator)
    grey = torch.full_like(first, 0.5)
    cases: dict[str, tuple[str, Tensor, Tensor]] = {
        "nothing": (
            "A second picture without weight changes nothing",
            torch.stack([mix(first, second, one, none) for mix in (mixing.add, mixing.multiply)]),
            torch.stack((first, first)),
        ),
        "grey": (
            "Grey changes nothing, whatever its weight",
            torch.stack([mix(first, grey, one, some) for mix in (mixing.add, mixing.multiply)]),
            torch.stack((first, first)),
        ),
        "all": (
            "A first picture without weight leaves the second one",
            torch.stack([mix(first, second, none, one) for mix in (mixing.add, mixing.multiply)]),
            torch.stack((second, second)),
        ),
    }
    images = (255 * first).to(torch.uint8)
    pictures = (255 * second).to(torch.uint8)
    still = Draws.sample(8, PixMixSettings(k=0), np.random.default_rng(run.settings.seed))
    still.augmented[:] = False
    cases["rounds"] = (
        "Without a round of mixing and without augmentation, images stay as they are",
        pixmix(images, pictures, still),
        images.float() / 255,
    )
    for name, (statement, found, expected) in cases.items():
        error = float((found - expected).abs().max())
        yield Finding.exactly(
            name=name,
            statement=f"{statement}.",
            holds=error < 1e-6,
            evidence=f"The largest difference is {error:.1e} (bound 1e-6).",
            value=error,
        )


def _examples(run: Run) -> Picture:
    """Garments, fractals, and what PixMix makes of them, as the paper's first figures show it."""
    rows, columns = 4, 6
    images = bench.test_set(run.settings.quick).clean[0, :rows]
    generator = np.random.default_rng(0)
    recipe = contenders()[-1].settings(quick=run.settings.quick)
    settings, fractals = settings_of(recipe), Generated(int(recipe.method["picture_size"]))
    with figures.figure("examples", width=1.2 * columns, height=1.25 * rows) as drawn:
        axes = drawn.subplots(rows, columns)
        shown = [images.float() / 255, fractals.take(rows, images.shape[-1], generator).float() / 255]
        for _ in range(columns - 2):
            pictures = fractals.take(rows, images.shape[-1], generator)
            shown.append(pixmix(images, pictures, Draws.sample(rows, settings, generator)))
        titles = ("image", "fractal", *["PixMix"] * (columns - 2))
        for row, cells in enumerate(axes):
            for axis, title, column in zip(cells, titles, shown, strict=True):
                axis.imshow(column[row].permute(1, 2, 0).numpy())
                axis.set_xticks([])
                axis.set_yticks([])
                if not row:
                    axis.set_title(title, fontsize=8)
        svg = figures.to_svg(drawn)
    return Picture(
        name="examples",
        caption="The first test images, some of the generated fractals, and images mixed with such fractals.",
        svg=svg,
    )
