"""What the order of a recursive gated convolution means: the degree of its output in its input, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from common import figures
from common.measurement import Finding, Picture
from common.profiling import flops
from papers.hornet.model import GatedConvolution

ORDERS = (1, 2, 3, 4, 5)
#: Largest relative difference from exact growth; norms keep their epsilon of 1e-6 beside a variance of about one.
TOLERANCE, TOLERANCE_WITH_NORMS = 1e-12, 1e-4
#: Channels, side of the map and of the convolution in the third stage of HorNet-T.
CHANNELS, SIDE, KERNEL = 256, 14, 7


def growth_error(mixer: nn.Module, x: Tensor, degree: int, factor: float = 1.5) -> float:
    """How far ``mixer(factor * x)`` is from ``factor ** degree * mixer(x)``, relative to its largest value.

    The biases of ``mixer`` are set to zero.
    """
    for name, parameter in mixer.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    with torch.no_grad():
        grown = mixer(factor * x)
        return float((grown - factor**degree * mixer(x)).abs().max() / grown.abs().max())


def homogeneity() -> Iterator[Finding]:
    """Gated convolutions of every order, by convolutions and by global filters, in float64."""
    torch.manual_seed(0)
    x = torch.randn(2, 9, 8, 32, dtype=torch.float64)
    errors = [growth_error(GatedConvolution(32, n).double(), x, degree=n + 1) for n in ORDERS]
    yield Finding.exactly(
        name="degree",
        statement="Without biases, the output of a gated convolution of order n is homogeneous of degree n + 1.",
        holds=max(errors) < TOLERANCE,
        evidence=f"Largest relative difference {max(errors):.1e} over orders {ORDERS[0]} to {ORDERS[-1]}.",
    )
    errors = [growth_error(GatedConvolution(32, n, grid=(9, 8)).double(), x, degree=1) for n in ORDERS]
    yield Finding.exactly(
        name="degree_with_global_filters",
        statement=(
            "With global filters it is homogeneous of degree 1 whatever the order: their norms take the scale of the "
            "input out of all gates."
        ),
        holds=max(errors) < TOLERANCE_WITH_NORMS,
        evidence=f"Largest relative difference {max(errors):.1e} over orders {ORDERS[0]} to {ORDERS[-1]}.",
    )


def multiply_adds(mixer: GatedConvolution, side: int) -> int:
    """Multiply-adds on a map of ``side`` x ``side`` positions, the products of gating included."""
    channels = mixer.proj_in.in_features
    # The counter leaves out element-wise products, of which there is one for each gated channel.
    return flops(mixer, inputs=torch.zeros(1, side, side, channels)).total + side**2 * sum(mixer.dims)


def closed_form(channels: int, order: int, side: int, kernel: int) -> int:
    """The same from the widths: projections, convolution, and the products of gating."""
    dims = [channels // 2**k for k in reversed(range(order))]
    steps = sum(narrow * wide for narrow, wide in pairwise(dims))
    return side**2 * (3 * channels**2 + steps + (kernel**2 + 1) * sum(dims))


def bound(channels: int, side: int, kernel: int) -> float:
    """What all orders stay below: HWC (2 K^2 + 11/3 C + 2)."""
    return side**2 * channels * (2 * kernel**2 + 11 / 3 * channels + 2)


def complexity() -> Iterator[Finding | Picture]:
    """Count gated convolutions of every order."""
    counted = {n: multiply_adds(GatedConvolution(CHANNELS, n, kernel_size=KERNEL), SIDE) for n in ORDERS}
    exact = all(count == closed_form(CHANNELS, n, SIDE, KERNEL) for n, count in counted.items())
    limit = bound(CHANNELS, SIDE, KERNEL)
    first, last = counted[ORDERS[0]], counted[ORDERS[-1]]
    yield Finding.exactly(
        name="bound",
        statement=(
            "A gated convolution of any order costs less than HWC (2 K^2 + 11/3 C + 2) multiply-adds, and exactly what "
            "its widths say."
        ),
        holds=exact and max(counted.values()) < limit,
        evidence=(
            f"{first / 1e6:.2f} M for order {ORDERS[0]} to {last / 1e6:.2f} M for order {ORDERS[-1]}, below "
            f"{limit / 1e6:.2f} M (C = {CHANNELS}, H = W = {SIDE}, K = {KERNEL})."
        ),
    )
    with figures.figure("complexity", 5.0, 3.0) as drawn:
        axes = drawn.subplots()
        axes.plot(ORDERS, [count / 1e6 for count in counted.values()], marker="o", label="gated convolution")
        axes.axhline(limit / 1e6, linestyle="--", color=figures.INK, label="bound of all orders")
        axes.set(xlabel="order", ylabel="multiply-adds (M)", xticks=ORDERS, ylim=(0, None))
        axes.legend(loc="lower right")
        svg = figures.to_svg(drawn)
    yield Picture(
        name="complexity",
        caption=f"Multiply-adds of a gated convolution of {CHANNELS} channels on a map of {SIDE} x {SIDE}, by order.",
        svg=svg,
    )
