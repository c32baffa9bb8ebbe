"""What a lower keep rate saves: multiply-adds, and time on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import timm
import torch

from common import figures
from common.measurement import Measurement, Picture, Result
from common.profiling import Comparison, compare_cost, flops, forward, ratio_finding, time_measurement
from common.shapes import shapes_only

#: Transformers with rho = 0.7, of which the release says that it saves more than 30 %.
TRANSFORMERS = (
    "dynamicvit_deit_256",
    "dynamicvit_deit_small",
    "dynamicvit_deit_base",
    "dynamicvit_lvvit_small",
    "dynamicvit_lvvit_medium",
)
RATES = (1.0, 0.9, 0.7, 0.5)
TIMED = "dynamicvit_deit_256"
#: Time that "over 40 %" more images a second leave an image.
BOUND = 1 / 1.4


def multiply_adds(name: str, rate: float) -> float:
    """Multiply-adds of one image at a keep rate; rate 1 is the host."""
    with shapes_only():
        model = timm.create_model(name, keep_rate=rate)
    return flops(model, (3, 224, 224)).total


def reduction() -> Measurement:
    """How much fewer multiply-adds the sparsified transformers take than their hosts: the least of them."""
    saved = {name: 100 * (1 - multiply_adds(name, 0.7) / multiply_adds(name, 1.0)) for name in TRANSFORMERS}
    return Measurement(
        model="dynamicvit",
        dataset="-",
        metric="flops_reduction",
        value=min(saved.values()),
        unit="%",
        protocol="flops_reduction/1 keep rate 0.7 against 1, the least over DeiT and LV-ViT",
        detail={"by_model": saved},
    )


def time(*, device: str, batch: int, rounds: int) -> Iterator[Result]:
    """Time of a forward pass by keep rate, against the host's, and the curve beside multiply-adds."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, 224, 224, device=device)
    candidates: dict[str, Any] = {
        f"{rate:g}": forward(timm.create_model(TIMED, keep_rate=rate).to(device), images) for rate in RATES
    }
    costs = compare_cost(candidates, baseline="1", device=device, rounds=rounds, memory=False)
    for rate, compared in costs.items():
        yield time_measurement(f"{TIMED}.keep_rate_{rate}", "forward_time", compared.cost, batch, 224)
    ratio = costs["0.7"].time_ratio
    yield Measurement(
        model="dynamicvit",
        dataset="-",
        metric="throughput_gain",
        value=100 * (1 / ratio.median - 1),
        unit="%",
        interval=ratio.interval and (100 * (1 / ratio.interval[1] - 1), 100 * (1 / ratio.interval[0] - 1)),
        over="rounds" if ratio.interval else "",
        protocol=f"throughput_gain/1 {TIMED} at keep rate 0.7 against 1, batch {batch} on {device}",
    )
    yield ratio_finding(
        name="time",
        statement="At keep rate 0.7 more than 40 % more images a second are classified than by the host.",
        ratio=ratio,
        bound=BOUND,
        whose="the host's",
        rest=f", of which 1.4 times as many images leave {BOUND:.3f}; {TIMED}, batch {batch} at 224 pixels on {device}",
    )
    yield picture(costs)


def picture(costs: Mapping[str, Comparison]) -> Picture:
    """Time and multiply-adds relative to the host's, over the keep rate."""
    rates = [float(rate) for rate in costs]
    counted = [multiply_adds(TIMED, rate) for rate in rates]
    lines = {
        "multiply-adds": [100 * each / counted[0] for each in counted],
        "time": [100 * compared.time_ratio.median for compared in costs.values()],
    }
    with figures.figure("cost", width=4.2, height=3.0) as drawn:
        axis = drawn.subplots()
        for label, values in lines.items():
            axis.plot(rates, values, "o-", label=label, markersize=4, linewidth=1.5)
        axis.set_xlabel("keep rate of the first step")
        axis.set_ylabel("of the host's, %")
        axis.set_ylim(0, 105)
        axis.grid()
        axis.legend()
        svg = figures.to_svg(drawn)
    return Picture(
        name="cost",
        caption=f"Time and multiply-adds of {TIMED} over its keep rate, relative to its host's.",
        svg=svg,
    )
