"""What a comparison on the bench yields: measurements, findings, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common import figures
from common.bench import inference
from common.bench.floor import floor
from common.bench.images import CORRUPTION_CELLS, DATASET, SEVERITIES
from common.bench.measures import ROBUSTNESS
from common.bench.scores import Scores
from common.measurement import Finding, Measurement, Picture
from common.robustness.corruptions import CORRUPTIONS
from common.statistics import Estimate

#: What the bench does, written with every number; the version rises when the procedure changes.
PROTOCOL = "bench/1"


def measurements(scores: Scores, metrics: Sequence[str] | None = None) -> Iterator[Measurement]:
    """Mean over seeds of every contender and metric, with an interval over seeds and images and every seed's value."""
    yield from inference.measurements(scores, metrics, dataset=DATASET, protocol=PROTOCOL)


def findings(scores: Scores, *hypotheses: str) -> Iterator[Finding]:
    """Test hypotheses such as ``"a > b: corruption_top1"`` together; see `common.bench.inference`.

    Networks that are not above logistic regression on clean images get no verdict.
    """
    yield from inference.findings(scores, *hypotheses, floor=floor())


def difference_picture(name: str, scores: Scores, baseline: str, metrics: Sequence[str] = ROBUSTNESS) -> Picture:
    """Differences to ``baseline`` with intervals, a panel a metric, to the right where a contender is better."""
    others = [contender for contender in scores.contenders if contender != baseline]
    panels = {
        one: {other: _bar(inference.difference(scores, other, baseline, one)) for other in others} for one in metrics
    }
    seeds = len(scores.seeds)
    bars = "one seed, no interval" if seeds == 1 else f"bars are 95 % intervals over {seeds} seeds and over images"
    return Picture(
        name=name,
        caption=f"Difference to {baseline}, to the right where it is better; {bars}.",
        svg=figures.intervals(name, panels, xlabel="percentage points", zero=True),
    )


def corruption_picture(name: str, scores: Scores) -> Picture:
    """Error by corruption (mean over severities) and by severity (mean over corruptions), contenders side by side."""
    with figures.figure(name, width=9.0, height=3.6) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=(3, 1), sharey=True)
        for position, contender in enumerate(scores.contenders):
            colour = figures.COLOURS[position % len(figures.COLOURS)]
            # With more contenders than colours, the marker tells them apart.
            style = "os^D"[position // len(figures.COLOURS) % 4]
            error = {
                (one, severity): 100 - scores.mean(contender, f"corruption_top1/{one}/{severity}")
                for one, severity in CORRUPTION_CELLS
            }
            by_name = [sum(error[one, severity] for severity in SEVERITIES) / len(SEVERITIES) for one in CORRUPTIONS]
            by_severity = [
                sum(error[one, severity] for one in CORRUPTIONS) / len(CORRUPTIONS) for severity in SEVERITIES
            ]
            left.plot(range(len(CORRUPTIONS)), by_name, style, color=colour, markersize=4, label=contender)
            right.plot(SEVERITIES, by_severity, f"{style}-", color=colour, markersize=4, linewidth=1.5)
        left.set_xticks(range(len(CORRUPTIONS)), [n.replace("_", " ") for n in CORRUPTIONS], rotation=60, ha="right")
        left.set_ylabel("error, %")
        right.set_xticks(SEVERITIES)
        right.set_xlabel("severity")
        left.grid(axis="y")
        right.grid(axis="y")
        # As many entries beside each other as the longest name leaves room for, in inches.
        entry = 0.075 * max(len(contender) for contender in scores.contenders) + 0.6
        drawn.legend(loc="outside upper center", ncols=max(1, min(5, len(scores.contenders), int(9.0 / entry))))
        svg = figures.to_svg(drawn)
    return Picture(
        name=name,
        caption=(
            "Error by corruption (mean over severities) and by severity (mean over corruptions). Frost is made of "
            "textures with the statistics of the original's pictures."
        ),
        svg=svg,
    )


def _bar(estimate: Estimate) -> tuple[float, float, float]:
    """Value and ends of its bar, which has no length where there is no interval."""
    low, high = estimate.interval or (estimate.value, estimate.value)
    return estimate.value, low, high
