"""What rearrangement does: it permutes positions, and carries features within regions and across them.

Axes: B images, C channels, H x W positions; regions have R positions of an axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from common.measurement import Finding
from papers.hire_mlp.model import Block, rearrange, restore

#: Sizes of an axis, regions and shifts that are tried.
SIZES, REGIONS, SHIFTS = range(1, 15), (1, 2, 3, 4), (0, 1, 2)
#: Positions of a region, and regions of an axis, where reach is measured.
REGION, COUNT = 4, 3


def permutation() -> Finding:
    """Rearrange a map of distinct numbers, look for each of them, and restore it."""
    cases = lost = changed = 0
    for size, region, shift, axis in product(SIZES, REGIONS, SHIFTS, (2, 3)):
        x = torch.arange(2 * 3 * size, dtype=torch.float64).view(1, 2, *((size, 3) if axis == 2 else (3, size)))
        rearranged = rearrange(x, axis, region, shift)
        cases += 1
        lost += not torch.equal(rearranged.unique(), x.flatten()) or (
            size % region == 0 and rearranged.numel() != x.numel()
        )
        changed += not torch.equal(restore(rearranged, axis, region, shift, size), x)
    return Finding.exactly(
        name="permutation",
        statement="Rearranging keeps every value, once where regions divide the axis; restoring gives back the map.",
        holds=not lost and not changed,
        evidence=(
            f"Of {cases} combinations of sizes 1 to {max(SIZES)}, regions of 1 to {max(REGIONS)} positions, shifts of "
            f"0 to {max(SHIFTS)} and axes, {lost} lose values or have some twice and {changed} come back changed."
        ),
        value=float(changed),
    )


def reached(shifts: Sequence[int], region: int = REGION) -> Tensor:
    """Which squares of 4 x 4 positions, of 3 x 3, those of the central one depend on, after a block for each shift.

    The weights of the three branches, which all positions decide together, are held constant.
    """
    torch.manual_seed(0)
    stage = nn.Sequential(*(Block(8, region, shift) for shift in shifts)).double().eval()
    for block in stage:
        nn.init.zeros_(block.attn.reweight.fc2.weight)
    x = torch.randn(1, 8, COUNT * REGION, COUNT * REGION, dtype=torch.float64, requires_grad=True)
    centre = stage(x)[:, :, REGION : 2 * REGION, REGION : 2 * REGION]
    (gradient,) = torch.autograd.grad((centre * torch.randn_like(centre)).sum(), x)
    squares = gradient.unflatten(3, (COUNT, REGION)).unflatten(2, (COUNT, REGION))
    return squares.abs().amax(dim=(0, 1, 3, 5)) > 0


def reach() -> Iterator[Finding]:
    """Squares that the central one depends on, with shifts, without, and by shifts of whole regions."""
    shifted, alone = int(reached((0, 2)).sum()), int(reached((0, 0)).sum())
    whole, without_regions = int(reached((0, REGION)).sum()), int(reached((0, 2), region=1).sum())
    yield Finding.exactly(
        name="reach",
        statement="Two blocks connect a region with its neighbours where one of them shifts, and with none otherwise.",
        holds=shifted > 1 == alone,
        evidence=(
            f"Gradients of a square of 4 x 4 positions reach {shifted} of 9 squares after blocks with shifts 0 and 2, "
            f"and {alone} after two without a shift, all others being exactly zero."
        ),
        value=float(alone),
    )
    yield Finding.exactly(
        name="whole_regions",
        statement="A shift by whole regions, where they divide the axis, exchanges nothing.",
        holds=whole == 1,
        evidence=f"Gradients reach {whole} of 9 squares after blocks with shifts 0 and {REGION}.",
    )
    yield Finding.exactly(
        name="no_regions",
        statement="With regions of one position a shift, which is undone, mixes no positions.",
        holds=without_regions == 1,
        evidence=f"Gradients reach {without_regions} of 9 squares.",
    )
