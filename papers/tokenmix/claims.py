"""How TokenMix's claims are measured."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from common import bench
from common.bench.inference import measurements
from common.measurement import Finding, Result
from common.run import Run
from papers.tokenmix import foreground, mixtures
from papers.tokenmix.method import block_region, mix_labels, token_count, visible_scores
from papers.tokenmix.training import hooks
from papers.transmix import claims as transmix

RECIPE = Path(__file__).with_name("recipe.toml")
HOST, CUTMIX, TEACHER = "vit_mini", transmix.CUTMIX, "resnet_mini"
TOKENMIX, BY_AREA = "vit_mini+tokenmix", "vit_mini+tokenmix.area"
#: Regions that are drawn to count their parts.
REGIONS = 1000


def contenders() -> list[bench.Contender]:
    """The host without mixing, with CutMix, and with TokenMix, its labels by area and by the teacher; the teacher."""
    teacher = bench.host(TEACHER)
    cutmix = next(contender for contender in transmix.contenders() if contender.name == CUTMIX)
    build = bench.hosts.vit_mini
    return [
        bench.host(HOST),
        teacher,
        cutmix,
        bench.Contender(TOKENMIX, build, hooks, recipe=RECIPE, teacher=teacher),
        bench.Contender(BY_AREA, build, hooks, ("method.label_mixing=area",), RECIPE),
    ]


def identity(run: Run) -> Iterator[Result]:
    """Labels whose value follows from the activation, and the regions that are drawn."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    region = torch.zeros(8, 8)
    region[1:5, 2:4], region[6:, 5:] = 1, 1
    labels, share = torch.tensor([0, 1, 2, 3]), float(region.mean())
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    even, maps = torch.full((4, 8, 8), 0.3), torch.rand(4, 8, 8, generator=generator)
    inside = region * maps
    # The object of image 0 lies inside the region, that of its partner, image 3, outside, and so on.
    objects = torch.stack((inside[0], inside[1], maps[2] * (1 - region), maps[3] * (1 - region)))
    hidden = torch.zeros_like(one_hot)
    both = one_hot + one_hot.flip(0)
    area = one_hot.lerp(one_hot.flip(0), share)
    cases: dict[str, tuple[str, Tensor, Tensor]] = {
        "even": ("An even activation gives the label by area", _targets(even, region, labels), area),
        "visible": (
            "As released, the label names both images in full where all of both objects is seen, and neither where "
            "nothing is",
            _targets(objects, region, labels),
            torch.stack((hidden[0], hidden[1], both[2], both[3])),
        ),
        "normalised": (
            "The scores that are divided by their sum make a label of sum 1",
            _targets(maps, region, labels, normalised=True).sum(dim=1),
            torch.ones(4),
        ),
    }
    for name, (statement, found, expected) in cases.items():
        error = float((found - expected).abs().max())
        yield Finding.exactly(
            name, f"{statement}.", error < 1e-6, f"The largest difference is {error:.1e} (bound 1e-6).", error
        )
    yield from _regions(run.settings.seed)


def _targets(maps: Tensor, region: Tensor, labels: Tensor, *, normalised: bool = False) -> Tensor:
    return mix_labels(labels, *visible_scores(maps, region, normalised), classes=5)


def _regions(seed: int) -> Iterator[Finding]:
    """How large regions are, and into how many parts without a common side they fall."""
    grid, draws = (14, 14), random.Random(seed)
    count = token_count(grid, 0.5, 14)
    regions = [block_region(grid, count, draws) for _ in range(REGIONS)]
    sizes, parts = [int(region.sum()) for region in regions], [ndimage.label(region)[1] for region in regions]
    complete = np.mean([size == count for size in sizes])
    yield Finding.exactly(
        "size",
        f"A region never has more than the {count} of 196 tokens that are asked for, and nine of ten have all.",
        max(sizes) <= count and bool(complete >= 0.9),
        f"{100 * complete:.1f} % of {REGIONS} regions have all; the smallest has {min(sizes)}.",
        float(complete),
    )
    several = float(np.mean([number > 1 for number in parts]))
    yield Finding.exactly(
        "parts",
        "More than half of the regions have several separate parts, where CutMix's have one.",
        several > 0.5,
        f"{100 * several:.1f} % of {REGIONS} regions have more than one part; {np.mean(parts):.2f} on average.",
        several,
    )


def token_mixing(run: Run) -> Iterator[Result]:
    """Train a small vision transformer without mixing, with CutMix and with TokenMix; compare robustness."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores,
        f"{TOKENMIX} > {CUTMIX}: top1",
        f"{TOKENMIX} > {CUTMIX}: occlusion_top1",
        f"{TOKENMIX} > {CUTMIX}: corruption_top1",
    )
    yield bench.difference_picture("token_mixing", scores, CUTMIX)


def teacher_labels(run: Run) -> Iterator[Result]:
    """TokenMix with the label by the teacher's activation and by area; a picture of both."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{TOKENMIX} > {BY_AREA}: top1", f"{TOKENMIX} > {BY_AREA}: occlusion_top1")
    own = {contender.name: contender for contender in contenders()}
    teacher = bench.trained(run, own[TEACHER], run.settings.seed)
    yield mixtures.picture(teacher, own[TOKENMIX].settings(quick=run.settings.quick), run.settings.quick)


def foreground_attention(run: Run) -> Iterator[Result]:
    """Share of the class token's attention on the garment of a cluttered canvas."""
    networks = [contender for contender in contenders() if contender.name != TEACHER]
    scores = bench.scores(run, networks, foreground.shares)
    yield from measurements(scores, (foreground.CLEAN,), dataset=foreground.DATASET, protocol=foreground.PROTOCOL)
    yield from bench.findings(scores, f"{TOKENMIX} > {CUTMIX}: {foreground.CLEAN}")
