"""How the claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from common import bench
from common.bench import autoencoder
from common.figures import figure, to_svg
from common.measurement import Finding, FindingVerdict, Picture, Result
from common.robustness.evaluation import Execution, evaluate
from common.robustness.full_scale_measures import load_model
from common.run import Run
from papers.augmix import claims as augmix
from papers.augmix.training import hooks as augmix_hooks
from papers.imagenet_r import distortions
from papers.imagenet_r.draws import Draws
from papers.imagenet_r.experiment import LAYERS, SHIFTS, deepaugmented, distorted, measure
from papers.imagenet_r.noise2net import Noise2Net

RECIPE = Path(__file__).with_name("recipe.toml")
PLAIN, AUGMIX = augmix.HOST, augmix.AUGMIX
DEEP, BOTH = "resnet_mini+deepaugment", "resnet_mini+deepaugment+augmix"
ROUNDING = 1e-5


def contenders() -> list[bench.Contender]:
    """The residual network trained plainly, with AugMix, with DeepAugment, and with both."""
    (with_augmix,) = (contender for contender in augmix.contenders() if contender.name == AUGMIX)
    host = bench.hosts.resnet_mini
    return [
        bench.host(PLAIN),
        with_augmix,
        bench.Contender(DEEP, host, data=deepaugmented),
        bench.Contender(BOTH, host, augmix_hooks, recipe=augmix.RECIPE, data=deepaugmented),
    ]


def many_faces(run: Run) -> Iterator[Result]:
    """Each method under each shift: whether one is the best under all, and how alike their rankings are."""
    scores = bench.scores(run, contenders(), measure)
    yield from bench.measurements(scores, ("top1", *SHIFTS))
    yield best_everywhere(scores)
    yield bench.difference_picture("shifts", scores, PLAIN, ("top1", *SHIFTS))


def best_everywhere(scores: bench.Scores) -> Finding:
    """Whether a method is the best under every shift, by intervals of single differences.

    ``holds``: each method is worse than another under some shift. ``does not hold``: one is better than all others
    under all shifts.
    """
    methods = [name for name in scores.contenders if name != PLAIN]
    beaten: dict[str, str] = {}
    better_everywhere = []
    for method in methods:
        wins = True
        for shift in SHIFTS:
            for other in scores.contenders:
                if other == method:
                    continue
                gap = bench.difference(scores, other, method, shift)
                wins = wins and gap.high < 0
                if gap.low > 0:
                    beaten.setdefault(method, f"{method} by {other} ({shift})")
        if wins:
            better_everywhere.append(method)
    verdict: FindingVerdict = "unclear"
    if len(beaten) == len(methods):
        verdict = "holds"
    elif better_everywhere:
        verdict = "does not hold"
    correlation, count = rank_correlation(scores), len(scores.seeds)
    found = "; ".join(beaten.values()) or "none"
    return Finding(
        name="no_method_on_all",
        statement="No method is the best under every shift.",
        verdict=verdict,
        evidence=(
            f"Beaten with 95 % confidence: {found}. Spearman's rank correlation of the methods between two shifts is "
            f"{correlation:.2f}, averaged over pairs ({count} {'seed' if count == 1 else 'seeds'})."
        ),
        value=correlation,
        seeds=count,
    )


def rank_correlation(scores: bench.Scores) -> float:
    """Spearman's rank correlation of the contenders' means, averaged over pairs of shifts."""
    means = {shift: [scores.mean(name, shift) for name in scores.contenders] for shift in SHIFTS}
    found = [scipy.stats.spearmanr(means[one], means[other]).statistic for one, other in combinations(SHIFTS, 2)]
    return float(np.mean(found))


def deepaugment(run: Run) -> Iterator[Result]:
    """What distorted copies bring under corruption and other shifts, and what they cost on clean images."""
    scores = bench.scores(run, contenders(), measure)
    yield from bench.findings(
        scores,
        f"{DEEP} > {PLAIN}: corruption_top1",
        f"{DEEP} > {PLAIN}: stylised_top1",
        f"{DEEP} = {PLAIN}: top1",
    )
    yield bench.corruption_picture("corruptions", scores)
    yield distorted_picture(run.settings.quick)


def complementary(run: Run) -> Iterator[Result]:
    """AugMix and DeepAugment together against each alone."""
    scores = bench.scores(run, contenders(), measure)
    yield from bench.findings(scores, f"{BOTH} > {AUGMIX}: corruption_top1", f"{BOTH} > {DEEP}: corruption_top1")


def distortion(run: Run) -> Iterator[Result]:
    """Every weight distortion on the bench's autoencoder, and Noise2Net's images."""
    network = autoencoder.autoencoder()
    plain = dict(network.state_dict())
    unchanged, elsewhere, misshapen = [], [], []
    for option, change in enumerate(distortions.OF_CAE):
        state = dict(plain)
        change(state, LAYERS, Draws(run.settings.seed))
        changed = {name for name in state if not torch.equal(state[name], plain[name])}
        if not changed:
            unchanged.append(option)
        if any(name.rpartition(".")[0] not in LAYERS for name in changed):
            elsewhere.append(option)
        if any(state[name].shape != plain[name].shape for name in state):
            misshapen.append(option)
    wrong = len(unchanged) + len(elsewhere) + len(misshapen)
    yield Finding.exactly(
        name="weights",
        statement="Each distortion changes weights of the layers that it may choose, no others, and no shape.",
        holds=wrong == 0,
        evidence=f"Of {len(distortions.OF_CAE)} distortions {len(unchanged)} change nothing, {len(elsewhere)} change "
        f"other layers, {len(misshapen)} a shape.",
        value=float(wrong),
    )
    torch.manual_seed(run.settings.seed)
    noise, images = Noise2Net(3, Draws(run.settings.seed), hidden=8), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        together = noise(images, 0.5)
        others = noise(torch.cat([torch.randn(1, 3, 16, 16), images[1:]]), 0.5)
    apart = float((together[1:] - others[1:]).abs().max())
    yield Finding.exactly(
        name="images_apart",
        statement="What Noise2Net makes of an image does not depend on the other images of the batch.",
        holds=apart < ROUNDING,
        evidence=f"The largest difference when another image changes is {apart:.1e} (bound {ROUNDING:g}).",
        value=apart,
    )


def real_blurry_images(run: Run) -> Iterator[Result]:
    """The user's checkpoint on pictures in class folders, named by WordNet ids."""
    model, name, weights = load_model(run)
    yield from evaluate(
        model,
        "images",
        run.settings.folders["real-blurry-images"],
        model_name=name,
        weights=weights,
        execution=Execution.of(run.settings),
        output=run.folder / "evaluation",
    )


def distorted_picture(quick: bool, shown: int = 8, draws: int = 5) -> Picture:
    """The first test images, and what comes out of differently distorted networks."""
    images = bench.test_set(quick).clean[0, :shown, 0]
    rows = [images, *(distorted(images, Draws(number)) for number in range(draws))]
    with figure("distorted", width=shown, height=1.02 * len(rows)) as drawn:
        for axes, row in zip(drawn.subplots(len(rows), shown), rows, strict=True):
            for axis, image in zip(axes, row, strict=True):
                axis.imshow(image.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
        svg = to_svg(drawn)
    return Picture(
        name="distorted",
        caption=f"The first {shown} test images, and below what {draws} distorted networks make of them.",
        svg=svg,
    )
