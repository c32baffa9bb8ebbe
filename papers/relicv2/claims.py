"""How the claims on ReLICv2 are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import timm
import torch
import torch.nn.functional as F

from common import bench, figures
from common.bench.inference import findings, measurements
from common.measurement import Finding, Measurement, Picture, Result
from common.profiling import count
from common.run import Run
from common.shapes import shapes_only
from papers.relicv2.experiment import DATASET, PROTOCOL, canvases, masked_canvases, probe
from papers.relicv2.method import negatives, relic_terms, without_background
from papers.relicv2.training import hooks
from papers.simclr.claims import RECIPE as SIMCLR_RECIPE
from papers.simclr.experiment import Encoder
from papers.simclr.released import BASE
from papers.simclr.training import hooks as simclr_hooks

RECIPE = Path(__file__).with_name("recipe.toml")
SUPERVISED, SIMCLR, RELIC, RELICV2 = (f"resnet_mini.canvas_{name}" for name in ("labels", "simclr", "relic", "relicv2"))
PROBE, CORRUPTED, CLUTTERED = "linear_probe_top1", "corrupted_probe_top1", "cluttered_probe_top1"


def contenders() -> list[bench.Contender]:
    """The bench's residual network trained on canvases with labels, by SimCLR, ReLIC and ReLICv2."""
    # Without small views, as many passes allow three more steps out of twenty.
    two_views = ("method.small_views=0", "method.mask_probability=0.0", "epoch_images=19200")
    return [
        bench.Contender(SUPERVISED, bench.hosts.resnet_mini, data=canvases),
        bench.Contender(SIMCLR, Encoder, simclr_hooks, recipe=SIMCLR_RECIPE, data=canvases),
        bench.Contender(RELIC, Encoder, hooks, two_views, RECIPE, canvases),
        bench.Contender(RELICV2, Encoder, hooks, recipe=RECIPE, data=masked_canvases),
    ]


def supervised(run: Run) -> Iterator[Result]:
    """Linear probes on features learnt without labels, and with all of them, by a network of the same size."""
    scores = bench.scores(run, contenders(), probe)
    yield from measurements(scores, dataset=DATASET, protocol=f"{bench.PROTOCOL}, {PROTOCOL}")
    # Judged by features, not by classifiers of their own: what the bench asks of those does not apply.
    yield from findings(scores, f"{RELICV2} > {SUPERVISED}: {PROBE}")
    yield _picture(scores)


def ingredients(run: Run) -> Iterator[Result]:
    """The same probes: the invariance loss, and masks with small views."""
    scores = bench.scores(run, contenders(), probe)
    yield from findings(
        scores, f"{RELICV2} > {SIMCLR}: {PROBE}", f"{RELIC} > {SIMCLR}: {PROBE}", f"{RELICV2} > {RELIC}: {PROBE}"
    )


def robustness(run: Run) -> Iterator[Result]:
    """The same probes on corrupted canvases, and on canvases with more clutter."""
    scores = bench.scores(run, contenders(), probe)
    yield from findings(
        scores,
        *(f"{RELICV2} > {other}: {metric}" for metric in (CLUTTERED, CORRUPTED) for other in (SIMCLR, SUPERVISED)),
    )


def loss(run: Run) -> Iterator[Result]:
    """The loss against its definition written out, and what it must not do."""
    generator = torch.Generator().manual_seed(run.settings.seed)
    online, target = torch.randn(2, 8, 16, generator=generator)
    terms = relic_terms(online, target, 0.3)
    a, b = F.normalize(online.double(), dim=1), F.normalize(target.double(), dim=1)
    asked = torch.tensor([[float(x @ y) / 0.3 for y in b] for x in a], dtype=torch.float64)
    by_online, by_target = asked.softmax(dim=1), asked.T.softmax(dim=1)
    contrast = -float(sum(by_online[i, i].log() for i in range(8))) / 8
    divergence = float(sum((p * (p / q).log()).sum() for p, q in zip(by_target, by_online, strict=True))) / 8
    error = max(abs(float(terms.contrast) - contrast), abs(float(terms.invariance) - divergence))
    yield Finding.exactly(
        "definition",
        "The loss is cross-entropy of the positive and Kullback-Leibler divergence, term by term.",
        error < 1e-5,
        f"{float(terms.contrast):.6f} and {contrast:.6f}, {float(terms.invariance):.6f} and {divergence:.6f}, "
        f"{error:.1e} apart at most (bound 1e-5).",
        error,
    )
    alike = float(relic_terms(online, online, 0.3).invariance)
    yield Finding.exactly(
        "invariance",
        "Views that are told from others alike in both directions have no invariance loss; other views have.",
        abs(alike) < 1e-6 < float(terms.invariance),
        f"{alike:.1e} for equal views (bound 1e-6), {float(terms.invariance):.3f} for others.",
        alike,
    )
    leaves = [values.clone().requires_grad_() for values in (online, target)]
    both = relic_terms(leaves[0], leaves[1], 0.3)
    (own, other) = torch.autograd.grad(both.contrast + both.invariance, leaves, allow_unused=True)
    yield Finding.exactly(
        "target",
        "No gradient reaches the target network.",
        other is None and float(own.abs().max()) > 0,
        f"The largest gradient of an online embedding is {float(own.abs().max()):.2f}, those of the target are none.",
        float(own.abs().max()),
    )
    kept = negatives(3, 8, generator)
    assert kept is not None
    few = float(relic_terms(online, target, 0.3, kept).contrast)
    written = -float(sum((asked[i, i].exp() / asked[i][kept[i]].exp().sum()).log() for i in range(8))) / 8
    yield Finding.exactly(
        "negatives",
        "An image is told from as many others as are drawn for it, and from none but those.",
        abs(few - written) < 1e-5 and kept.sum(dim=1).tolist() == [4] * 8 and few < float(terms.contrast),
        f"{few:.6f} and {written:.6f} with 3 of 7 negatives, {float(terms.contrast):.6f} with all.",
        few - written,
    )
    images = torch.rand(4, 3, 8, 8, generator=generator)
    masks, chosen = torch.rand(4, 1, 8, 8, generator=generator) < 0.5, torch.tensor([True, False, True, False])
    gone = without_background(images, masks, chosen)
    within = float(((gone - images) * masks).abs().max())
    outside = float((gone * ~masks)[chosen].abs().max())
    untouched = float((gone - images)[~chosen].abs().max())
    yield Finding.exactly(
        "background",
        "Without background, the object stays as it is, nothing else is left, and other images do not change.",
        within == outside == untouched == 0,
        f"Largest change of the object {within:g}, what is left beside it {outside:g}, other images {untouched:g}.",
        within + outside + untouched,
    )


def model_size(name: str) -> Iterator[Measurement]:
    """Parameters of all of a network, and of its encoder, as they are printed."""
    with shapes_only():
        model = timm.create_model(name)
    whole, operations = count(model, name)
    yield replace(whole, protocol=f"{whole.protocol}, classifier and projection head included")
    yield operations
    encoder = [parameter for key, parameter in model.named_parameters() if key.partition(".")[0] in BASE]
    yield replace(
        whole,
        model=f"{name}.encoder",
        value=sum(parameter.numel() for parameter in encoder) / 1e6,
        protocol="params/1 encoder without heads",
        detail={},
    )


def _picture(scores: bench.Scores) -> Picture:
    titles = {PROBE: "as in training", CORRUPTED: "corrupted", CLUTTERED: "more clutter"}
    panels: dict[str, dict[str, tuple[float, float, float]]] = {}
    for measured in measurements(scores, dataset=DATASET, protocol=PROTOCOL):
        low, high = measured.interval or (measured.value, measured.value)
        panels.setdefault(titles[measured.metric], {})[measured.model] = (measured.value, low, high)
    seeds = len(scores.seeds)
    bars = "one seed, no interval" if seeds == 1 else f"bars are 95 % intervals over {seeds} seeds and over images"
    return Picture(
        name="linear_probe",
        caption=f"Linear probe on frozen features of canvases, top-1 accuracy; {bars}.",
        svg=figures.intervals("linear_probe", panels, xlabel="top-1 accuracy, %"),
    )
