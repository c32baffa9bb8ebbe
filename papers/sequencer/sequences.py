"""What two-dimensional LSTMs see, and what they cost.

Axes: B images, H rows, W columns, C channels, h the hidden size of an LSTM.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timm.models.sequencer import LSTM2d
from torch import Tensor, nn

from common.measurement import Finding
from common.profiling import flops

#: Rows and columns of the tokens whose dependence is measured.
HEIGHT, WIDTH = 7, 9


def seen(layers: nn.Module) -> Tensor:
    """Which tokens (H, W) the token in the middle depends on, after ``layers`` of 8 channels."""
    layers = layers.double()
    tokens = torch.randn(1, HEIGHT, WIDTH, 8, dtype=torch.float64, requires_grad=True)
    middle = layers(tokens)[0, HEIGHT // 2, WIDTH // 2]
    (gradient,) = torch.autograd.grad((middle * torch.randn_like(middle)).sum(), tokens)
    return gradient[0].abs().amax(dim=-1) > 0


def cross() -> Tensor:
    """The middle's row and column (H, W)."""
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[HEIGHT // 2] = True
    expected[:, WIDTH // 2] = True
    return expected


def reach() -> Iterator[Finding]:
    """A token's dependence on others, after one layer and after two, by exact gradients."""
    torch.manual_seed(0)
    layers = {union: [LSTM2d(8, 2, union=union) for _ in range(2)] for union in ("cat", "vertical")}
    one, two = seen(layers["cat"][0]), seen(nn.Sequential(*layers["cat"]))
    column = seen(nn.Sequential(*layers["vertical"]))
    everything = HEIGHT * WIDTH
    yield Finding.exactly(
        name="cross",
        statement="After one BiLSTM2D a token depends on its row and its column and on nothing else.",
        holds=bool((one == cross()).all()),
        evidence=f"It depends on {int(one.sum())} of {everything} tokens; row and column have {HEIGHT + WIDTH - 1}.",
        value=float(one.sum()),
    )
    yield Finding.exactly(
        name="two_layers",
        statement="After two it depends on all tokens, with the vertical LSTM alone on its column.",
        holds=bool(two.all()) and int(column.sum()) == HEIGHT,
        evidence=f"It depends on {int(two.sum())} of {everything} tokens, with vertical LSTMs on {int(column.sum())}.",
        value=float(two.sum()),
    )


def closed_form(tokens: int, channels: int, hidden: int) -> int:
    """Multiply-adds of a BiLSTM2D: in two directions along two axes four gates of a step, and the layer after them."""
    return tokens * (2 * 2 * 4 * hidden * (channels + hidden) + 4 * hidden * channels)


def cost() -> Finding:
    """The multiply-adds of a BiLSTM2D as counted, against the closed form, over the size of the feature map."""
    channels, hidden = 192, 48
    layer = LSTM2d(channels, hidden)
    sides = (8, 16, 32, 56)
    counted = [flops(layer, inputs=torch.zeros(1, side, side, channels)).total for side in sides]
    worst = max(abs(count - closed_form(side**2, channels, hidden)) for side, count in zip(sides, counted, strict=True))
    return Finding.exactly(
        name="linear",
        statement="A BiLSTM2D takes 16 h (C + h) + 4 h C multiply-adds a token, however many tokens there are.",
        holds=worst == 0,
        evidence=f"It differs by {worst} at most, on maps of {', '.join(f'{s} x {s}' for s in sides)} tokens.",
        value=float(worst),
    )
