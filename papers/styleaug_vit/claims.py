"""How the claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common import bench
from common.figures import figure, to_svg
from common.measurement import Finding, Picture, Result
from common.run import Run
from papers.styleaug_vit.training import augmix_hooks, by_textures, hooks
from papers.styleaug_vit.transfer import EMBEDDING, StyleAugmentor

RECIPE = Path(__file__).with_name("recipe.toml")
VIT, RESNET = "vit_mini", "resnet_mini"
VIT_STYLE, VIT_AUGMIX, VIT_ALONE = "vit_mini+styleaug", "vit_mini+augmix_views", "vit_mini+styleaug.no_consistency"
RESNET_STYLE = "resnet_mini+styleaug"
#: Gain of StyleAug over the host without augmentation.
GAIN = "styleaug_gain"


def contenders() -> list[bench.Contender]:
    """Both hosts, and with StyleAug; the transformer with AugMix, and with StyleAug without the consistency term."""
    vit, resnet = bench.hosts.vit_mini, bench.hosts.resnet_mini
    return [
        bench.host(VIT),
        bench.host(RESNET),
        bench.Contender(VIT_STYLE, vit, hooks, recipe=RECIPE),
        bench.Contender(RESNET_STYLE, resnet, hooks, recipe=RECIPE),
        bench.Contender(VIT_AUGMIX, vit, augmix_hooks, recipe=RECIPE),
        bench.Contender(VIT_ALONE, vit, hooks, ("method.consistency=0.0",), RECIPE),
    ]


def architectures(run: Run) -> Iterator[Result]:
    """What StyleAug brings a transformer and a residual network; the transformer with AugMix beside it."""
    scores = bench.scores(run, contenders(), bench.calibration)
    metrics = ("top1", "corruption_top1")
    yield from bench.measurements(scores, metrics)
    gains = bench.Scores(
        {
            (host, seed): {
                "top1": scores.values[style, seed]["top1"],
                GAIN: _corrupted(scores, style, seed) - _corrupted(scores, host, seed),
            }
            for host, style in ((VIT, VIT_STYLE), (RESNET, RESNET_STYLE))
            for seed in scores.seeds
        }
    )
    yield from bench.measurements(gains, (GAIN,))
    yield from bench.findings(gains, f"{VIT} > {RESNET}: {GAIN}")
    yield from bench.findings(scores, *(f"{VIT_STYLE} > {VIT_AUGMIX}: {metric}" for metric in metrics))
    yield bench.difference_picture("differences", scores, VIT, metrics)
    yield restyled_picture(run.settings.quick)


def _corrupted(scores: bench.Scores, name: str, seed: int) -> np.ndarray:
    """Whether a contender is right under corruption, by image, as numbers that can be subtracted."""
    return np.asarray(scores.values[name, seed]["corruption_top1"], dtype=np.float64)


def consistency(run: Run) -> Iterator[Result]:
    """The transformer with StyleAug's images, with the consistency term and without it."""
    scores = bench.scores(run, contenders(), bench.calibration)
    yield from bench.findings(scores, f"{VIT_STYLE} > {VIT_ALONE}: top1", f"{VIT_STYLE} > {VIT_ALONE}: corruption_top1")


def embeddings(run: Run) -> Iterator[Result]:
    """Random styles of an untrained augmentor: their distribution, and what their strength does."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    factor = torch.randn(EMBEDDING, EMBEDDING, generator=generator, dtype=torch.float64) / 10
    covariance, mean = factor @ factor.T, torch.randn(EMBEDDING, generator=generator)
    torch.manual_seed(run.settings.seed)
    augmentor = StyleAugmentor(mean, covariance).eval()
    root = augmentor.root.double()
    error = float((root @ root.T - covariance).abs().max() / covariance.abs().max())
    yield _exact("covariance", "Random embeddings have the covariance that is given.", error)
    images = torch.rand(2, 3, 76, 76, generator=generator)
    styles = [augmentor.sample(torch.randn(2, EMBEDDING, generator=generator)) for _ in range(2)]
    with torch.no_grad():
        none = [augmentor(images, style, 0.0) for style in styles]
        own = augmentor.transformer(images, augmentor.predictor(images))
        full = augmentor(images, styles[0], 1.0)
        direct = augmentor.transformer(images, styles[0])
    yield _exact(
        "strength_0",
        "At strength 0 an image gets its own predicted style, whatever the random one is.",
        float(max((one - own).abs().max() for one in none)),
    )
    yield _exact("strength_1", "At strength 1 it gets the random style alone.", float((full - direct).abs().max()))


def _exact(name: str, statement: str, error: float, bound: float = 1e-5) -> Finding:
    return Finding.exactly(
        name=name,
        statement=statement,
        holds=error < bound,
        evidence=f"The largest difference is {error:.1e} (bound {bound:g}).",
        value=error,
    )


def restyled_picture(quick: bool, shown: int = 8) -> Picture:
    """The first test images, and restyled at three strengths."""
    images, strengths = bench.test_set(quick).clean[0, :shown], (0.25, 0.5, 1.0)
    rows = [images]
    for strength in strengths:
        rows.append(by_textures(images, torch.Generator().manual_seed(0), strength=strength))
    with figure("restyled", width=shown, height=1.02 * len(rows)) as drawn:
        for axes, row in zip(drawn.subplots(len(rows), shown), rows, strict=True):
            for axis, image in zip(axes, row, strict=True):
                axis.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
        svg = to_svg(drawn)
    caption = f"The first {shown} test images, and below restyled with strength 0.25, 0.5 and 1."
    return Picture(name="restyled", caption=caption, svg=svg)
