"""How HAT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from common import bench, figures
from common.measurement import Finding, Measurement, Picture, Result
from common.profiling import size
from common.robustness.attacks import fgsm
from common.robustness.frequency import FILTERS, RADII, high_pass, low_pass
from common.run import Run
from common.statistics import Estimate
from common.training.adversarial import AdversarialTraining
from common.training.hooks import Hook
from common.training.recipe import Recipe
from papers.hat import frequency
from papers.hat.method import HatSettings, divergence, moved
from papers.hat.training import hooks
from papers.swin import claims as swin

RECIPE = Path(__file__).with_name("recipe.toml")
VIT, CNN = "vit_mini", "resnet_mini"
HAT, RELEASED, ADVERSARIAL = "vit_mini+hat", "vit_mini+hat.released", "vit_mini+adversarial"


def contenders() -> list[bench.Contender]:
    """Both hosts, and the transformer with HAT in both forms and with adversarial images alone, at equal budget."""
    build = bench.hosts.vit_mini
    return [
        bench.host(VIT),
        bench.host(CNN),
        bench.Contender(HAT, build, hooks, recipe=RECIPE),
        bench.Contender(RELEASED, build, hooks, ("method.form=released",), RECIPE),
        # Two passes for each image: the attack's and the training's.
        bench.Contender(ADVERSARIAL, build, adversarial_images, ("total_batch=64", "epoch_images=25600")),
    ]


def model_size(name: str) -> Iterator[Measurement]:
    """Parameters and multiply-adds; Swin's as Swin's release counts them, whose numbers are printed."""
    yield from (swin.model_size if name.startswith("swin_") else size.model_size)(name)


def adversarial_images(recipe: Recipe) -> Sequence[Hook]:
    """Adversarial training as usual, by a step as large as HAT's, of all frequencies and without clean images."""
    mean, std = (bench.per_channel(values) for values in (recipe.mean, recipe.std))
    return (AdversarialTraining(fgsm(2 / 255), mean, std),)


def accuracy(run: Run) -> Iterator[Result]:
    """Small transformers with HAT and without: clean accuracy and robustness."""
    scores = bench.scores(run, contenders(), frequency.measure)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{HAT} > {VIT}: top1", f"{HAT} > {VIT}: corruption_top1")
    yield bench.difference_picture("hat", scores, VIT)


def high_frequencies(run: Run) -> Iterator[Result]:
    """A small transformer and a small residual network behind filters."""
    scores = bench.scores(run, contenders(), frequency.measure)
    yield from bench.findings(scores, f"{CNN} > {VIT}: high_pass_top1", f"{CNN} > {VIT}: low_pass_top1")
    yield _curves(scores)


def compensation(run: Run) -> Iterator[Result]:
    """What HAT does to accuracy on high frequencies alone."""
    scores = bench.scores(run, contenders(), frequency.measure)
    yield from bench.findings(scores, f"{HAT} > {VIT}: high_pass_top1", f"{HAT} > {RELEASED}: high_pass_top1")


def adversarial_training(run: Run) -> Iterator[Result]:
    """HAT beside adversarial training as usual."""
    scores = bench.scores(run, contenders(), frequency.measure)
    yield from bench.findings(
        scores,
        f"{HAT} > {ADVERSARIAL}: top1",
        f"{HAT} > {ADVERSARIAL}: corruption_top1",
        f"{HAT} > {ADVERSARIAL}: pgd_eps4_top1",
    )


def _curves(scores: bench.Scores) -> Picture:
    """Accuracy over the radius of both filters."""
    panels = {}
    for title, metric in zip(("low frequencies alone", "high frequencies alone"), FILTERS, strict=True):
        values = {name: [scores.mean(name, f"{metric}/{radius:g}") for radius in RADII] for name in scores.contenders}
        lines = {name: (RADII, [Estimate(v, v, v) for v in row]) for name, row in values.items()}
        panels[title] = figures.Panel(lines, "radius of the filter", logarithmic=True)
    return Picture(
        name="frequencies",
        caption=(
            "Accuracy on images without the frequencies above, and without those up to, a radius; 1 is half a cycle a "
            f"pixel. Mean over {len(scores.seeds)} seeds."
        ),
        svg=figures.accuracy_panels("frequencies", panels),
    )


def identity(run: Run) -> Iterator[Result]:
    """What filters, perturbation and loss are by construction."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    images = torch.rand(4, 3, 28, 28, generator=generator)
    settings = HatSettings("published", 3, 8 / 255, 8 / 255, 3.0, 0.01, 1.0, 0.25)
    gradient = torch.randn(images.shape, generator=generator)
    unit = torch.ones(1, 1, 1) / 255
    delta = moved(moved(torch.zeros_like(images), gradient, 6 * unit, 8 * unit), gradient, 6 * unit, 8 * unit)
    change = settings.perturbed(images, delta) - images
    logits = torch.randn(4, 10, generator=generator)
    share = _low_share(change, settings.radius)
    unfiltered = _low_share(replace(settings, form="released").perturbed(images, delta) - images, settings.radius)
    yield Finding.exactly(
        "high_frequencies_alone",
        "HAT's perturbation has no energy up to the radius, where the released one has.",
        share < 1e-8 < unfiltered,
        f"{share:.1e} of its energy (bound 1e-8); of the released one's {unfiltered:.3f}.",
        share,
    )
    whole = float((low_pass(images, 0.25) + high_pass(images, 0.25) - images).abs().max())
    yield Finding.exactly(
        "parts",
        "Low and high frequencies together are the image.",
        whole < 1e-6,
        f"The largest difference is {whole:.1e} (bound 1e-6).",
        whole,
    )
    largest = float(delta.abs().max() * 255)
    yield Finding.exactly(
        "epsilon",
        "No pixel of the perturbation is beyond epsilon before it is filtered, and two steps of 6/255 reach 8/255.",
        abs(largest - 8) < 1e-4,
        f"The largest is {largest:.4f}/255.",
        largest,
    )
    same, other = float(divergence(logits, logits)), float(divergence(logits, logits.flip(0)))
    yield Finding.exactly(
        "clean_pass",
        "The divergence is 0 where predictions agree, as in the clean pass, and above it elsewhere.",
        same == 0 and other > 0,
        f"{same:.1e} for equal predictions, {other:.3f} for others.",
        same,
    )


def _low_share(change: Tensor, radius: float) -> float:
    """Share of the energy of ``change`` (B, C, H, W) at frequencies up to ``radius``."""
    return float(low_pass(change, radius).square().sum() / change.square().sum())
