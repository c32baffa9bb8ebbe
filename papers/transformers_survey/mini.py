"""The same experiment for every family: one host of the bench, whose attention is replaced in all blocks."""

from __future__ import annotations

from functools import partial

from torch import nn

from common import bench, figures
from common.bench import hosts
from common.measurement import Picture
from common.profiling import flops
from papers.transformers_survey.families import FAMILIES, Axial, family

#: A hierarchy of 14 x 14 and 7 x 7 tokens without class token. As it is, its family is pooled keys.
HOST = "pyramid_mini"
#: Tokens on a side, by the host's stage.
SIDES = (14, 7)


def network(name: str) -> nn.Module:
    """The host with the family ``name``; what ends it starts at zero, as the host's attention does."""
    make = family(name).make
    model = hosts.pyramid_mini(attention=lambda dim, heads, stage: make(dim, heads, SIDES[stage]))
    for module in model.modules():
        if isinstance(module, Axial):  # all others end with what the bench knows by its name
            nn.init.zeros_(module.rows.proj.weight)
            nn.init.zeros_(module.rows.proj.bias)
    return model


def contender_of(name: str) -> str:
    """The contender's name for a family."""
    return f"{HOST}+{name}"


def contenders() -> list[bench.Contender]:
    """The host, and one network for each family that is trained."""
    return [
        bench.host(HOST),
        *(bench.Contender(contender_of(each.name), partial(network, each.name)) for each in FAMILIES if each.trained),
    ]


def cost_of(contender: bench.Contender) -> tuple[float, float]:
    """Multiply-adds (1e6) of an image, and parameters (1e3)."""
    model = contender.build()
    return flops(model, (3, 28, 28)).total / 1e6, sum(p.numel() for p in model.parameters()) / 1e3


def page_picture(scores: bench.Scores) -> Picture:
    """Accuracy and robustness against multiply-adds, a point a family: all of them on one page."""
    costs = {each.name: cost_of(each)[0] for each in contenders()}
    with figures.figure("families", width=9.0, height=4.0) as drawn:
        columns = (("top1", "top-1, %"), ("corruption_top1", "top-1 under corruption, %"))
        for axis, (metric, title) in zip(drawn.subplots(1, 2), columns, strict=True):
            for position, (name, cost) in enumerate(costs.items()):
                colour = figures.COLOURS[position % len(figures.COLOURS)]
                marker = "os"[position // len(figures.COLOURS) % 2]
                value = scores.mean(name, metric)
                axis.plot(cost, value, marker, color=colour, markersize=5)
                axis.annotate(
                    name.removeprefix(f"{HOST}+"), (cost, value), fontsize=7, xytext=(4, 3), textcoords="offset points"
                )
            axis.set_xscale("log")
            axis.set_xlabel("multiply-adds of an image, 1e6")
            axis.set_title(title, fontsize=8)
            axis.grid(True)
        svg = figures.to_svg(drawn)  # fmt: skip
    return Picture(
        name="families",
        caption="Accuracy on clean and corrupted test images over multiply-adds, mean over seeds, one host.",
        svg=svg,
    )
