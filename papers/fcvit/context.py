"""What a global context adds to the positions of a map: one vector a head, in shares that add up to nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from common.measurement import Finding
from papers.fcvit.model import GlobalContext

DIM, HEADS, SIDE = 32, 4, 6


def layer(bias: float = 0.0) -> GlobalContext:
    """A context of random weights in float64, whose shares are shifted by ``bias``."""
    torch.manual_seed(0)
    made = GlobalContext(DIM, HEADS).double().eval()
    nn.init.normal_(made.rescale_weight)
    nn.init.constant_(made.rescale_bias, bias)
    return made


def rank(added: Tensor) -> float:
    """Second over first singular value of a head's vectors at all positions, largest of all heads: (B, C, H, W)."""
    heads = added.unflatten(1, (HEADS, -1)).flatten(3)
    values = torch.linalg.svdvals(heads)
    return float((values[..., 1] / values[..., 0]).max())


@torch.no_grad()
def findings() -> Iterator[Finding]:
    """A context of one map, and of another map with the same mean."""
    context = layer(bias=0.3)
    x = torch.randn(2, DIM, SIDE, SIDE, dtype=torch.float64)
    ratio, own = rank(context(x)), rank(x)
    yield Finding.exactly(
        name="one_direction",
        statement="A head adds the same vector to all positions of an image: they differ in their shares of it alone.",
        holds=ratio < 1e-12 < own,
        evidence=(
            f"The second singular value of what a head adds to {SIDE * SIDE} positions is {ratio:.1e} of the first "
            f"(bound 1e-12); of the map itself it is {own:.2f}."
        ),
        value=ratio,
    )
    shares = layer().similarity(x) / layer().rescale_weight[:, None, None]
    total, spread = float(shares.mean(dim=(1, 2, 3)).abs().max()), float(shares.std(dim=(1, 2, 3)).min())
    yield Finding.exactly(
        name="shares",
        statement="Before they are rescaled, shares of all heads and positions of an image add up to zero.",
        holds=total < 1e-12 and spread > 0.99,
        evidence=f"Largest mean of an image {total:.1e} (bound 1e-12), standard deviation {spread:.4f}.",
        value=total,
    )
