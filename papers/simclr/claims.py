"""How SimCLR's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import timm
import torch
import torch.nn.functional as F

from common import bench, figures
from common.bench.inference import findings
from common.bench.scores import Scores
from common.measurement import Finding, Measurement, Picture, Result
from common.profiling import count
from common.run import Run
from common.shapes import shapes_only
from papers.simclr.experiment import Encoder, probe
from papers.simclr.method import nt_xent
from papers.simclr.model import VARIANTS
from papers.simclr.released import BASE
from papers.simclr.training import hooks

RECIPE = Path(__file__).with_name("recipe.toml")
SUPERVISED = "resnet_mini"
SIMCLR, CROP, JITTER, RANDOM = (f"resnet_mini.{name}" for name in ("simclr", "simclr_crop", "simclr_jitter", "random"))
PROBE = "linear_probe_top1"
LABELS = {"1pct": "1 %", "10pct": "10 %"}


def contenders() -> list[bench.Contender]:
    """The encoder trained with labels, without them, without them by one augmentation alone, and not at all."""

    def pretrained(name: str, *changes: str) -> bench.Contender:
        return bench.Contender(name, Encoder, hooks, changes, RECIPE)

    # Without a rate, training gives the random weights the batch statistics of the data and nothing else.
    still = (
        "learning_rate=0.0",
        "warmup_learning_rate=0.0",
        "min_learning_rate=0.0",
        "total_batch=64",
        "epoch_images=3200",
    )
    return [
        bench.host(SUPERVISED),
        pretrained(SIMCLR),
        pretrained(CROP, "method.colour_probability=0.0"),
        pretrained(JITTER, "train_crop=none"),
        bench.Contender(RANDOM, bench.hosts.resnet_mini, changes=still),
    ]


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
    reordered = torch.cat([views[:count][order], views[count:][order]])
    checks = {
        "definition": ("is the mean over all views of Eq. 1, term by term", sum(terms) / len(terms)),
        "pairs": ("does not depend on the order of the pairs", float(nt_xent(reordered, temperature))),
        "views": ("does not depend on which view is the first", float(nt_xent(views.roll(count, 0), temperature))),
        "scale": ("does not depend on the scale of the embeddings", float(nt_xent(scale * views, temperature))),
    }
    for name, (statement, other) in checks.items():
        error = abs(value - other) / abs(other)
        yield Finding.exactly(
            name=name,
            statement=f"NT-Xent {statement}.",
            holds=error < 1e-6,
            evidence=f"{value:.7f} and {other:.7f}, {error:.1e} apart (bound 1e-6), {2 * count} views.",
            value=error,
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
    scores = bench.scores(run, contenders(), probe)
    yield from bench.measurements(scores, scores.metrics)
    # The networks are judged by their features, not by a classifier of their own: what the bench asks of those does
    # not apply.
    yield from findings(
        scores,
        *(f"{SIMCLR} > {RANDOM}: {metric}" for metric in scores.metrics),
        *(f"{SIMCLR} > {SUPERVISED}: {metric}" for metric in scores.metrics),
    )
    yield _picture(scores)


def augmentation_composition(run: Run) -> Iterator[Result]:
    """Pre-train with crops and distortion of colours, and with either alone; probe with 10 % of the labels."""
    scores = bench.scores(run, contenders(), probe)
    yield from findings(scores, *(f"{SIMCLR} > {single}: {PROBE}/10pct" for single in (CROP, JITTER)))


def _picture(scores: Scores) -> Picture:
    panels: dict[str, dict[str, tuple[float, float, float]]] = {}
    for measured in bench.measurements(scores, scores.metrics):
        low, high = measured.interval or (measured.value, measured.value)
        share = LABELS[measured.metric.partition("/")[2]]
        panels.setdefault(f"{share} of the labels", {})[measured.model] = (measured.value, low, high)
    seeds = len(scores.seeds)
    bars = "one seed, no interval" if seeds == 1 else f"bars are 95 % intervals over {seeds} seeds and over images"
    return Picture(
        name="linear_probe",
        caption=f"Linear probe on frozen features, top-1 accuracy; {bars}.",
        svg=figures.intervals("linear_probe", panels, xlabel="top-1 accuracy, %"),
    )
