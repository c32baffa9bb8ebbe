"""How TransMix's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from common.measurement import Finding, Result
from common.profiling import compare_cost, ratio_finding, time_measurement
from common.robustness import embedded
from common.run import Run
from common.statistics import paired_interval
from common.training.mixing import Mixed
from common.training.recipe import load_recipe
from papers.transmix.cost import steps
from papers.transmix.experiment import ATTENTION, CUTMIX, PLAIN, TRANSMIX, contenders, share_errors
from papers.transmix.method import mix_labels

RECIPE = Path(__file__).with_name("recipe.toml")
#: What "next to nothing" is taken to mean: the sources print no number.
COST_BOUND = 1.05


def small_models() -> list[embedded.Contender]:
    """What ``./reproduce.sh compare`` puts beside the models of other papers, whose recipes need not mix images."""
    own = load_recipe(RECIPE, "embedded")
    mixing = tuple(f"{key}={getattr(own, key)}" for key in ("cutmix", "mix_probability", "mix_switch_probability"))
    return [replace(one, changes=(*mixing, *one.changes)) for one in contenders(PLAIN, CUTMIX, TRANSMIX)]


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
        "Even attention gives CutMix's label": (mixed, even, mixed.labels(mixed.share)),
        "Attention on the pasted image alone gives that image's label": (
            Mixed(first[:2], second[:2], mask[:2]),
            on_partner[:2],
            second[:2],
        ),
        "Any attention leaves the labels of mixup": (
            Mixed(first[2:], second[2:], mask[2:]),
            torch.rand(1, 8, 8, generator=generator),
            first[2:].lerp(second[2:], 0.3),
        ),
    }
    for statement, (batch, attention, expected) in cases.items():
        error = float((mix_labels(batch, attention, area_share=0.0) - expected).abs().max())
        yield Finding(
            statement=f"{statement}.",
            verdict="holds" if error < 1e-6 else "does not hold",
            evidence=f"The largest difference of a target is {error:.1e} (bound 1e-6).",
            value=error,
            exact=True,
        )


def label_mixing(run: Run) -> Iterator[Result]:
    """Train a small vision transformer without mixing, with CutMix and with TransMix; compare robustness."""
    table = embedded.compare(run, contenders(PLAIN, CUTMIX, TRANSMIX), RECIPE)
    yield from embedded.measurements(table, run.settings.quick)
    against = table.drop(index=PLAIN, level="model")
    yield from embedded.more_robust(against, CUTMIX, ("top1", *embedded.ROBUSTNESS_METRICS))
    yield embedded.difference_picture("label_mixing", table, CUTMIX)
    yield embedded.corruption_picture("corruptions", table)


def visible_objects(run: Run) -> Iterator[Result]:
    """Compare shares of labels with the share of garment pixels that is seen in CutMix images."""
    measure = partial(share_errors, quick=run.settings.quick)
    table = embedded.table_of(run, contenders(CUTMIX, TRANSMIX), RECIPE, measure)
    for name in (CUTMIX, TRANSMIX):
        errors = table.loc[name]
        for share in ("attention", "mean"):
            estimate = paired_interval(list(errors["area"]), list(errors[share]))
            what = "attention" if share == "attention" else "the mean of area and attention"
            finding = embedded.difference_finding(
                f"In {name} the share by {what} is nearer than the area to how much of a garment is seen.",
                estimate,
                len(errors),
            )
            yield finding


def attention_alone(run: Run) -> Iterator[Result]:
    """Train with the share by attention alone (Figure 1) beside the mean with the area (section 4.1)."""
    table = embedded.compare(run, contenders(TRANSMIX, ATTENTION), RECIPE)
    yield from embedded.measurements(table.drop(index=TRANSMIX, level="model"), run.settings.quick)
    for metric in ("top1", *embedded.ROBUSTNESS_METRICS):
        estimate = embedded.differences(table, ATTENTION, metric)[TRANSMIX]
        statement = f"The mean of area and attention gives a higher {metric} than attention alone."
        yield embedded.difference_finding(statement, estimate, len(table.loc[TRANSMIX]))
    yield embedded.difference_picture("attention_alone", table, ATTENTION)


def cost(run: Run) -> Iterator[Result]:
    """Time of a training step of DeiT-Ti with CutMix, with TransMix, and with the map computed as released."""
    device = torch.device(run.settings.device)
    images = torch.randn(2 if run.settings.quick else 8, 3, 224, 224, device=device)
    costs = compare_cost(
        steps(images),
        baseline="cutmix",
        device=device,
        rounds=3 if run.settings.quick else 9,
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
            f"TransMix {how} costs at most 5 % more time a training step than CutMix.",
            comparison.time_ratio,
            COST_BOUND,
            whose="CutMix's",
            rest=f"{memory}; DeiT-Ti, batch {len(images)} at 224 pixels on {device}",
        )
