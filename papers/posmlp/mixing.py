"""What the parameterization of token mixing by relative positions means, exactly.

Axes: G groups of channels, N tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from common.measurement import Finding
from papers.posmlp.model import ENCODINGS, QuadraticEncoding, relative_positions

#: Sides of windows that are tried, and G.
WINDOWS, GROUPS = range(2, 15), 4
#: Weights of token mixing for a group of channels, of a window of ``side`` tokens a side, by encoding.
EXPECTED = {
    "quadratic": lambda side: 6,
    "learned": lambda side: (2 * side - 1) ** 2,
    "none": lambda side: side**4,
}
#: Rounding of softmax in float64.
ROUNDING = 1e-12


def counts(encoding: str, side: int) -> int:
    """Weights of token mixing for a group of channels, without the bias of N values that all encodings have."""
    made = ENCODINGS[encoding](side, GROUPS)
    groups = made().shape[0]
    return sum(p.numel() for name, p in made.named_parameters() if name != "token_proj_n_bias") // groups


def growth() -> Iterator[Finding]:
    """Count the weights of every encoding for windows of all small sizes."""
    found = {name: [counts(name, side) for side in WINDOWS] for name in ENCODINGS}
    wrong = [
        (name, side)
        for name, own in found.items()
        for side, count in zip(WINDOWS, own, strict=True)
        if count != EXPECTED[name](side)
    ]
    linear = all(count < 4 * side**2 for side, count in zip(WINDOWS, found["learned"], strict=True))
    first, last = WINDOWS[0] ** 2, WINDOWS[-1] ** 2
    yield Finding.exactly(
        name="growth",
        statement="A group's weights of token mixing are six with GQPE, below 4 N with LRPE, N^2 without encoding.",
        holds=not wrong and linear,
        evidence=(
            f"From {first} to {last} tokens: GQPE {found['quadratic'][0]} to {found['quadratic'][-1]}, LRPE "
            f"{found['learned'][0]} to {found['learned'][-1]}, no encoding {found['none'][0]} to {found['none'][-1]}; "
            f"{len(wrong)} of {len(WINDOWS) * len(found)} counts are not (2 sqrt(N) - 1)^2, 6 and N^2."
        ),
        value=float(len(wrong)),
    )


def logits(encoding: QuadraticEncoding) -> Tensor:
    """The logarithms of an encoding's weights (G, target, source), which softmax shifted by a value for each target."""
    return encoding().log()


def relative(side: int = 5) -> Iterator[Finding]:
    """Compare the weights of pairs of tokens that lie alike, with weights that are drawn at random."""
    torch.manual_seed(0)
    x, y = relative_positions(side)
    alike = (y + side) * 2 * side + x + side  # a number for each relative position
    table, quadratic = (ENCODINGS[name](side, GROUPS).double() for name in ("learned", "quadratic"))
    for encoding in (table, quadratic):
        for parameter in encoding.parameters():
            torch.nn.init.normal_(parameter)
    spread = _spread(table(), alike)
    # Differences of logits between two sources, which do not depend on the target's share.
    logs = logits(quadratic)  # type: ignore[arg-type]
    curvature = _spread(logs - logs.diagonal(dim1=1, dim2=2)[:, :, None], alike)
    worst = max(spread, curvature)
    yield Finding.exactly(
        name="relative",
        statement="Weights depend on the relative position of two tokens alone; softmax then divides by a sum.",
        holds=worst < ROUNDING,
        evidence=(
            f"Of pairs that lie alike in a window of {side}x{side} tokens, weights of LRPE differ by {spread:.1e}, "
            f"logarithms of GQPE's relative to a token's own by {curvature:.1e} at most."
        ),
        value=worst,
    )


def _spread(values: Tensor, alike: Tensor) -> float:
    """Largest difference of ``values`` (G, target, source) among pairs of the same number in ``alike``."""
    pairs = [values.detach()[:, alike == number] for number in alike.unique()]
    return max(float((each.amax(1) - each.amin(1)).max()) for each in pairs)


def mirrored(side: int = 5) -> Iterator[Finding]:
    """Turn the vertical axis of centres and spreads around: the maps are mirrored, so its sign means nothing."""
    torch.manual_seed(0)
    encoding = QuadraticEncoding(side, GROUPS).double()
    torch.nn.init.normal_(encoding.attention_centers)
    torch.nn.init.normal_(encoding.attention_spreads)
    before = encoding().detach().unflatten(2, (side, side)).unflatten(1, (side, side))
    with torch.no_grad():
        encoding.attention_centers[:, 1].neg_()
        encoding.attention_spreads[:, 1].neg_()
    after = encoding().detach().unflatten(2, (side, side)).unflatten(1, (side, side))
    worst = float((after.flip(1, 3) - before).abs().max())
    changed = float((after - before).abs().max())
    yield Finding.exactly(
        name="mirrored",
        statement="Counting upwards or downwards is a matter of naming: other signs of the parameters undo it.",
        holds=worst < ROUNDING < changed,
        evidence=(
            f"With the vertical components negated, weights change by up to {changed:.2f}, and those of the mirrored "
            f"window differ by {worst:.1e} at most."
        ),
        value=worst,
    )
