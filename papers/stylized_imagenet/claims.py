"""How the claims are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from common import bench, figures
from common.bench import stylised
from common.measurement import Finding, Picture, Result
from common.run import Run
from common.style_transfer import adain, moments
from papers.stylized_imagenet.experiment import both, measure, stylised_garments
from papers.stylized_imagenet.mini import bagnet_mini

PLAIN, STYLISED, BOTH = "resnet_mini", "resnet_mini+stylised", "resnet_mini+stylised_and_plain"
LOCAL, LOCAL_STYLISED = "bagnet_mini", "bagnet_mini+stylised"
#: The largest difference of features, of a scale of 1, that rounding and the variance's epsilon explain.
ROUNDING = 1e-3


def contenders() -> list[bench.Contender]:
    """The residual network trained on garments as they are, stylised, and both; the local network on either."""
    host = bench.hosts.resnet_mini
    return [
        bench.host(PLAIN),
        bench.Contender(STYLISED, host, data=stylised_garments),
        bench.Contender(BOTH, host, data=both),
        bench.Contender(LOCAL, bagnet_mini),
        bench.Contender(LOCAL_STYLISED, bagnet_mini, data=stylised_garments),
    ]


def shape_bias(run: Run) -> Iterator[Result]:
    """Decisions on silhouettes of one garment with the texture of another, and on either cue alone."""
    scores = bench.scores(run, contenders(), measure)
    # Of a network that tells textures no better than chance, 10 %, a shape bias would say little: hence texture_top1.
    yield from bench.measurements(
        scores, ("shape_bias", "shape_share", "texture_share", "silhouette_top1", "texture_top1")
    )
    yield from bench.findings(
        scores,
        f"{STYLISED} > {PLAIN}: shape_bias",
        f"{BOTH} > {PLAIN}: shape_bias",
        f"{STYLISED} > {PLAIN}: silhouette_top1",
    )
    yield shares_picture(scores)


def transfer(run: Run) -> Iterator[Result]:
    """Each network on the images that it was not trained on, as the paper's first table."""
    scores = bench.scores(run, contenders(), measure)
    yield from bench.measurements(scores, ("top1", "stylised_top1"))
    unseen = {
        key: {**values, "transfer_top1": _unseen(values, trained_stylised=key[0] in (STYLISED, LOCAL_STYLISED))}
        for key, values in scores.values.items()
        if key[0] != BOTH
    }
    moved = bench.Scores(unseen)
    yield from bench.measurements(moved, ("transfer_top1",))
    yield from bench.findings(moved, f"{STYLISED} > {PLAIN}: transfer_top1")
    yield images_picture(run.settings.quick)


def _unseen(values: Mapping[str, np.ndarray | float], *, trained_stylised: bool) -> np.ndarray:
    """Whether a network is right on the images that it was not trained on, over the subsets that both kinds have."""
    return np.asarray(values["top1"])[: stylised.CELLS] if trained_stylised else np.asarray(values["stylised_top1"])


def local_features(run: Run) -> Iterator[Result]:
    """What small parts of an image are worth, with texture and without."""
    scores = bench.scores(run, contenders(), measure)
    yield from bench.findings(scores, f"{STYLISED} > {LOCAL_STYLISED}: stylised_top1", f"{PLAIN} > {LOCAL}: top1")


def robustness(run: Run) -> Iterator[Result]:
    """Accuracy under corruption, and what it costs on clean images."""
    scores = bench.scores(run, contenders(), measure)
    yield from bench.measurements(scores, ("corruption_top1",))
    yield from bench.findings(scores, f"{BOTH} > {PLAIN}: corruption_top1", f"{BOTH} = {PLAIN}: top1")
    yield bench.corruption_picture("corruptions", scores)


def adaptive_instance_normalisation(run: Run) -> Iterator[Result]:
    """What restyling does to features, on random ones."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    content = torch.randn(4, 8, 14, 14, generator=generator) * 3 + 1
    style = torch.randn(4, 8, 10, 12, generator=generator) * 0.5 - 2
    scale, shift = torch.rand(2, 4, 8, 1, 1, generator=generator) + 0.5
    restyled = adain(content, style)
    cases: dict[str, tuple[str, Tensor, Tensor]] = {
        "moments": (
            "Restyled features have the mean and deviation of the style's",
            torch.stack(moments(restyled)),
            torch.stack(moments(style)),
        ),
        "own_style": ("Features with their own style stay as they are", adain(content, content), content),
        "styles_of_content": (
            "The content's own style does not matter: its channels scaled and shifted give the same",
            adain(content * scale + shift, style),
            restyled,
        ),
    }
    for name, (statement, found, expected) in cases.items():
        error = float((found - expected).abs().max())
        yield Finding.exactly(
            name=name,
            statement=f"{statement}.",
            holds=error < ROUNDING,
            evidence=f"The largest difference is {error:.1e} (bound {ROUNDING:g}).",
            value=error,
        )


def shares_picture(scores: bench.Scores) -> Picture:
    """Shares of decisions by shape and by texture, a bar a network, as the paper's figure of shape bias."""
    names = list(scores.contenders)
    with figures.figure("decisions", width=7.0, height=2.6) as drawn:
        columns = (("by shape, %", "shape_share"), ("by texture, %", "texture_share"))
        for axis, (title, metric) in zip(drawn.subplots(1, 2, sharey=True), columns, strict=True):
            axis.barh(names, [scores.mean(name, metric) for name in names], color=figures.COLOURS[0])
            axis.set_title(title, fontsize=8)
        axis.invert_yaxis()  # of both
        svg = figures.to_svg(drawn)
    return Picture(
        name="decisions",
        caption="Decisions on cue conflicts, mean over seeds: the class of the shape, and the class of the texture.",
        svg=svg,
    )


def images_picture(quick: bool, shown: int = 8) -> Picture:
    """The first test images, plain and stylised."""
    plain, styled = bench.test_set(quick).clean[0, :shown, 0], stylised.test_images(quick)[0][0, :shown, 0]
    with figures.figure("stylised", width=shown, height=2.1) as drawn:
        for row, images in zip(drawn.subplots(2, shown), (plain, styled), strict=True):
            for axis, image in zip(row, images, strict=True):
                axis.imshow(image.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
        svg = figures.to_svg(drawn)
    return Picture(name="stylised", caption=f"The first {shown} test images, plain and stylised.", svg=svg)
