"""How TL-Align's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from common import bench
from common.measurement import Finding, Result
from common.profiling import compare_cost, ratio_finding, time_measurement
from common.run import Run
from papers.tl_align import fluctuation
from papers.tl_align.cost import steps
from papers.tl_align.method import align, token_labels
from papers.tl_align.training import hooks
from papers.transmix import claims as transmix

RECIPE = Path(__file__).with_name("recipe.toml")
HOST, CUTMIX, TRANSMIX, TLALIGN = "vit_mini", transmix.CUTMIX, transmix.TRANSMIX, "vit_mini+tl_align"
#: What "negligible" is taken to mean: the sources print no number.
COST_BOUND = 1.05


def contenders() -> list[bench.Contender]:
    """The host trained without mixing, with CutMix, with TransMix and with TL-Align."""
    others = [contender for contender in transmix.contenders() if contender.name in (HOST, CUTMIX, TRANSMIX)]
    return [*others, bench.Contender(TLALIGN, bench.hosts.vit_mini, hooks, recipe=RECIPE)]


def identity(run: Run) -> Iterator[Result]:
    """Labels whose way through attention is known."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    tokens, eye = 17, torch.eye(17, dtype=torch.float64)
    labels = torch.rand(2, tokens, 10, generator=generator, dtype=torch.float64).softmax(dim=2)
    maps = torch.randn(4, 2, 3, tokens, tokens, generator=generator, dtype=torch.float64).softmax(dim=4)
    aligned, itself, product = labels, labels, eye
    for attention in maps:
        aligned = align(aligned, attention)
        itself = align(itself, eye.expand(2, 3, -1, -1))
        product = (attention.mean(dim=1) + eye) / 2 @ product
    ones = torch.ones(2, tokens, dtype=torch.float64)
    yield _exact("distribution", "Labels of tokens stay distributions", aligned.sum(dim=2), ones)
    by_product = (
        "Labels after all blocks are those by the product of the blocks' matrices, half attention, half identity"
    )
    yield _exact("product", by_product, aligned, product @ labels)
    # The class token starts with CutMix's label, and the mean over patches is CutMix's label, too.
    yield _exact("identity", "Attention of each token to itself leaves CutMix's label as it is", itself, labels)

    model, mixup = bench.hosts.vit_mini().eval(), torch.full((2, 28, 28), 0.3)
    followed = token_labels(model)
    with torch.no_grad():
        model(torch.randn(2, 3, 28, 28, generator=generator))
    yield _exact("mixup", "Any attention leaves the labels of mixup", followed.take(mixup), torch.full((2,), 0.3))
    followed.close()


def _exact(name: str, statement: str, found: Tensor, expected: Tensor) -> Finding:
    error = float((found - expected).abs().max())
    return Finding.exactly(
        name=name,
        statement=f"{statement}.",
        holds=error < 1e-6,
        evidence=f"The largest difference is {error:.1e} (bound 1e-6).",
        value=error,
    )


def label_alignment(run: Run) -> Iterator[Result]:
    """Train a small vision transformer without mixing, with CutMix, TransMix and TL-Align; compare robustness."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores,
        f"{TLALIGN} > {CUTMIX}: top1",
        f"{TLALIGN} > {TRANSMIX}: top1",
        f"{TLALIGN} > {CUTMIX}: corruption_top1",
    )
    yield bench.difference_picture("label_alignment", scores, CUTMIX)


def token_fluctuation(run: Run) -> Iterator[Result]:
    """How far the mixing ratio of the output is from that of the input, by depth and over a training."""
    trained = {contender.name: contender for contender in contenders() if contender.name in (CUTMIX, TLALIGN)}
    scores = bench.scores(run, list(trained.values()), fluctuation.by_depth)
    yield from bench.measurements(scores, tuple(scores.cells(fluctuation.GAP)))
    # By each block as if by a contender of its own, in the network that is trained with CutMix.
    blocks = {name: f"block_{name.rpartition('/')[2]}" for name in scores.cells(fluctuation.GAP)}
    by_block = bench.Scores(
        {
            (block, seed): {"top1": values["top1"], fluctuation.GAP: values[name]}
            for name, block in blocks.items()
            for (contender, seed), values in scores.values.items()
            if contender == CUTMIX
        }
    )
    first, *_, last = blocks.values()
    yield from bench.findings(by_block, f"{first} > {last}: {fluctuation.GAP}")
    yield fluctuation.picture(scores, fluctuation.over_training(run, trained[TLALIGN]))


def cost(run: Run) -> Iterator[Result]:
    """Time of a training step of DeiT-Ti with CutMix and with TL-Align."""
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
    aligned = costs["tl_align"]
    memory = "" if aligned.memory_ratio is None else f", {aligned.memory_ratio:.3f} times its peak memory"
    yield ratio_finding(
        name="tl_align",
        statement="TL-Align costs at most 5 % more time a training step than CutMix.",
        ratio=aligned.time_ratio,
        bound=COST_BOUND,
        whose="CutMix's",
        rest=f"{memory}; DeiT-Ti, batch {len(images)} at 224 pixels on {device}",
    )
