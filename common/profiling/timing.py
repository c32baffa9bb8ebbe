"""Time and peak memory of callables, compared in one process, interleaved.

Machines drift: other work, clock frequency and temperature change within seconds. So candidates take turns, each
round runs every candidate once in changing order, and a ratio is taken within a round, where both sides saw the same
machine. Medians and quartiles over the rounds are reported, never a single run, and a verdict on a cost is one on the
interval of the median.
"""

from __future__ import annotations

import copy
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import UserError, nearest
from common.measurement import Finding, Measurement
from common.profiling.memory import peak_memory
from common.progress import track
from common.statistics import Estimate, median_interval
from common.verdicts import of_bound

#: Seconds that one timed sample lasts at least; shorter functions are repeated within a sample.
SAMPLE = 0.005


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ``n`` samples, and the 95 % interval of the median, which takes six samples or more."""

    median: float
    low: float
    high: float
    n: int
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, samples: list[float]) -> Spread:
        """Summarise samples; a single one is its own spread."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high, len(samples), median_interval(samples).interval)

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Cost:
    """What one call costs.

    Attributes:
        seconds: of one call.
        memory: peak bytes above what was allocated before the call, or None where it was not measured.
    """

    seconds: Spread
    memory: int | None


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the baseline; a ratio of 2 is twice the time or memory.

    Attributes:
        cost: the candidate's own.
        time_ratio: candidate over baseline, round by round.
        memory_ratio: candidate over baseline; None where memory was not measured or the baseline uses none.
    """

    cost: Cost
    time_ratio: Spread
    memory_ratio: float | None


def time_measurement(model: str, metric: str, cost: Cost, images: int, size: int) -> Measurement:
    """The median time that ``cost`` gives for ``images`` images of ``size`` pixels, of one of them, in ms."""
    scale = 1000 / images
    seconds = cost.seconds
    return Measurement(
        model=model,
        dataset="-",
        metric=metric,
        value=scale * seconds.median,
        unit="ms",
        interval=seconds.interval and (scale * seconds.interval[0], scale * seconds.interval[1]),
        over="rounds" if seconds.interval else "",
        peak_memory=None if cost.memory is None else cost.memory / 1e6,
        protocol=f"time/1 an image, median, batch {images}, {size} pixels, {torch.get_num_threads()} threads",
        detail={"quartiles_ms": [scale * seconds.low, scale * seconds.high]},
    )


def ratio_finding(
    statement: str, ratio: Spread, bound: float, *, whose: str, rest: str = "", name: str = ""
) -> Finding:
    """The finding that a cost is at most ``bound`` times another one, by the interval of the median over rounds.

    Args:
        statement: one sentence.
        ratio: round by round, as of ``compare_cost``.
        bound: what is allowed.
        whose: what the cost is compared with, in the possessive: ``self-attention's``.
        rest: further evidence, continues the sentence.
        name: the finding's.
    """
    median, interval = ratio.median, ratio.interval
    known = f"95 % interval {interval[0]:.3g} to {interval[1]:.3g}" if interval else "too few for an interval"
    return Finding(
        name=name,
        statement=statement,
        verdict=of_bound(Estimate(median, *(interval or (-math.inf, math.inf))), bound),
        evidence=f"{median:.3g} times {whose} time, median of {ratio.n} rounds ({known}){rest}.",
        value=median,
        interval=interval,
        over="rounds" if interval else "",
    )


def forward(model: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """Return a call that runs a copy of the model forward, in eval mode, without gradients."""
    model = copy.deepcopy(model).eval()

    def run() -> None:
        with torch.no_grad():
            model(inputs)

    return run


def training_step(model: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """Return a call that runs a copy of the model forward and backward in training mode.

    The loss is the mean square of the output (of the first, if there are several), which costs next to nothing. Each
    call begins and ends without gradients, so its peak memory has them in; the optimizer's step, the same for any
    model of a size, is not part of it.
    """
    model = copy.deepcopy(model).train()

    def run() -> None:
        output = model(inputs)
        while not isinstance(output, Tensor):
            output = output[0]
        output.square().mean().backward()
        model.zero_grad(set_to_none=True)

    return run


def cost(
    function: Callable[[], object],
    *,
    device: torch.device | str = "cpu",
    rounds: int = 15,
    warmup: int = 2,
    memory: bool = True,
) -> Cost:
    """Measure one function; see `compare_cost` for the arguments, and use it to compare several."""
    return _measure({"": function}, device, rounds, warmup, memory, "timing")[0][""]


def compare_cost(
    candidates: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    device: torch.device | str = "cpu",
    rounds: int = 15,
    warmup: int = 2,
    memory: bool = True,
    description: str = "timing",
) -> dict[str, Comparison]:
    """Measure functions against a named one among them; ``{name: training_step(model, x)}`` compares models.

    Args:
        candidates: what to call, by name; the baseline is one of them, and its ratios are 1.
        baseline: name of the candidate that the others are divided by.
        device: where they run; asynchronous devices are waited for.
        rounds: samples a candidate.
        warmup: untimed calls of each candidate before the first round.
        memory: whether to measure peak memory, too, in one more call of each.
        description: what the progress bar says.

    Raises:
        UserError: the baseline is not among the candidates.
    """
    if baseline not in candidates:
        known = ", ".join(candidates)
        raise UserError(f"The baseline {baseline!r} is not among {known}.{nearest(baseline, candidates)}")
    costs, samples = _measure(candidates, device, rounds, warmup, memory, description)
    compared = {}
    for name, own in costs.items():
        ratios = [mine / theirs for mine, theirs in zip(samples[name], samples[baseline], strict=True)]
        used, reference = own.memory, costs[baseline].memory
        memory_ratio = used / reference if used is not None and reference else None
        compared[name] = Comparison(own, Spread.of(ratios), memory_ratio)
    return compared


def _measure(
    candidates: Mapping[str, Callable[[], object]],
    device: torch.device | str,
    rounds: int,
    warmup: int,
    memory: bool,
    description: str,
) -> tuple[dict[str, Cost], dict[str, list[float]]]:
    if rounds < 1 or warmup < 0:
        raise UserError(f"Timing needs at least 1 round and 0 or more warm-up calls, not {rounds} and {warmup}.")
    device = torch.device(device)
    repeats = {}
    for name, function in candidates.items():
        for _ in range(warmup):
            function()
        repeats[name] = max(1, math.ceil(SAMPLE / _seconds(function, 1, device)))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    for _ in track(range(rounds), description):
        for name in order:
            samples[name].append(_seconds(candidates[name], repeats[name], device))
        order = [*order[1:], order[0]]
    return {
        name: Cost(Spread.of(samples[name]), peak_memory(function, device) if memory else None)
        for name, function in candidates.items()
    }, samples


def _seconds(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds a call, over ``repeats`` calls, with the garbage collector held back."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        _wait_for(device)
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        _wait_for(device)
        return (time.perf_counter() - start) / repeats
    finally:
        if collecting:
            gc.enable()


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
