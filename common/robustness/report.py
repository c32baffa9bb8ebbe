"""Tables and a figure of robustness measurements, models side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.table import Table

from common.figures import COLOURS, Line, Panel, figure, to_svg
from common.measurement import Measurement
from common.robustness.corruptions import CORRUPTIONS, SEVERITIES
from common.statistics import Estimate

#: Metrics with one row for each cell: too many for a table of all metrics; errors have a table and a figure.
_CELLS = ("corruption_error/", "patch_corruption_top1/")


def summary_table(results: Mapping[str, Sequence[Measurement]]) -> Table:
    """All metrics but those of single cells, a column a model.

    Args:
        results: label of a model to its measurements.
    """
    table = Table(title="Robustness (95 % interval over images)", title_justify="left")
    for header in ("data set", "metric"):
        table.add_column(header, overflow="fold")
    for label in results:
        table.add_column(label, justify="right", overflow="fold")
    found = {label: {(m.dataset, m.metric): m for m in measured} for label, measured in results.items()}
    rows = dict.fromkeys(key for measured in found.values() for key in measured if not key[1].startswith(_CELLS))
    for dataset, metric in rows:
        cells = [_number(measured.get((dataset, metric))) for measured in found.values()]
        table.add_row(dataset, metric, *cells)
    return table


def corruption_table(label: str, errors: Mapping[str, Sequence[float]]) -> Table:
    """Top-1 error in per cent by corruption and severity.

    Args:
        label: of the model.
        errors: corruption to the errors in [0, 1] at severities 1 to 5.
    """
    table = Table(title=f"{label}: top-1 error in % by severity", title_justify="left")
    table.add_column("corruption")
    for severity in SEVERITIES:
        table.add_column(str(severity), justify="right")
    table.add_column("mean", justify="right")
    for name, values in errors.items():
        numbers = [*values, fmean(values)]
        table.add_row(name, *(f"{100 * value:.1f}" for value in numbers))
    return table


def comparison_table(errors: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """Top-1 error in per cent by corruption, mean over severities, a column a model.

    Args:
        errors: label of a model to its errors in [0, 1], as from ``corruption_errors_of``.
    """
    table = Table(title="top-1 error in %, mean over severities", title_justify="left")
    table.add_column("corruption")
    for label in errors:
        table.add_column(label, justify="right", overflow="fold")
    means = {label: {name: fmean(values) for name, values in of_model.items()} for label, of_model in errors.items()}
    for name in CORRUPTIONS:
        table.add_row(name, *(f"{100 * of_model[name]:.1f}" for of_model in means.values()))
    table.add_row("mean", *(f"{100 * fmean(of_model.values()):.1f}" for of_model in means.values()))
    return table


def corruption_errors_of(measured: Sequence[Measurement]) -> dict[str, list[float]]:
    """Errors in [0, 1] by corruption at severities 1 to 5, from the measurement of mCE; empty without one."""
    for measurement in measured:
        if measurement.metric == "mce":
            return measurement.detail["errors"]
    return {}


def corruption_figure(errors: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Error over severity, a panel a corruption and a line a model, as SVG text.

    Args:
        errors: label of a model to its errors in [0, 1], as from ``corruption_errors_of``.
    """
    rows, columns = 3, 5
    with figure("corruptions", width=9.0, height=5.4) as drawn:
        axes = drawn.subplots(rows, columns, sharex=True, sharey=True)
        for axis, name in zip(axes.flat, CORRUPTIONS, strict=True):
            for position, (label, of_model) in enumerate(errors.items()):
                percent = [100 * value for value in of_model[name]]
                colour = COLOURS[position % len(COLOURS)]
                axis.plot(
                    SEVERITIES,
                    percent,
                    color=colour,
                    label=label,
                    marker="o",
                    markersize=3,
                    linewidth=1.5,
                    clip_on=False,
                )
            axis.set_title(name.replace("_", " "), fontsize="small")
            axis.set_ylim(0, 100)
            axis.set_xticks(SEVERITIES)
            axis.grid()
        axes[-1, columns // 2].set_xlabel("severity")  # the figure's own label would lie under the legend
        drawn.supylabel("top-1 error in %", fontsize="medium")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        drawn.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=max(1, min(4, len(labels), 100 // (8 + max(map(len, labels))))),
        )
        return to_svg(drawn)


def occlusion_panels(results: Mapping[str, Sequence[Measurement]]) -> dict[str, Panel]:
    """Accuracy over what is dropped or shuffled, as the figures of Naseer et al. (arXiv 2105.10497) have it.

    Args:
        results: label of a model to its measurements, of which those of occlusion count.

    Returns:
        Title to panel, for ``common.figures.accuracy_panels``; empty where no occlusion was measured. The x of
        non-salient drop is the share that is lost, as that of the others.
    """
    panels = {}
    for title in ("random", "salient", "non-salient", "shuffled"):
        metric = "shuffle_top1" if title == "shuffled" else f"{title.replace('-', '')}_drop_top1"
        lines = {label: line for label, measured in results.items() if (line := _occlusion_line(measured, metric))}
        if lines:
            shuffled = title == "shuffled"
            panels[title] = Panel(lines, "number of tiles" if shuffled else "share lost", logarithmic=shuffled)
    return panels


def frequency_panels(results: Mapping[str, Sequence[Measurement]]) -> dict[str, Panel]:
    """Accuracy over the radius of a filter, as the frequency analysis of Bai et al. (arXiv 2204.00993) has it.

    Args:
        results: label of a model to its measurements, of which those behind filters count.

    Returns:
        Title to panel, for ``common.figures.accuracy_panels``; empty where nothing was filtered.
    """
    panels = {}
    for title, metric in (("low frequencies alone", "low_pass_top1"), ("high frequencies alone", "high_pass_top1")):
        lines = {}
        for label, measured in results.items():
            points = {float(m.metric.partition("/")[2]): m for m in measured if m.metric.startswith(f"{metric}/")}
            if points:
                lines[label] = _line(points)
        if lines:
            panels[title] = Panel(lines, "radius of the filter", logarithmic=True)
    return panels


def _occlusion_line(measured: Sequence[Measurement], metric: str) -> Line | None:
    """Accuracy at each degree of ``metric``, that on whole images first."""
    points = {}
    for measurement in measured:
        name, _, degree = measurement.metric.partition("/")
        if name == metric:
            if name == "shuffle_top1":
                rows, _, columns = degree.partition("x")
                points[float(int(rows) * int(columns))] = measurement
            else:
                points[1 - float(degree) if name == "nonsalient_drop_top1" else float(degree)] = measurement
        elif measurement.metric == "random_drop_top1/0":
            points[1.0 if metric == "shuffle_top1" else 0.0] = measurement
    if not any(point.metric.startswith(metric) for point in points.values()):
        return None
    return _line(points)


def _line(points: Mapping[float, Measurement]) -> Line:
    x = sorted(points)
    return x, [Estimate(points[at].value, *(points[at].interval or (-math.inf, math.inf))) for at in x]


def _number(measurement: Measurement | None) -> str:
    if measurement is None:
        return "-"
    text = f"{measurement.value:.2f}"
    if measurement.interval:
        low, high = measurement.interval
        text += f" [{low:.2f}, {high:.2f}]"
    return text
