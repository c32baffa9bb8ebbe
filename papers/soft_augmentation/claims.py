"""How Soft Augmentation's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from common import bench, figures
from common.measurement import Finding, Picture, Result
from common.run import Run
from papers.soft_augmentation import measures
from papers.soft_augmentation.method import ATTEMPTS, confidence, crop, offsets, soft_target_loss, targets, visibility
from papers.soft_augmentation.training import hooks

RECIPE = Path(__file__).with_name("recipe.toml")
HOST = "resnet_mini"
SOFT, WEAK, HARD, FOCAL = (f"{HOST}+{name}" for name in ("soft_crop", "soft_crop.weak", "hard_crop", "focal"))
#: The weaker crops move a third as far as the others: most images no further than by a standard crop, 4 of 32 pixels.
WEAK_SIGMA = 0.0625
CLASSES = 10


def contenders() -> list[bench.Contender]:
    """The host, which has label smoothing and no crops; soft crops of two strengths, hard crops, and the focal loss."""

    def contender(name: str, *changes: str) -> bench.Contender:
        return bench.Contender(name, bench.hosts.resnet_mini, hooks, changes, RECIPE)

    return [
        bench.host(HOST),
        contender(SOFT),
        contender(WEAK, f"method.sigma={WEAK_SIGMA}"),
        contender(HARD, "method.loss=cross_entropy"),
        contender(FOCAL, "method.loss=focal", "method.sigma=0.0"),
    ]


def soft_crops(run: Run) -> Iterator[Result]:
    """Small networks at equal budget: soft and hard targets for the same crops, and how far crops may go."""
    scores = bench.scores(run, contenders(), measures.measured)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores,
        f"{SOFT} > {HARD}: top1",
        f"{SOFT} > {HOST}: top1",
        f"{SOFT} > {WEAK}: top1",
    )
    yield bench.difference_picture("differences", scores, HOST, measures.METRICS)


def calibration(run: Run) -> Iterator[Result]:
    """The same networks: how far confidence is from accuracy on clean images."""
    scores = bench.scores(run, contenders(), measures.measured)
    yield from bench.findings(scores, *(f"{SOFT} > {other}: ece" for other in (HARD, HOST, FOCAL)))


def occlusion(run: Run) -> Iterator[Result]:
    """The same networks on images that are partly out of view or partly black, and a curve of both."""
    scores = bench.scores(run, contenders(), measures.measured)
    yield from bench.findings(
        scores,
        f"{SOFT} > {HARD}: occlusion_top1",
        f"{SOFT} > {HOST}: occlusion_top1",
        f"{SOFT} > {HARD}: crop_top1",
        f"{SOFT} > {HOST}: crop_top1",
    )
    shares = (*reversed(measures.SHARES), 1.0)
    lines = {
        name: (shares, [scores.mean(name, "top1" if share == 1 else f"crop_top1/{share}") for share in shares])
        for name in scores.contenders
    }
    yield Picture(
        name="visibility",
        caption="Accuracy of small networks by the share of the image that is in view.",
        svg=figures.curves("visibility", lines, xlabel="share in view", ylabel="top-1 accuracy, %"),
    )


def curve(run: Run) -> Iterator[Result]:
    """What is exact about crops, targets and loss, and the curve by which targets soften."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    logits, labels = torch.randn(8, CLASSES, generator=generator), torch.arange(8)
    whole, none = torch.ones(8), torch.full((8,), 1 / CLASSES)

    yield _exact(
        "whole",
        "Of an image that is all in view, the loss is cross-entropy",
        soft_target_loss(logits, labels, confidence(whole, CLASSES)),
        F.cross_entropy(logits, labels),
    )
    yield _exact(
        "blank",
        "Of an image that is out of view, the target is chance for every class",
        targets(labels, confidence(torch.zeros(8), CLASSES), CLASSES),
        torch.full((8, CLASSES), 1 / CLASSES),
    )
    certain = confidence(torch.rand(8, generator=generator), CLASSES)
    best = targets(labels, certain, CLASSES).log().requires_grad_()
    (gradient,) = torch.autograd.grad(soft_target_loss(best, labels, certain), best)
    yield _exact(
        "optimum",
        "The gradient is zero where the prediction is the target, and only there is nothing to learn",
        gradient,
        torch.zeros_like(gradient),
    )
    images = torch.rand(64, 1, 28, 28, generator=generator) + 1  # nothing of an image is 0
    drawn = [offsets(torch.randn(64, ATTEMPTS, generator=generator), 0.375 * 28, 28) for _ in range(2)]
    offset = torch.stack(drawn, dim=1)
    yield _exact(
        "visible",
        "The share in view is that of the pixels that a crop keeps",
        visibility(offset, 28, 28),
        (crop(images, offset, torch.zeros(64, 1)) != 0).float().mean(dim=(1, 2, 3)),
    )
    yield _exact(
        "weight",
        "Weighting by the confidence takes the share of chance that a blank image counts",
        soft_target_loss(logits, labels, none),
        soft_target_loss(logits, labels, none, reweight="none") / CLASSES,
    )
    yield _softness()


def _softness() -> Picture:
    """Confidence by the share in view, for several powers."""
    visible = torch.linspace(0, 1, 101)
    lines = {
        f"k = {power}": (visible.tolist(), confidence(visible, 100, power=power).tolist()) for power in (1, 2, 3, 4)
    }
    return Picture(
        name="softness",
        caption="Confidence of the target by the share of the image in view, for 100 classes; the release has k = 2.",
        svg=figures.curves("softness", lines, xlabel="share in view", ylabel="confidence", markers=False),
    )


def _exact(name: str, statement: str, found: Tensor, expected: Tensor) -> Finding:
    error = float((found - expected).abs().max())
    return Finding.exactly(
        name=name,
        statement=f"{statement}.",
        holds=error < 1e-6,
        evidence=f"The largest difference is {error:.1e} (bound 1e-6).",
        value=error,
    )
