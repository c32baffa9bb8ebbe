"""How SMMix's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from common import bench
from common.measurement import Finding, Result
from common.profiling import compare_cost, ratio_finding, time_measurement
from common.run import Run
from papers.smmix import mixtures
from papers.smmix.cost import steps
from papers.smmix.method import consistency_loss, corners, fine_grained_loss, paste, window_attention
from papers.smmix.model import TokenHeadViT
from papers.smmix.training import hooks
from papers.transmix import claims as transmix

RECIPE = Path(__file__).with_name("recipe.toml")
HOST, CUTMIX, TRANSMIX, SMMIX = "vit_mini", transmix.CUTMIX, transmix.TRANSMIX, "vit_mini+smmix"
#: Each part that is left out, by the recipe's key.
WITHOUT = {f"{SMMIX}.without_{part}": f"method.{part}=false" for part in ("max_min", "fine_grained", "consistency")}
#: What "cheap" is taken to mean: the sources print no number. A forward pass is a third of a training step.
COST_BOUND = 1.5


def contenders() -> list[bench.Contender]:
    """The host without mixing, with CutMix, with TransMix, with SMMix and with SMMix less each of its parts."""
    build = partial(bench.hosts.vit_mini, kind=TokenHeadViT)
    others = [contender for contender in transmix.contenders() if contender.name in (HOST, CUTMIX, TRANSMIX)]
    own = {SMMIX: (), **{name: (change,) for name, change in WITHOUT.items()}}
    return [*others, *(bench.Contender(name, build, hooks, changes, RECIPE) for name, changes in own.items())]


def identity(run: Run) -> Iterator[Result]:
    """Regions that are found by trying all of them, and losses whose value is known."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    attention, side = torch.rand(4, 7, 7, generator=generator), 3
    scores = window_attention(attention, side)
    tried = attention.unfold(1, side, 1).unfold(2, side, 1).sum(dim=(3, 4)).flatten(1)
    found = torch.stack([row * 5 + column for row, column in (corners(scores, True), corners(scores, False))])
    expected = torch.stack((tried.argmax(dim=1), tried.argmin(dim=1)))
    yield _exact("regions", "The regions are those of most and of least attention", found.float(), expected.float())

    images = torch.randn(4, 3, 28, 28, generator=generator)
    source, target = corners(scores, True), corners(scores, False)
    mixed, mask = paste(images, source, target, side, (7, 7))
    rest = mixed * (1 - mask[:, None]) - images * (1 - mask[:, None])
    cut = torch.stack([_window(images.flip(0)[i], source[0].flip(0)[i], source[1].flip(0)[i]) for i in range(4)])
    pasted = torch.stack([_window(mixed[i], target[0][i], target[1][i]) for i in range(4)])
    yield _exact("pasted", "The partner's region is pasted whole", pasted, cut)
    yield _exact("rest", "All else of the image stays", rest, torch.zeros_like(rest))
    share = mask.mean(dim=(1, 2))
    yield _exact("share", "The partner's share is that of the region's patches", share, torch.full((4,), 9 / 49))

    logits = torch.randn(4, 10, generator=generator)
    mixture = logits.lerp(logits.flip(0), share[:, None])
    agreeing = consistency_loss(mixture, logits, share)
    yield _exact("consistency", "An output that is the mixture of both costs nothing", agreeing, torch.tensor(0.0))
    labels = logits.softmax(dim=1)
    patches = labels.log()[:, None].expand(-1, 49, -1)
    at_patches = mask[:, ::4, ::4].flatten(1)
    tokens = patches.lerp(patches.flip(0), at_patches[:, :, None])
    fine = fine_grained_loss(tokens, at_patches, torch.nn.Identity(), labels, labels.flip(0))
    entropy = -(labels * labels.log()).sum(dim=1).mean()
    yield _exact("fine_grained", "Patches that know their own image cost the entropy of its label", fine, entropy)


def _window(image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Three by three patches of 4 pixels of an image (3, 28, 28)."""
    return image[:, 4 * int(row) : 4 * int(row) + 12, 4 * int(column) : 4 * int(column) + 12]


def _exact(name: str, statement: str, found: Tensor, expected: Tensor) -> Finding:
    error = float((found - expected).abs().max())
    return Finding.exactly(
        name=name,
        statement=f"{statement}.",
        holds=error < 1e-6,
        evidence=f"The largest difference is {error:.1e} (bound 1e-6).",
        value=error,
    )


def self_motivation(run: Run) -> Iterator[Result]:
    """Train a small vision transformer without mixing, with CutMix, TransMix and SMMix; compare robustness."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores,
        f"{SMMIX} > {CUTMIX}: top1",
        f"{SMMIX} > {TRANSMIX}: top1",
        f"{SMMIX} > {CUTMIX}: corruption_top1",
    )
    yield bench.difference_picture("self_motivation", scores, CUTMIX)
    (own,) = (contender for contender in contenders() if contender.name == SMMIX)
    yield mixtures.picture(bench.trained(run, own, run.settings.seed), own.settings(), run.settings.quick)


def parts(run: Run) -> Iterator[Result]:
    """SMMix and what is left of it without each of its parts."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, *(f"{SMMIX} > {without}: top1" for without in WITHOUT))


def cost(run: Run) -> Iterator[Result]:
    """Time of a training step of DeiT-Ti on a batch that is mixed with CutMix and with SMMix."""
    device = torch.device(run.settings.device)
    images = torch.randn(2 if run.settings.quick else 4, 3, 224, 224, device=device)
    costs = compare_cost(
        steps(images),
        baseline="cutmix",
        device=device,
        rounds=6 if run.settings.quick else 15,
        warmup=1,
        memory=not run.settings.quick,
        description="timing training steps",
    )
    for name, comparison in costs.items():
        yield time_measurement(f"deit_tiny_patch16_224.{name}", "training_step_time", comparison.cost, len(images), 224)
    memory = "" if costs["smmix"].memory_ratio is None else f", {costs['smmix'].memory_ratio:.3f} times its peak memory"
    yield ratio_finding(
        name="smmix",
        statement="On a batch that is mixed by regions SMMix costs at most half of a training step more than CutMix.",
        ratio=costs["smmix"].time_ratio,
        bound=COST_BOUND,
        whose="CutMix's",
        rest=f"{memory}; DeiT-Ti, batch {len(images)} at 224 pixels on {device}",
    )
