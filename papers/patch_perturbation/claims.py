"""How the claims on patch perturbations are measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from common import bench, figures
from common.measurement import Finding, Picture, Result
from common.run import Run
from papers.patch_perturbation import experiment, imagenet
from papers.patch_perturbation.attention import attention_maps, patch_shares, rollout, tempered
from papers.patch_perturbation.experiment import ATTACK, STATES, TEMPERATURES
from papers.patch_perturbation.method import patch_masks

VIT, CNN = "vit_mini", "resnet_mini"


def contenders() -> list[bench.Contender]:
    """The two hosts as they are: all else is done to their images, or to their attention after training."""
    return [bench.host(VIT), bench.host(CNN)]


def adversarial_patches(run: Run) -> Iterator[Result]:
    """A small vision transformer and a small residual network with one patch attacked."""
    scores = bench.scores(run, contenders(), experiment.fooling)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores, f"{CNN} > {VIT}: patch_attack_fooling", f"{CNN} > {VIT}: salient_patch_attack_fooling"
    )


def natural_patches(run: Run) -> Iterator[Result]:
    """The same with one patch corrupted."""
    scores = bench.scores(run, contenders(), experiment.fooling)
    yield from bench.findings(scores, f"{VIT} > {CNN}: patch_corruption_fooling")
    yield _bars(scores)


def attention(run: Run) -> Iterator[Result]:
    """The share of the transformer's attention on a patch that is clean, corrupted or attacked."""
    measured = bench.scores(run, contenders()[:1], experiment.attention)
    scores = _parts(measured, {state: {"patch_attention": f"patch_attention/{state}"} for state in STATES})
    yield from bench.measurements(scores, ("patch_attention",))
    clean, corrupted, attacked = (f"{VIT}.{state}" for state in STATES)
    yield from bench.findings(
        scores, f"{attacked} > {clean}: patch_attention", f"{attacked} > {corrupted}: patch_attention"
    )
    yield _maps(bench.trained(run, contenders()[0], run.seeds()[0]), run.settings.quick)


def temperature(run: Run) -> Iterator[Result]:
    """The transformer with its attention sharpened and spread after training."""
    measured = bench.scores(run, contenders()[:1], experiment.attention)
    metrics = ("top1", "patch_attack_fooling")
    cells = {f"temperature_{t:g}": {metric: f"{metric}/{t:g}" for metric in metrics} for t in TEMPERATURES}
    scores = _parts(measured, cells)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores,
        f"{VIT}.temperature_2 > {VIT}.temperature_1: patch_attack_fooling",
        f"{VIT}.temperature_2 = {VIT}.temperature_1: top1",
        f"{VIT}.temperature_4 > {VIT}.temperature_1: patch_attack_fooling",
    )


def _parts(measured: bench.Scores, parts: dict[str, dict[str, str]]) -> bench.Scores:
    """Cells of one contender as contenders of their own: name -> metric -> cell."""
    return bench.Scores(
        {
            (f"{VIT}.{name}", seed): {
                "top1": values["top1"],
                **{metric: np.asarray(values[cell]) for metric, cell in cells.items()},
            }
            for name, cells in parts.items()
            for (_, seed), values in measured.values.items()
        }
    )


def _bars(scores: bench.Scores) -> Picture:
    """Fooling rate by corruption."""
    names = [name.partition("/")[2] for name in scores.cells("patch_corruption_fooling")]
    with figures.figure("patch_corruptions", width=7.5, height=3.2) as drawn:
        axis = drawn.subplots()
        for place, name in enumerate(scores.contenders):
            values = [scores.mean(name, f"patch_corruption_fooling/{one}") for one in names]
            axis.plot(range(len(names)), values, "o", color=figures.COLOURS[place], label=name, markersize=5)
        axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=60, ha="right")
        axis.set_ylabel("fooling rate, %")
        axis.set_ylim(bottom=0)
        axis.grid(axis="y")
        axis.legend()
        svg = figures.to_svg(drawn)
    return Picture(
        name="patch_corruptions",
        caption=f"Images whose prediction changes when one patch is corrupted; mean over {len(scores.seeds)} seeds.",
        svg=svg,
    )


def _maps(model: nn.Module, quick: bool, shown: int = 3) -> Picture:
    """Images and their attention: clean, with a corrupted patch and with an attacked one."""
    recipe = contenders()[0].settings(quick=quick)
    classifier: Any = bench.normalised(model, recipe).cpu()
    states = experiment.shown_states(classifier, quick, shown)
    titles = [f"{state}{what}" for state in STATES for what in ("", ": attention")]
    side = states[0].shape[-1]
    places, size, columns = experiment.positions(shown), ATTACK.size, side // ATTACK.size
    with figures.figure("patch_attention", width=1.2 * len(titles), height=1.25 * shown) as drawn:
        axes = drawn.subplots(shown, len(titles), squeeze=False)
        for column, pictures in enumerate(states):
            maps = patch_shares(classifier.model, experiment.normalise(classifier, pictures), discard=0.9)
            for row in range(shown):
                picture, heat = axes[row, 2 * column], axes[row, 2 * column + 1]
                picture.imshow(pictures[row].permute(1, 2, 0).numpy())
                heat.imshow(maps[row].numpy(), vmin=0, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
                top, left = divmod(int(places[row]), columns)
                for axis in (picture, heat):
                    corner = (left * size - 0.5, top * size - 0.5)
                    axis.add_patch(_frame(corner, size))
                    axis.set_axis_off()
        for column, title in enumerate(titles):
            axes[0, column].set_title(title, fontsize=7)
        svg = figures.to_svg(drawn)
    return Picture(
        name="patch_attention",
        caption=(
            "Test images with a patch (framed) as it is, under gaussian noise, and attacked; beside each the rollout "
            "of its attention, whose smallest 90 % are left out."
        ),
        svg=svg,
    )


def _frame(corner: tuple[float, float], size: int) -> object:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, size, size, fill=False, edgecolor=figures.COLOURS[1], linewidth=1.5)


def identity(run: Run) -> Iterator[Result]:
    """What temperature, rollout and patches are by construction."""
    torch.manual_seed(run.settings.seed)
    model, images = bench.hosts.vit_mini().eval().requires_grad_(False), torch.rand(4, 3, 28, 28)
    plain = model(images)
    with tempered(model, 1.0):
        same = float((model(images) - plain).abs().max())
    with tempered(model, 1e9):
        spread = max(float((one - 1 / one.shape[-1]).abs().max()) for one in attention_maps(model, images))
    closed = float((model(images) - plain).abs().max())
    yield Finding.exactly(
        "temperature",
        "A temperature of 1 changes no logit, a very large one spreads attention evenly, and neither stays.",
        same == 0 and closed == 0 and spread < 1e-6,
        f"Logits change by {same:.1e}, attention is {spread:.1e} from even (bound 1e-6), and {closed:.1e} is left.",
        spread,
    )
    maps = attention_maps(model, images)
    rows = float((rollout(maps).sum(dim=-1) - 1).abs().max())
    released = float((rollout(maps, released=True).sum(dim=-1) - 1).abs().max())
    yield Finding.exactly(
        "rollout",
        "What reaches a token adds up to 1, which the released form does not keep to.",
        rows < 1e-5 < released,
        f"The largest difference from 1 is {rows:.1e} (bound 1e-5), as released {released:.1e}.",
        rows,
    )
    classifier, labels = bench.normalised(model, contenders()[0].settings()), plain.argmax(dim=1)
    places = torch.tensor([0, 6, 24, 48])
    changed, _ = ATTACK(classifier, images, labels, places, torch.rand(images.shape))
    outside = float(((changed - images) * (1 - patch_masks(images, ATTACK.size, places))).abs().max())
    within = float((changed - images).abs().amax(dim=(1, 2, 3)).min())
    yield Finding.exactly(
        "one_patch",
        "An attack changes its patch and nothing else.",
        outside == 0 and within > 0,
        f"Pixels outside change by {outside:.1e}, the largest in each patch by {within:.2f} or more.",
        outside,
    )


def imagenet_patches(run: Run) -> Iterator[Result]:
    """The user's checkpoint on ImageNet as released: 49 patches of 32 pixels, severity 5, up to 10,000 steps."""
    yield from imagenet.measure(run)
