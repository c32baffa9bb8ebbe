"""What a block of CMT reaches, and what its attention costs with few keys.

Axes: C channels of H x W positions, N = H W queries, N / r^2 keys for a reduction r.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from common import figures
from common.measurement import Finding, Picture
from common.profiling import flops
from papers.cmt.model import Block, LightweightAttention

#: Channels and positions on a side of CMT-S's first stage at 224 pixels, and the reductions that divide them.
CHANNELS, SIDE, REDUCTIONS = 64, 56, (1, 2, 4, 8)


def reached(*, attention: bool = True, local_perception: bool = True, inverted_residual: bool = True) -> int:
    """On how many of 16 x 16 positions the middle one depends after a block of CMT with keys of 4 x 4 positions."""
    torch.manual_seed(0)
    block = (
        Block(8, 2, reduction=4, local_perception=local_perception, inverted_residual=inverted_residual).double().eval()
    )
    if not attention:
        nn.init.zeros_(block.attn.proj.weight)
    x = torch.randn(1, 8, 16, 16, dtype=torch.float64, requires_grad=True)
    middle = block(x, torch.zeros(2, 256, 16, dtype=torch.float64))[0, :, 8, 8]
    (gradient,) = torch.autograd.grad((middle * torch.randn_like(middle)).sum(), x)
    return int((gradient.abs().amax(dim=1) > 0).sum())


def reach() -> Finding:
    """A block with all of its parts, and with some."""
    whole, convolutions = reached(), reached(attention=False)
    local, mlp = reached(attention=False, inverted_residual=False), reached(attention=False, local_perception=False)
    plain = reached(attention=False, local_perception=False, inverted_residual=False)
    return Finding.exactly(
        name="reach",
        statement="Few keys suffice to see everything: in one block attention reaches all positions, convolutions 5x5.",
        holds=(whole, convolutions, local, mlp, plain) == (256, 25, 9, 9, 1),
        evidence=(
            f"Gradients of the middle of 16 x 16 positions reach {whole} of them with 16 keys, {convolutions} without "
            f"attention, {local} by the local perception unit alone, {mlp} by the MLP's convolution alone, {plain} "
            "without both; all others are exactly zero."
        ),
        value=float(whole),
    )


def counted(reduction: int) -> dict[str, int]:
    """Multiply-adds of the attention of CMT-S's first stage with another reduction, by operator."""
    with torch.device("meta"):
        attention = LightweightAttention(CHANNELS, 1, reduction)
        features = torch.empty(1, CHANNELS, SIDE, SIDE)
        bias = torch.empty(1, SIDE**2, SIDE**2 // reduction**2)
        return flops(attention, inputs=(features, bias)).by_operator


def closed_form(channels: int, queries: int, reduction: int) -> dict[str, int]:
    """The same in symbols: 2 C N^2 / r^2 for scores and sums, 2 C^2 N (1 + 1 / r^2) for projections, C N to reduce."""
    keys = queries // reduction**2
    cost = {"attention": 2 * channels * queries * keys, "matmul": 2 * channels**2 * (queries + keys)}
    return cost if reduction == 1 else {**cost, "conv": channels * queries}


def cost() -> Iterator[Finding | Picture]:
    """Attention of CMT-S's first stage over the reduction of its keys."""
    differences, totals = [], []
    for reduction in REDUCTIONS:
        count, expected = counted(reduction), closed_form(CHANNELS, SIDE**2, reduction)
        differences.append(max(abs(count.get(name, 0) - value) for name, value in expected.items()))
        totals.append(sum(count.values()))
    yield Finding.exactly(
        name="closed_form",
        statement="Attention with a reduction r takes 2 C N^2 / r^2 + 2 C^2 N (1 + 1 / r^2) + C N multiply-adds.",
        holds=not any(differences),
        evidence=(
            f"Largest difference {max(differences)} to the count for r = {', '.join(map(str, REDUCTIONS))} (C = "
            f"{CHANNELS}, N = {SIDE}^2; without a reduction nothing is spent on reducing); r = {REDUCTIONS[-1]}, as in "
            f"the first stage of CMT-S, takes {totals[-1] / 1e6:.0f} M of {totals[0] / 1e6:.0f} M."
        ),
        value=float(max(differences)),
    )
    yield Picture(
        name="cost",
        caption="Multiply-adds of attention in the first stage of CMT-S over the reduction of its keys.",
        svg=figures.curves(
            "cost",
            {
                "all": (REDUCTIONS, [total / 1e6 for total in totals]),
                "scores and sums": (REDUCTIONS, [counted(r)["attention"] / 1e6 for r in REDUCTIONS]),
            },
            xlabel="reduction r",
            ylabel="multiply-adds, M",
            logy=True,
        ),
    )
