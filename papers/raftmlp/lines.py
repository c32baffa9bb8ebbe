"""What token mixing along lines costs and reaches, exactly.

Axes: B images, C channels, H x W tokens, r channels of a raft.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from common.measurement import Finding
from common.profiling import flops
from papers.raftmlp.model import AxialMixing, FullMixing

#: Grids and rafts that are tried, C, and hidden width over input's.
GRIDS, RAFTS, DIM, RATIO = ((7, 7), (14, 14), (8, 12)), (1, 2, 4), 8, 2


def _products(mixing: torch.nn.Module, grid: tuple[int, int]) -> tuple[int, int]:
    """Weights of MLPs, and multiply-adds of their products for one image, counted."""
    weights = sum(p.numel() for name, p in mixing.named_parameters() if ".mlp." in name and p.ndim == 2)
    return weights, flops(mixing, (*grid, DIM)).without("layer_norm")


def cost() -> Finding:
    """Count weights and multiply-adds of both kinds of token mixing, and hold them against what they should be."""
    wrong, evidence = 0, ""
    for height, width in GRIDS:
        tokens = height * width
        counted = _products(FullMixing(DIM, (height, width), 1, RATIO), (height, width))
        wrong += counted != (2 * RATIO * tokens**2, 2 * RATIO * tokens**2 * DIM)
        for raft in RAFTS:
            lines = _products(AxialMixing(DIM, (height, width), raft, RATIO), (height, width))
            wrong += lines != (
                2 * RATIO * raft**2 * (height**2 + width**2),
                2 * RATIO * raft * tokens * (height + width) * DIM,
            )
            if (height, width, raft) == (14, 14, 2):
                evidence = f"at 14x14 tokens and rafts of 2, {lines[0]:,} weights in place of {counted[0]:,}"
    return Finding.exactly(
        name="cost",
        statement=(
            "For N^2 weights and N^2 C multiply-adds of an MLP over N = H W tokens, lines have r^2 (H^2 + W^2) weights "
            "and r N (H + W) C multiply-adds."
        ),
        holds=not wrong,
        evidence=f"{wrong} of {len(GRIDS) * (1 + len(RAFTS))} counts differ; {evidence}.",
        value=float(wrong),
    )


def reached(mixing: torch.nn.Module, grid: tuple[int, int] = (5, 6)) -> Tensor:
    """Which tokens (H, W) the middle one depends on, by exact gradients."""
    mixing = mixing.double()
    x = torch.randn(1, *grid, DIM, dtype=torch.float64, requires_grad=True)
    middle = mixing(x)[0, grid[0] // 2, grid[1] // 2]
    (gradient,) = torch.autograd.grad((middle * torch.randn_like(middle)).sum(), x)
    return gradient[0].abs().amax(dim=-1) > 0


def reach() -> Iterator[Finding]:
    """Tokens that one block's mixing connects, along columns then rows, and along both at once."""
    torch.manual_seed(0)
    grid = (5, 6)
    serial = reached(AxialMixing(DIM, grid, 2, RATIO), grid)
    parallel = reached(AxialMixing(DIM, grid, 2, RATIO, parallel=True), grid)
    cross = torch.zeros(grid, dtype=torch.bool)
    cross[grid[0] // 2], cross[:, grid[1] // 2] = True, True
    yield Finding.exactly(
        name="reach",
        statement="Along columns and then rows, a token sees all others in one block; along both at once, a cross.",
        holds=serial.all() and torch.equal(parallel, cross),
        evidence=(
            f"Gradients of a token reach {int(serial.sum())} of {serial.numel()} tokens one after the other, and "
            f"{int(parallel.sum())} at once."
        ),
        value=float(serial.sum()),
    )
