"""How far one layer of each family reaches: which tokens of the input a token of the output depends on."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from common.measurement import Finding, Measurement, Result
from papers.transformers_survey.families import FAMILIES, Family

#: Side of the grid: two windows of 7.
SIDE, DIM, HEADS = 14, 24, 3
#: The token of the output that is asked: not in a corner, where a layer may see less.
PLACE = (5, 4)


def share(family: Family) -> float:
    """The share of the input's tokens that the output at `PLACE` has a gradient from."""
    torch.manual_seed(0)
    module = family.make(DIM, HEADS, SIDE).double().eval()
    # Projections that start at zero would hide what is behind them.
    for parameter in module.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, SIDE**2, DIM, dtype=torch.float64, requires_grad=True)
    module(x)[0, PLACE[0] * SIDE + PLACE[1]].sum().backward()
    assert x.grad is not None
    return float((x.grad[0] != 0).any(dim=1).double().mean())


def findings() -> Iterator[Result]:
    """Compare what is reached with what definitions say."""
    shares = {family.name: share(family) for family in FAMILIES}
    for name, value in shares.items():
        yield Measurement(
            model=f"transformers-survey.{name}",
            dataset="-",
            metric="reach",
            value=100 * value,
            unit="%",
            protocol=f"reach/1 tokens of a {SIDE} x {SIDE} grid that an inner token has a gradient from, one layer",
        )
    wrong = [family.name for family in FAMILIES if (shares[family.name] == 1) != family.whole]
    local = {family.name: shares[family.name] for family in FAMILIES if not family.whole}
    yield Finding(
        name="reach",
        statement="One layer connects a token to all others in every family but those that are local or on two lines.",
        verdict="does not hold" if wrong else "holds",
        evidence=(
            f"It is otherwise for {', '.join(wrong)}."
            if wrong
            else f"{len(shares) - len(local)} families reach all tokens; "
            + ", ".join(f"{name} {100 * value:.0f} %" for name, value in local.items())
            + "."
        ),
        value=float(len(wrong)),
        exact=True,
    )
