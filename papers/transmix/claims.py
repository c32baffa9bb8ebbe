"""How TransMix's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from common import bench
from common.measurement import Finding, Result
from common.profiling import compare_cost, ratio_finding, time_measurement
from common.run import Run
from common.training.mixing import Mixed
from papers.transmix.cost import steps
from papers.transmix.experiment import share_errors
from papers.transmix.method import mix_labels
from papers.transmix.training import hooks

RECIPE = Path(__file__).with_name("recipe.toml")
HOST, CUTMIX, TRANSMIX, ATTENTION = (f"vit_mini{suffix}" for suffix in ("", "+cutmix", "+transmix", "+attention"))
#: What "next to nothing" is taken to mean: the sources print no number.
COST_BOUND = 1.05


def contenders() -> list[bench.Contender]:
    """The host trained without mixing, with CutMix, with TransMix, and with attention alone."""

    def mixing(name: str, *changes: str) -> bench.Contender:
        return bench.Contender(name, bench.hosts.vit_mini, hooks, changes, RECIPE)

    return [
        bench.host(HOST),
        mixing(CUTMIX, "method.label_mixing=area"),
        mixing(TRANSMIX),
        mixing(ATTENTION, "method.area_share=0.0"),
    ]


def identity(run: Run) -> Iterator[Result]:
    """Labels under three attentions that leave no doubt what they must be."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    mask = torch.zeros(3, 32, 32)
    mask[0, 8:24, 4:20], mask[1, :16], mask[2] = 1, 1, 0.3  # two boxes along patches of 4 pixels, and mixup
    first, second = (torch.rand(3, 10, generator=generator).softmax(dim=1) for _ in range(2))
    mixed = Mixed(first, second, mask)
    on_partner = nn.functional.avg_pool2d(mask, 4)
    even = torch.full((3, 8, 8), 1 / 64)
    cases = {
        "even": ("Even attention gives CutMix's label", mixed, even, mixed.labels(mixed.share)),
        "partner": (
            "Attention on the pasted image alone gives that image's label",
            Mixed(first[:2], second[:2], mask[:2]),
            on_partner[:2],
            second[:2],
        ),
        "mixup": (
            "Any attention leaves the labels of mixup",
            Mixed(first[2:], second[2:], mask[2:]),
            torch.rand(1, 8, 8, generator=generator),
            first[2:].lerp(second[2:], 0.3),
        ),
    }
    for name, (statement, batch, attention, expected) in cases.items():
        error = float((mix_labels(batch, attention, area_share=0.0) - expected).abs().max())
        yield Finding.exactly(
            name=name,
            statement=f"{statement}.",
            holds=error < 1e-6,
            evidence=f"The largest difference of a target is {error:.1e} (bound 1e-6).",
            value=error,
        )


def label_mixing(run: Run) -> Iterator[Result]:
    """Train a small vision transformer without mixing, with CutMix and with TransMix; compare robustness."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores,
        f"{TRANSMIX} > {CUTMIX}: top1",
        f"{TRANSMIX} > {CUTMIX}: corruption_top1",
        f"{TRANSMIX} > {CUTMIX}: occlusion_top1",
    )
    yield bench.difference_picture("label_mixing", scores, CUTMIX)
    yield bench.corruption_picture("corruptions", scores)


def visible_objects(run: Run) -> Iterator[Result]:
    """Compare shares of labels with the share of garment pixels that is seen in CutMix images."""
    trained = [contender for contender in contenders() if contender.name == TRANSMIX]
    measured = bench.scores(run, trained, share_errors)
    # By each share as if by a contender of its own, with the accuracy of the network that attends.
    shares = bench.Scores(
        {
            (share, seed): {"top1": values["top1"], "label_share_error": values[f"label_share_error/{share}"]}
            for share in ("area", "attention", "mean")
            for (_, seed), values in measured.values.items()
        }
    )
    yield from bench.measurements(shares, ("label_share_error",))
    yield from bench.findings(shares, "attention > area: label_share_error", "mean > area: label_share_error")


def attention_alone(run: Run) -> Iterator[Result]:
    """Train with the share by attention alone (Figure 1) beside the mean with the area (section 4.1)."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{TRANSMIX} > {ATTENTION}: top1", f"{TRANSMIX} > {ATTENTION}: corruption_top1")


def cost(run: Run) -> Iterator[Result]:
    """Time of a training step of DeiT-Ti with CutMix, with TransMix, and with the map computed as released."""
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
        if name == "cutmix":
            continue
        how = "with the row of the map that it needs" if name == "transmix" else "with the whole map, as released"
        memory = "" if comparison.memory_ratio is None else f", {comparison.memory_ratio:.3f} times its peak memory"
        yield ratio_finding(
            name=name,
            statement=f"TransMix {how} costs at most 5 % more time a training step than CutMix.",
            ratio=comparison.time_ratio,
            bound=COST_BOUND,
            whose="CutMix's",
            rest=f"{memory}; DeiT-Ti, batch {len(images)} at 224 pixels on {device}",
        )
