"""What the embedded experiment yields: measurements, findings on paired differences, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from common import figures, manifest
from common.measurement import Finding, Measurement, Picture
from common.robustness.corruptions import CORRUPTIONS
from common.robustness.embedded.images import DATASET, SEVERITIES, test_set
from common.robustness.embedded.robustness import METRICS
from common.statistics import Estimate, paired_interval
from common.verdicts import difference_finding, mean_measurement

#: What the embedded experiment does, written with every number; the version rises when the procedure changes.
PROTOCOL = "embedded/2"
#: The metrics that a statement about robustness is tested on.
ROBUSTNESS_METRICS = ("corruption_top1", "pgd_eps4_top1", "occlusion_top1")


def measurements(table: pd.DataFrame, quick: bool, metrics: Sequence[str] = METRICS) -> Iterator[Measurement]:
    """Mean over seeds with 95 % interval, of every contender and metric of ``compare``."""
    for name in table.index.unique("model"):
        scores = table.loc[name]
        for metric in metrics:
            cells: dict[str, object] = {
                column: float(scores[column].mean()) for column in map(str, table) if column.startswith(f"{metric}/")
            }
            yield mean_measurement(
                list(scores[metric]),
                model=name,
                dataset=DATASET,
                metric=metric,
                unit="%",
                weights="trained",
                n=len(test_set(quick).clean if metric in ("top1", "rms_calibration_error") else test_set(quick).images),
                protocol=PROTOCOL,
                detail=cells,
            )


def differences(table: pd.DataFrame, baseline: str, metric: str) -> dict[str, Estimate]:
    """Paired differences to ``baseline`` over seeds, in percentage points, of every other contender."""
    base = list(table.loc[baseline][metric])
    others = [name for name in table.index.unique("model") if name != baseline]
    return {name: paired_interval(list(table.loc[name][metric]), base) for name in others}


def improvements(table: pd.DataFrame, baseline: str, metric: str) -> dict[str, Estimate]:
    """``differences`` to the better: turned around where a lower ``metric`` is better."""
    estimates = differences(table, baseline, metric)
    if not lower_is_better(metric):
        return estimates
    return {name: Estimate(-e.value, -e.high, -e.low) for name, e in estimates.items()}


def lower_is_better(metric: str) -> bool:
    """Whether ``common/metrics.csv`` says so; a metric that it does not know is better when higher."""
    known = manifest.metrics()
    return metric in known.index and str(known.loc[metric, "better"]) == "lower"


def more_robust(table: pd.DataFrame, baseline: str, metrics: Sequence[str] = ROBUSTNESS_METRICS) -> Iterator[Finding]:
    """One finding a contender and metric: is it better than ``baseline``, by a paired t interval over seeds?"""
    for metric in metrics:
        for name, estimate in improvements(table, baseline, metric).items():
            better = "lower" if lower_is_better(metric) else "higher"
            statement = f"{name} has a {better} {metric} than {baseline} at equal budget."
            yield difference_finding(statement, estimate, len(table.loc[name]))


def difference_picture(name: str, table: pd.DataFrame, baseline: str, metrics: Sequence[str] = METRICS) -> Picture:
    """Paired differences to ``baseline`` with intervals, a panel a metric."""
    estimates = {metric: improvements(table, baseline, metric) for metric in metrics}
    seeds = table.index.get_level_values("seed").nunique()
    if seeds == 1:
        bars = "one seed, no interval."
    else:
        bars = f"bars are 95 % intervals over {seeds} seeds, paired"
        equal = any(e.interval is None for panel in estimates.values() for e in panel.values())
        bars += "; a point without one is a difference that all seeds have alike." if equal else "."
    panels = {metric: {n: _bar(e) for n, e in panel.items()} for metric, panel in estimates.items()}
    return Picture(
        name=name,
        caption=f"Difference to {baseline} in percentage points, to the right where it is better; {bars}",
        svg=figures.intervals(name, panels, xlabel="percentage points", zero=True),
    )


def _bar(estimate: Estimate) -> tuple[float, float, float]:
    """Value and ends of its bar, which has no length where there is no interval."""
    low, high = estimate.interval or (estimate.value, estimate.value)
    return estimate.value, low, high


def corruption_picture(name: str, table: pd.DataFrame) -> Picture:
    """Error by corruption (mean over severities) and by severity (mean over corruptions), contenders side by side."""
    means = table.groupby(level="model", sort=False).mean()
    with figures.figure(name, width=9.0, height=3.6) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=(3, 1), sharey=True)
        for position, (label, row) in enumerate(means.iterrows()):
            colour = figures.COLOURS[position % len(figures.COLOURS)]
            # With more contenders than colours, the marker tells them apart.
            style = "os^D"[position // len(figures.COLOURS) % 4]
            error = {(n, s): 100 - row[f"corruption_top1/{n}/{s}"] for n in CORRUPTIONS for s in SEVERITIES}
            by_name = [sum(error[n, s] for s in SEVERITIES) / len(SEVERITIES) for n in CORRUPTIONS]
            by_severity = [sum(error[n, s] for n in CORRUPTIONS) / len(CORRUPTIONS) for s in SEVERITIES]
            left.plot(range(len(CORRUPTIONS)), by_name, style, color=colour, markersize=4, label=str(label))
            right.plot(SEVERITIES, by_severity, f"{style}-", color=colour, markersize=4, linewidth=1.5)
        left.set_xticks(range(len(CORRUPTIONS)), [n.replace("_", " ") for n in CORRUPTIONS], rotation=60, ha="right")
        left.set_ylabel("error, %")
        right.set_xticks(SEVERITIES)
        right.set_xlabel("severity")
        left.grid(axis="y")
        right.grid(axis="y")
        # As many entries beside each other as the longest name leaves room for, in inches.
        entry = 0.075 * max(len(str(label)) for label in means.index) + 0.6
        drawn.legend(loc="outside upper center", ncols=max(1, min(5, len(means), int(9.0 / entry))))
        svg = figures.to_svg(drawn)
    return Picture(
        name=name,
        caption=(
            "Error by corruption (mean over severities) and by severity (mean over corruptions). Frost is made of "
            "textures with the statistics of the original's pictures."
        ),
        svg=svg,
    )
