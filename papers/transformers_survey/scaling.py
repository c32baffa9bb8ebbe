"""How multiply-adds, time and memory of the families grow with the number of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from common import figures
from common.measurement import Finding, Measurement, Picture, Result
from common.profiling import flops
from common.profiling.timing import Cost, compare_cost, forward
from common.shapes import shapes_only
from papers.transformers_survey.families import FAMILIES, Family

#: Channels and heads of a token.
DIM, HEADS = 24, 3
#: Sides of the grids that are counted, whose shapes alone are needed, and of those that are run.
COUNTED, TIMED, QUICK = (8, 16, 32, 64, 128, 256), (8, 16, 32, 64), (8, 16, 32)
#: What a fitted exponent may be off by: at the largest grid there is still some of what grows more slowly.
TOLERANCE = 0.15
ROUNDS = 9
#: The exponent from which growth is not linear in the number of tokens.
SUPERLINEAR = 1.25


def multiply_adds(family: Family, side: int) -> int:
    """Of one image of ``side`` x ``side`` tokens."""
    with shapes_only():
        module = family.make(DIM, HEADS, side)
        return flops(module, inputs=torch.zeros(1, side**2, DIM)).total


def exponent(sides: Sequence[int], values: Sequence[float]) -> float:
    """The power of the number of tokens by which ``values`` grow between the two largest grids."""
    (small, large), (before, after) = sides[-2:], values[-2:]
    return math.log(after / before) / math.log(large**2 / small**2)


def counted() -> dict[str, list[int]]:
    """Multiply-adds of every family at the sides of `COUNTED`."""
    return {family.name: [multiply_adds(family, side) for side in COUNTED] for family in FAMILIES}


def complexity(counts: dict[str, list[int]]) -> Iterator[Result]:
    """Compare fitted exponents with those of the definitions."""
    fitted = {family.name: exponent(COUNTED, counts[family.name]) for family in FAMILIES}
    for family in FAMILIES:
        yield Measurement(
            model=f"transformers-survey.{family.name}",
            dataset="-",
            metric="multiply_adds_exponent",
            value=fitted[family.name],
            unit="",
            protocol=f"scaling/1 power of the tokens between {COUNTED[-2]}^2 and {COUNTED[-1]}^2, {DIM} channels",
            detail={f"{side}^2 tokens": count for side, count in zip(COUNTED, counts[family.name], strict=True)},
        )
    off = {family.name: abs(fitted[family.name] - family.exponent) for family in FAMILIES}
    worst = max(off, key=off.__getitem__)
    yield Finding.exactly(
        name="exponents",
        statement="The fitted power of the number of tokens is that of the definition, for every family.",
        holds=off[worst] < TOLERANCE,
        evidence=f"The largest difference of {len(off)} is {off[worst]:.2f}, of {worst} (bound {TOLERANCE}).",
        value=off[worst],
    )


def measured_costs(device: str, quick: bool) -> dict[str, list[Cost]]:
    """Time and peak memory of every family's forward pass of one image, by side; of one side they take turns."""
    costs: dict[str, list[Cost]] = {family.name: [] for family in FAMILIES}
    rounds = 3 if quick else ROUNDS
    for side in QUICK if quick else TIMED:
        torch.manual_seed(0)
        x = torch.randn(1, side**2, DIM, device=device)
        calls = {family.name: forward(family.make(DIM, HEADS, side).to(device), x) for family in FAMILIES}
        what = f"timing {side}x{side} tokens"
        compared = compare_cost(calls, baseline="global", device=device, rounds=rounds, description=what)
        for name, comparison in compared.items():
            costs[name].append(comparison.cost)
    return costs


def time_and_memory(costs: dict[str, list[Cost]], quick: bool) -> Iterator[Result]:
    """Fitted exponents of time and memory, and whether they follow the multiply-adds."""
    sides = QUICK if quick else TIMED
    between = f"between {sides[-2]}^2 and {sides[-1]}^2 tokens"
    found: dict[str, tuple[float, float]] = {}
    for name, own in costs.items():
        seconds, memory = [each.seconds.median for each in own], [float(each.memory or 1) for each in own]
        found[name] = exponent(sides, seconds), exponent(sides, memory)
        for metric, value, values in (
            ("time_exponent", found[name][0], [1000 * each for each in seconds]),
            ("memory_exponent", found[name][1], [each / 1e6 for each in memory]),
        ):
            yield Measurement(
                model=f"transformers-survey.{name}",
                dataset="-",
                metric=metric,
                value=value,
                unit="",
                protocol=f"scaling/1 power of the tokens {between}, {DIM} channels, forward",
                detail={f"{side}^2 tokens": each for side, each in zip(sides, values, strict=True)},
            )
    of_time, of_memory = found["global"]
    yield Finding(
        name="global_memory",
        statement="The memory of global self-attention grows by the square of the number of tokens.",
        verdict="holds" if of_memory > 2 - TOLERANCE else "does not hold",
        evidence=f"It grows by the power {of_memory:.2f}, and time by {of_time:.2f}, {between}.",
        value=of_memory,
    )
    linear = [family.name for family in FAMILIES if family.exponent <= 1]
    slow = {name: found[name][0] for name in linear if found[name][0] > SUPERLINEAR}
    yield Finding(
        name="linear_time",
        statement="Families with linear multiply-adds take linear time.",
        verdict="does not hold" if slow else "holds",
        evidence=(
            f"Of {len(linear)}, {', '.join(f'{name} ({power:.2f})' for name, power in slow.items()) or 'none'} "
            f"grow by a power above {SUPERLINEAR} {between}."
        ),
        value=float(len(slow)),
    )


def scaling_picture(counts: dict[str, list[int]], costs: dict[str, list[Cost]], quick: bool) -> Picture:
    """Multiply-adds, time and memory over the number of tokens, both axes logarithmic, a line a family."""
    sides = QUICK if quick else TIMED
    with figures.figure("scaling", width=10.0, height=4.2) as drawn:
        panels = drawn.subplots(1, 3)
        for position, family in enumerate(FAMILIES):
            colour = figures.COLOURS[position % len(figures.COLOURS)]
            style = ("o-", "s--", "^:")[position // len(figures.COLOURS) % 3]
            label = f"{family.name}, N^{family.exponent:g}"
            lines = (
                (COUNTED, [count / 1e9 for count in counts[family.name]]),
                (sides, [1000 * cost.seconds.median for cost in costs[family.name]]),
                (sides, [(cost.memory or 1) / 1e6 for cost in costs[family.name]]),
            )
            for axis, (grid, values) in zip(panels, lines, strict=True):
                tokens = [side**2 for side in grid]
                axis.plot(tokens, values, style, color=colour, markersize=3, linewidth=1, label=label)
        titles = ("multiply-adds, 1e9", "time, ms", "peak memory, MB")
        for axis, title in zip(panels, titles, strict=True):
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xlabel("tokens N")
            axis.set_title(title, fontsize=8)
            axis.grid(True)
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=6)
        svg = figures.to_svg(drawn)
    return Picture(
        name="scaling",
        caption=(
            f"One layer of {DIM} channels on one image: multiply-adds, and time and memory of a forward pass on this "
            "machine, with the power of N that each definition has."
        ),
        svg=svg,
    )
