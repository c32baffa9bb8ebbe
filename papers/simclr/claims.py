"""How SimCLR's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from torch import nn

from common import figures
from common.bench.inference import findings
from common.bench.scores import Scores
from common.measurement import Finding, Measurement, Picture, Result
from common.profiling import count
from common.robustness import embedded
from common.run import Run
from common.shapes import shapes_only
from common.statistics import mean_interval, paired_interval
from common.training.recipe import Recipe
from common.verdicts import mean_measurement
from papers.simclr import composition
from papers.simclr.experiment import PRETRAINED, RANDOM, SHARES, SUPERVISED, VALIDATION, contenders, garments, probe
from papers.simclr.method import nt_xent
from papers.simclr.model import VARIANTS
from papers.simclr.released import BASE

RECIPE = Path(__file__).with_name("recipe.toml")
PROTOCOL = "simclr-embedded/1 logistic regression on frozen features"
LABELS = {"1pct": "1 %", "10pct": "10 %", "all": "all"}


def loss(run: Run) -> Iterator[Result]:
    """NT-Xent against the definition written out view by view, and what it must not depend on."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    count, temperature = 16, 0.3
    views = torch.randn(2 * count, 24, generator=generator, dtype=torch.float64)
    value = float(nt_xent(views, temperature))
    unit = F.normalize(views, dim=1)
    terms = []
    for i in range(2 * count):
        scores = [float(unit[i] @ unit[k]) / temperature for k in range(2 * count)]
        others = torch.tensor(scores[:i] + scores[i + 1 :], dtype=torch.float64).logsumexp(0)
        terms.append(float(others) - scores[(i + count) % (2 * count)])
    order = torch.randperm(count, generator=generator)
    scale = torch.rand(2 * count, 1, generator=generator, dtype=torch.float64) + 0.5
    checks = {
        "NT-Xent is the mean over all views of Eq. 1, term by term": sum(terms) / len(terms),
        "NT-Xent does not depend on the order of the pairs": float(
            nt_xent(torch.cat([views[:count][order], views[count:][order]]), temperature)
        ),
        "NT-Xent does not depend on which view is the first": float(nt_xent(views.roll(count, 0), temperature)),
        "NT-Xent does not depend on the scale of the embeddings": float(nt_xent(scale * views, temperature)),
    }
    for statement, other in checks.items():
        error = abs(value - other) / abs(other)
        yield Finding(
            statement=f"{statement}.",
            verdict="holds" if error < 1e-6 else "does not hold",
            evidence=f"{value:.7f} and {other:.7f}, {error:.1e} apart (bound 1e-6), {2 * count} views.",
            value=error,
            exact=True,
        )


def model_size(name: str) -> Iterator[Measurement]:
    """Parameters of all of a network, and of its base network as the release counts them."""
    if VARIANTS[name].get("kept_layers"):
        return  # the same tensors as the network that it is fine-tuned from
    with shapes_only():
        model = timm.create_model(name)
    whole, operations = count(model, name)
    yield replace(whole, protocol=f"{whole.protocol}, classifier and projection head included")
    yield operations
    base = [(key, t) for key, t in model.state_dict().items() if key.partition(".")[0] in BASE]
    yield replace(
        whole,
        model=f"{name}.base_network",
        value=sum(t.numel() for key, t in base if not key.endswith("num_batches_tracked")) / 1e6,
        protocol="params/1 base network without heads, moving statistics of batch norm included",
        detail={},
    )


def pretraining(run: Run) -> Iterator[Result]:
    """A linear probe on features learnt without labels, with all labels, and not at all."""
    table = embedded.table_of(run, contenders(), RECIPE, _probe_quick if run.settings.quick else _probe, garments)
    shares = [str(column).partition("/")[2] for column in table]
    for name in table.index.unique("model"):
        for share in shares:
            yield mean_measurement(
                list(table.loc[name][f"top1/{share}"]),
                model=f"{name}.{share}",
                dataset=embedded.DATASET,
                metric="top1",
                unit="%",
                weights="trained",
                n=10000 - VALIDATION,
                protocol=f"{PROTOCOL}, {SHARES[share]} labels",
            )
    for share in shares:
        column = f"top1/{share}"
        for better, worse, what in (
            (PRETRAINED, RANDOM, "Features pre-trained without labels are better than random ones"),
            (
                PRETRAINED,
                SUPERVISED,
                "Features pre-trained without labels are better than those trained with all labels",
            ),
        ):
            estimate = paired_interval(list(table.loc[better][column]), list(table.loc[worse][column]))
            yield embedded.difference_finding(
                f"{what}, by a linear probe with {LABELS[share]} of the labels.", estimate, len(table.loc[better])
            )
    yield _picture(table, shares)


def augmentation_composition(run: Run) -> Iterator[Result]:
    """Pre-train with single augmentations and with pairs; probe with 10 % of the labels.

    The composition that is tested against all single augmentations is SimCLR's own, whatever came out best here.
    """
    pairs = composition.contenders(run.settings.quick)
    table = embedded.table_of(run, list(pairs.values()), RECIPE, _probe_few, garments)
    scores = {pair: list(table.loc[contender.name]["top1/10pct"]) for pair, contender in pairs.items()}
    for pair, contender in pairs.items():
        yield mean_measurement(
            scores[pair],
            model=contender.name,
            dataset=embedded.DATASET,
            metric="top1",
            unit="%",
            weights="trained",
            n=10000 - VALIDATION,
            protocol=f"{PROTOCOL}, {SHARES['10pct']} labels",
        )
    by_seed = {
        (contender.name, seed): {"top1": np.array(value / 100)}
        for pair, contender in pairs.items()
        for seed, value in zip(run.seeds(), scores[pair], strict=True)
    }
    composed = pairs[composition.OWN].name
    singles = [contender.name for (first, second), contender in pairs.items() if first == second]
    yield from findings(Scores(by_seed), *(f"{composed} > {single}: top1" for single in singles))
    yield composition.heat_map(table, "top1/10pct")


def _probe(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    return probe(model, recipe, tuple(SHARES))


def _probe_quick(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    return probe(model, recipe, ("1pct", "10pct"))


def _probe_few(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    return probe(model, recipe, ("10pct",))


def _picture(table: pd.DataFrame, shares: list[str]) -> Picture:
    panels = {}
    for share in shares:
        rows = {}
        for name in (PRETRAINED, SUPERVISED, RANDOM):
            estimate = mean_interval(list(table.loc[name][f"top1/{share}"]))
            low, high = estimate.interval or (estimate.value, estimate.value)
            rows[name] = (estimate.value, low, high)
        panels[f"{LABELS[share]} of the labels"] = rows
    seeds = table.index.get_level_values("seed").nunique()
    return Picture(
        name="linear_probe",
        caption=f"Linear probe on frozen features, top-1 accuracy; bars are 95 % intervals over {seeds} seeds.",
        svg=figures.intervals("linear_probe", panels, xlabel="top-1 accuracy, %"),
    )
