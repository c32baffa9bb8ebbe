"""How the claims on architecture and adversarial robustness are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from itertools import pairwise
from pathlib import Path

import timm
import torch
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from common import bench, figures
from common.bench import inference
from common.measurement import Finding, Picture, Result
from common.run import Run
from papers.interplay import experiment
from papers.interplay.experiment import AUTOATTACKED, NETWORKS, SEEN, UNSEEN
from papers.interplay.model import STEPS, Block, Design, Network
from papers.interplay.training import hooks

RECIPE = Path(__file__).with_name("recipe.toml")
#: Logistic regression that sees as many images as contenders whose every image is attacked.
_FLOOR = partial(bench.few_training_images, 25600)


def name_of(network: str) -> str:
    """The contender that is a network of ``NETWORKS``, adversarially trained."""
    return f"chain_mini.{network}+at"


FIRST, LAST, ISOTROPIC = (name_of(network) for network in ("resnet", "convnext", "isotropic"))


def contenders() -> list[bench.Contender]:
    """Every network of the way and the isotropic one, adversarially trained."""
    return [bench.Contender(name_of(one), make, hooks, recipe=RECIPE) for one, make in NETWORKS.items()]


def chain(run: Run) -> Iterator[Result]:
    """Both ends of the way under attack."""
    scores = bench.scores(run, contenders(), experiment.measure)
    yield from bench.measurements(scores)
    yield from _findings(scores, *(f"{LAST} > {FIRST}: {metric}" for metric in (SEEN, AUTOATTACKED, "top1")))
    yield _way(scores)


def steps(run: Run) -> Iterator[Result]:
    """Every network beside the one before it: which steps matter."""
    scores = bench.scores(run, contenders(), experiment.measure)
    yield from _findings(
        scores, *(f"{name_of(after)} > {name_of(before)}: {SEEN}" for before, after in pairwise(STEPS))
    )


def unseen_attacks(run: Run) -> Iterator[Result]:
    """Both ends of the way under attacks in norms that are not trained against."""
    scores = bench.scores(run, contenders(), experiment.measure)
    yield from _findings(scores, *(f"{LAST} > {FIRST}: {metric}" for metric in UNSEEN))


def isotropic(run: Run) -> Iterator[Result]:
    """The last network in stages and with all blocks at the places of tokens."""
    scores = bench.scores(run, contenders(), experiment.measure)
    yield from _findings(scores, *(f"{LAST} > {ISOTROPIC}: {metric}" for metric in (SEEN, UNSEEN[0])))


def identity(run: Run) -> Iterator[Result]:
    """That the way begins at ResNet-50 and ends at ConvNeXt-T, and that steps change what they say."""
    for name, ours, theirs in (("first", "chain_resnet", "resnet50"), ("last", "chain_convnext", "convnext_tiny")):
        torch.manual_seed(run.settings.seed)
        difference, size = _difference(ours, theirs)
        yield Finding.exactly(
            name,
            f"The {name} network of the way computes what timm's {theirs} does, with its weights.",
            difference < 1e-5 * size,
            f"The largest difference of a logit is {difference:.1e}, of logits up to {size:.2f} (bound 1e-5 of these).",
            difference,
        )
    seen = {step: _seen(NETWORKS[step]()) for step in STEPS}
    changed = {step: _changes(seen[before], seen[step]) for before, step in pairwise(STEPS)}
    listed = "; ".join(f"{step}: {', '.join(names)}" for step, names in changed.items())
    yield Finding.exactly(
        "steps",
        "A step changes what it names and nothing else.",
        all(set(names) == set(STEPS[step]) for step, names in changed.items()),
        f"{listed}.",
        float(len(changed)),
    )
    relu, gelu, layer = (NETWORKS[step]().state_dict() for step in ("inverted", "gelu", "layer_norm"))
    same = _shapes(relu) == _shapes(gelu)
    without = {name: shape for name, shape in _shapes(gelu).items() if ".running_" not in name and "num_" not in name}
    yield Finding.exactly(
        "shapes",
        "The steps to GELU and to layer norm keep every weight's name and shape.",
        same and without == _shapes(layer),
        f"{len(relu)} tensors before and after GELU; {len(without)} of them are left with layer norm, which has no "
        "running statistics.",
        float(len(without)),
    )


def _findings(scores: bench.Scores, *hypotheses: str) -> Iterator[Finding]:
    return inference.findings(scores, *hypotheses, floor=bench.floor(_FLOOR))


@torch.no_grad()
def _difference(ours: str, theirs: str) -> tuple[float, float]:
    """The largest difference of a logit between two networks of the same weights, and the largest logit."""
    reference, network = timm.create_model(theirs).eval(), timm.create_model(ours).eval()
    for name, value in reference.state_dict().items():
        if name.endswith(("bn3.weight", "gamma")):  # which start at or near 0, so that blocks would have no effect
            value.fill_(0.5)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    # Both have their tensors in the order of computation.
    network.load_state_dict(dict(zip(network.state_dict(), reference.state_dict().values(), strict=True)))
    images = torch.rand(1, 3, 64, 64)
    expected = reference(images)
    return float((network(images) - expected).abs().max()), float(expected.abs().max())


def _seen(network: nn.Module) -> Design:
    """The design of a network, as its layers show it."""
    assert isinstance(network, Network)
    layers = list(network.modules())
    first = next(layer for layer in layers if isinstance(layer, nn.Conv2d))
    block = next(layer for layer in layers if isinstance(layer, (Block, ConvNeXtBlock)))
    inside = [layer for name, layer in block.named_modules() if not name.startswith("shortcut")]
    mixing = next(layer for layer in inside if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1))
    return Design(
        stem="patch" if first.stride == first.kernel_size else "convolution",
        depthwise=mixing.groups == mixing.in_channels,
        kernel=mixing.kernel_size[0],
        inverted=mixing is next(layer for layer in inside if isinstance(layer, (nn.Conv2d, nn.Linear))),
        activation="relu" if any(isinstance(layer, nn.ReLU) for layer in layers) else "gelu",
        norm="batch" if any(isinstance(layer, nn.BatchNorm2d) for layer in layers) else "layer",
        sparse=sum(isinstance(layer, nn.LayerNorm | nn.BatchNorm2d) for layer in inside) == 1,
    )


def _changes(before: Design, after: Design) -> list[str]:
    """Fields in which two designs differ."""
    return [one.name for one in fields(Design) if getattr(before, one.name) != getattr(after, one.name)]


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _way(scores: bench.Scores) -> Picture:
    """Accuracy, clean and under attack, along the way; a thin line each seed."""
    metrics = {"top1": "clean", SEEN: "l_inf, 4/255", UNSEEN[0]: "l_2, 0.5", UNSEEN[1]: "l_1, 6"}
    with figures.figure("way", width=6.4, height=3.4) as drawn:
        axis = drawn.subplots()
        for place, (metric, label) in enumerate(metrics.items()):
            colour = figures.COLOURS[place]
            by_seed = [scores.per_seed(name_of(step), metric) for step in STEPS]
            axis.plot(range(len(STEPS)), by_seed, color=colour, linewidth=0.5, alpha=0.5)
            means = [sum(values) / len(values) for values in by_seed]
            axis.plot(range(len(STEPS)), means, "o-", color=colour, markersize=4, label=label)
            alone = scores.mean(ISOTROPIC, metric)
            axis.plot(len(STEPS), alone, "o", color=colour, markersize=4, markerfacecolor="none")
        names = [*STEPS, "isotropic"]
        axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=30, ha="right")
        axis.set_ylabel("top-1, %")
        axis.grid()
        axis.legend()
        svg = figures.to_svg(drawn)
    return Picture(
        name="way",
        caption=(
            "Accuracy of adversarially trained networks on the way from ResNet to ConvNeXt, each with all changes up "
            f"to its name, and of the isotropic one. Mean over {len(scores.seeds)} seeds, thin lines are single seeds."
        ),
        svg=svg,
    )
