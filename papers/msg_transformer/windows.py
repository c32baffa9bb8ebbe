"""Which windows the tokens of one depend on, by exact gradients, with messengers shuffled, averaged, or kept."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from common import figures
from common.measurement import Finding, Picture
from common.profiling import flops
from papers.msg_transformer.model import MANIPULATIONS, Block, Stage

#: Channels, tokens and windows of a small stage: 2 x 2 regions of 2 x 2 windows of 3 x 3 tokens.
CHANNELS, WINDOW, SHUFFLE, REGIONS = 16, 3, 2, 2
SIDE = SHUFFLE * REGIONS  # windows


def small(blocks: int, manipulation: str) -> Stage:
    """A stage in float64 and eval mode."""
    torch.manual_seed(0)
    made = [Block(CHANNELS, 4, WINDOW, manipulation=MANIPULATIONS[manipulation]) for _ in range(blocks)]
    return Stage(made, WINDOW, SHUFFLE).double().eval()


def sensitivity(blocks: int, manipulation: str) -> Tensor:
    """The largest gradient of the first window's local tokens by those of each window, (4, 4)."""
    stage = small(blocks, manipulation)
    local = torch.randn(1, SIDE * WINDOW, SIDE * WINDOW, CHANNELS, dtype=torch.float64, requires_grad=True)
    messengers = torch.randn(1, SIDE, SIDE, CHANNELS, dtype=torch.float64)
    first = stage(local, messengers)[0][:, :WINDOW, :WINDOW]
    (gradient,) = torch.autograd.grad((first * torch.randn_like(first)).sum(), local)
    return gradient.abs().unflatten(2, (SIDE, WINDOW)).unflatten(1, (SIDE, WINDOW)).amax(dim=(0, 2, 4, 5))


def reach() -> Iterator[Finding | Picture]:
    """One and two blocks, with every manipulation."""
    names = tuple(MANIPULATIONS)
    maps = {(name, blocks): sensitivity(blocks, name) for name in names for blocks in (1, 2)}
    region = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    region[:SHUFFLE, :SHUFFLE] = True
    own = torch.zeros_like(region)
    own[0, 0] = True
    expected = {key: region if key[0] != "none" and key[1] == 2 else own for key in maps}
    right = all(torch.equal(gradients > 0, expected[key]) for key, gradients in maps.items())
    counts = {key: int((gradients > 0).sum()) for key, gradients in maps.items()}
    yield Finding.exactly(
        name="reach",
        statement=(
            "Two blocks with messengers shuffled connect all windows of a region and no other; without exchange the "
            "gradient by other windows is exactly zero."
        ),
        holds=right,
        evidence=(
            f"Of {SIDE**2} windows in regions of {SHUFFLE**2}, a window's tokens depend on {counts['shuffle', 2]} when "
            f"messengers are shuffled, on {counts['average', 2]} when averaged, on {counts['none', 2]} when kept; "
            f"after one block on {counts['shuffle', 1]}."
        ),
        value=float(counts["none", 2]),
    )
    yield _costs_nothing()
    yield _picture({name: maps[name, 2] for name in names})


def _costs_nothing() -> Finding:
    """Parameters and multiply-adds of a stage with messengers shuffled and kept."""
    costs = {}
    for name in ("shuffle", "none"):
        stage = small(2, name).float()
        inputs = torch.zeros(1, SIDE * WINDOW, SIDE * WINDOW, CHANNELS), torch.zeros(1, SIDE, SIDE, CHANNELS)
        costs[name] = sum(p.numel() for p in stage.parameters()), flops(stage, inputs=inputs).total
    same = costs["shuffle"] == costs["none"]
    return Finding.exactly(
        name="no_cost",
        statement="Shuffling takes no parameters and no multiply-adds.",
        holds=same,
        evidence="{} parameters and {} multiply-adds with it, {} and {} without.".format(
            *costs["shuffle"], *costs["none"]
        ),
    )


def _picture(maps: dict[str, Tensor]) -> Picture:
    titles = {"shuffle": "shuffled", "average": "averaged", "none": "kept"}
    with figures.figure("reach", 5.4, 2.1) as drawn:
        for axes, (name, gradients) in zip(drawn.subplots(1, len(maps)), maps.items(), strict=True):
            # Logarithms, with windows that are not reached left blank.
            axes.imshow(gradients.log10().where(gradients > 0, torch.nan).numpy(), cmap="viridis", vmin=-4, vmax=0)
            for edge in range(SHUFFLE, SIDE, SHUFFLE):
                axes.axhline(edge - 0.5, color=figures.INK)
                axes.axvline(edge - 0.5, color=figures.INK)
            axes.set(title=f"messengers {titles[name]}", xticks=(), yticks=())
        svg = figures.to_svg(drawn)
    return Picture(
        name="reach",
        caption=(
            "Windows (squares) that the local tokens of the window above left depend on after two blocks, by the "
            "logarithm of the largest gradient; lines are borders of regions, blank windows have no gradient."
        ),
        svg=svg,
    )
