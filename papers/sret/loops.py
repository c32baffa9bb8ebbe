"""What loops leave as it is, and what slices save.

Axes: N tokens in G groups, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import timm
import torch

from common import figures
from common.measurement import Finding, Picture
from common.profiling import flops
from common.shapes import shapes_only
from papers.sret.model import Block, Projection, Recursion, SReT, Stage

#: Channels, heads and tokens on a side of SReT-T's first stage, and the numbers of groups that are counted.
CHANNELS, HEADS, SIDE, GROUPS = 64, 2, 28, (1, 2, 4, 8)
#: Models with slices and the same without.
SLICED = {"sret_t": "sret_t_wo_slice", "sret_lt": "sret_lt_wo_slice", "sret_s": "sret_s_wo_slice"}


def small(loops: int, **changes: Any) -> SReT:
    """An SReT of 16 and 32 channels."""
    settings: dict[str, Any] = {"img_size": 32, "head_dim": 16, "num_heads": (1, 2), "depths": (2, 1)}
    return SReT(**{**settings, "groups": ((4, 2), (1, 1)), "num_classes": 10, "loops": loops, **changes})


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def parameters() -> Iterator[Finding]:
    """Networks of one to four loops, with projections and without."""
    with shapes_only():
        plain = [_count(small(loops, projection_ratio=0.0)) for loops in range(1, 5)]
        full = [small(loops) for loops in range(1, 5)]
        projected = [sum(_count(part) for part in model.modules() if isinstance(part, Projection)) for model in full]
    rest = [_count(model) - own for model, own in zip(full, projected, strict=True)]
    alike = len({*plain, *rest}) == 1
    linear = projected == [loops * projected[0] for loops in range(1, 5)]
    yield Finding.exactly(
        name="parameters",
        statement="Loops add no parameters but those of their projections.",
        holds=alike and linear and projected[0],
        evidence=(
            f"One to four loops have {plain[0]:,} parameters each without projections; with them, as many and "
            f"{projected[0]:,} more for each loop."
        ),
        value=float(projected[0]),
    )


@torch.no_grad()
def order_of_tokens() -> Finding:
    """A block that attends to tokens in another order, with one group and with two."""
    torch.manual_seed(0)
    block = Block(16, 2).double().eval()
    x, permutation = torch.randn(2, 36, 16, dtype=torch.float64), torch.randperm(36)

    def change(groups: int) -> float:
        plain, permuted = block(x, groups), block(x, groups, permutation)
        return float((plain - permuted).abs().max() / plain.abs().max())

    whole, sliced = change(1), change(2)
    return Finding.exactly(
        name="order_of_tokens",
        statement="The order in which tokens attend matters to groups alone.",
        holds=whole < 1e-12 < 1e-4 < sliced,
        evidence=f"Largest relative change {whole:.1e} with one group (bound 1e-12), {sliced:.1e} with two.",
        value=whole,
    )


def attention_cost(groups: int) -> int:
    """Multiply-adds of scores and their sums over values in a block of SReT-T's first stage, as counted."""
    with torch.device("meta"):
        once = Recursion(Block(CHANNELS, HEADS), [torch.nn.Identity()], (groups, 1))
        stage = Stage([once], 1, (groups, 1), SIDE**2)
        return flops(stage, inputs=torch.empty(1, CHANNELS, SIDE, SIDE)).by_operator["attention"]


def closed_form(tokens: int, channels: int, groups: int) -> int:
    """The same in symbols: 2 C N^2 / G."""
    return 2 * channels * tokens**2 // groups


def model_cost(name: str) -> float:
    """Multiply-adds of a model for an image of its own size, in G."""
    with shapes_only():
        model: Any = timm.create_model(name)
        return flops(model, model.pretrained_cfg["input_size"]).total / 1e9


def cost() -> Iterator[Finding | Picture]:
    """Attention by the number of groups, and models with slices beside those without."""
    counted = [attention_cost(groups) for groups in GROUPS]
    expected = [closed_form(SIDE**2, CHANNELS, groups) for groups in GROUPS]
    error = max(abs(count - value) for count, value in zip(counted, expected, strict=True))
    yield Finding.exactly(
        name="closed_form",
        statement="Attention of N tokens in G groups takes 2 C N^2 / G multiply-adds.",
        holds=error == 0,
        evidence=(
            f"Largest difference {error} to the count for G = {', '.join(map(str, GROUPS))} (C = {CHANNELS}, N = "
            f"{SIDE**2}): {counted[0] / 1e6:.1f} M to {counted[-1] / 1e6:.1f} M."
        ),
        value=float(error),
    )
    saved = {name: 100 * (1 - model_cost(name) / model_cost(whole)) for name, whole in SLICED.items()}
    yield Finding.exactly(
        name="savings",
        statement="Slices save 10 to 30 % of a model's multiply-adds.",
        holds=all(10 <= share <= 30 for share in saved.values()),
        evidence=", ".join(f"{name} {share:.1f} %" for name, share in saved.items()) + ", against no slices.",
    )
    yield Picture(
        name="cost",
        caption="Multiply-adds of a block of SReT-T's first stage by the number of groups: scores and sums.",
        svg=figures.curves(
            "cost",
            {"attention": (GROUPS, [count / 1e6 for count in counted])},
            xlabel="groups",
            ylabel="multiply-adds, M",
        ),
    )
