"""Figures for reports: matplotlib, drawn without a display, returned as SVG text."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from common.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that can be told apart with the common forms of colour blindness (Okabe and Ito), on light and on dark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
#: Lines and text between light and dark, so that one figure serves both.
INK = "#808080"

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": None,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "grid.color": INK,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def figure(name: str, width: float = 7.0, height: float = 3.5) -> Iterator[Figure]:
    """A figure in the house style, without touching matplotlib's global state.

    Args:
        name: seeds the ids in the SVG, so that figures of one report never share ids and equal data gives equal text.
        width, height: in inches.
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    style = {**_STYLE, "axes.prop_cycle": cycler(color=COLOURS), "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        yield Figure(figsize=(width, height), layout="constrained")


def multiples(drawn: Figure, count: int, width: float, height: float) -> list[Axes]:
    """``count`` small panels of this size in inches with a common y axis, three beside each other at most."""
    columns = min(3, count)
    lines = -(-count // columns)
    drawn.set_size_inches(1.6 + width * columns, lines * height)
    grid = drawn.subplots(lines, columns, sharey=True, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return list(grid.flat[:count])


#: A line of a panel: x, and an estimate at each.
Line = tuple[Sequence[float], Sequence[Estimate]]


class Panel(NamedTuple):
    """Lines over a common axis, one of several panels.

    Attributes:
        lines: label -> line.
        xlabel: with unit.
        logarithmic: whether the x axis is.
    """

    lines: Mapping[str, Line]
    xlabel: str
    logarithmic: bool = False


def accuracy_panels(name: str, panels: Mapping[str, Panel]) -> str:
    """Accuracy in per cent, a panel a kind of change and a line a model, with bands where there are intervals.

    Args:
        name: of the figure.
        panels: title -> panel; all with the same labels, in the same order.
    """
    with figure(name, width=2.4 * len(panels) + 1.4, height=3.0) as drawn:
        axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, panel) in zip(axes, panels.items(), strict=True):
            for position, (label, (x, estimates)) in enumerate(panel.lines.items()):
                colour, y = COLOURS[position % len(COLOURS)], [e.value for e in estimates]
                axis.plot(x, y, "o-", color=colour, label=label, markersize=3.5, linewidth=1.5)
                if all(e.interval for e in estimates):
                    low, high = [e.low for e in estimates], [e.high for e in estimates]
                    axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            if panel.logarithmic:
                ticks = sorted({at for x, _ in panel.lines.values() for at in x})
                axis.set_xscale("log")
                axis.set_xticks(ticks, [f"{at:g}" for at in ticks])
                axis.minorticks_off()
            axis.set_title(title)
            axis.set_xlabel(panel.xlabel)
            axis.set_ylim(0, 100)
            axis.grid()
        axes[0].set_ylabel("top-1 accuracy, %")
        handles, labels = axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)))
        return to_svg(drawn)


def to_svg(drawn: Figure) -> str:
    """The figure as SVG text without XML declaration; call it inside the ``figure`` context."""
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def intervals(
    name: str,
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    xlabel: str,
    zero: bool = False,
) -> str:
    """Estimates with intervals as dots and bars, a panel a quantity and a row a model.

    Args:
        name: of the figure.
        panels: title -> row label -> (value, low, high).
        xlabel: with unit.
        zero: draw a line at zero, for differences.
    """
    rows: Sequence[str] = list(next(iter(panels.values())))
    with figure(name) as drawn:
        axes = multiples(drawn, len(panels), width=2.1, height=0.3 * len(rows) + 0.75)
        for axis, (title, estimates) in zip(axes, panels.items(), strict=True):
            for position, row in enumerate(rows):
                value, low, high = estimates[row]
                colour = COLOURS[position % len(COLOURS)]
                axis.plot([low, high], [position, position], color=colour, linewidth=2, solid_capstyle="round")
                axis.plot([value], [position], "o", color=colour, markersize=5)
            if zero:
                axis.axvline(0, color=INK, linewidth=0.8, linestyle="--")
            axis.set_title(title)
            axis.set_yticks(range(len(rows)), rows)
            axis.set_ylim(len(rows) - 0.5, -0.5)
            axis.locator_params(axis="x", nbins=4)
            axis.grid(axis="x")
        drawn.supxlabel(xlabel, fontsize="medium")
        return to_svg(drawn)


def pictures(
    name: str,
    rows: Mapping[str, Sequence[Any]],
    *,
    width: float,
    height: float,
    limits: tuple[float, float] | None = None,
) -> str:
    """Grey pictures side by side, a labelled row of as many for each kind.

    Args:
        name: of the figure.
        rows: label -> pictures (H, W), arrays or tensors on the CPU.
        width, height: of the figure in inches.
        limits: values that are black and white; by default each picture's own.
    """
    low, high = limits or (None, None)
    with figure(name, width, height) as drawn:
        grid = drawn.subplots(len(rows), max(map(len, rows.values())), squeeze=False)
        for line, (label, shown) in zip(grid, rows.items(), strict=True):
            line[0].set_ylabel(label)
            for axis, picture in zip(line, shown, strict=True):
                axis.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
        return to_svg(drawn)


def curves(
    name: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    logy: bool = False,
    logx: bool = False,
    markers: bool = True,
) -> str:
    """Lines over a common axis.

    Args:
        name: of the figure.
        lines: label -> (x, y).
        xlabel, ylabel: with units.
        logy, logx: logarithmic axes.
        markers: mark the points.
    """
    with figure(name, width=5.5) as drawn:
        axis = drawn.subplots()
        for position, (label, (x, y)) in enumerate(lines.items()):
            colour = COLOURS[position % len(COLOURS)]
            axis.plot(x, y, color=colour, label=label, marker="o" if markers else "", markersize=3.5, linewidth=1.5)
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        if logy:
            axis.set_yscale("log")
        if logx:
            axis.set_xscale("log", subs=(2, 5))
            ends = axis.get_xlim()
            if ends[1] < 30 * ends[0]:  # over more than that, labels of 2 and 5 would overlap
                from matplotlib.ticker import LogFormatterSciNotation

                axis.xaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf)))
        axis.grid()
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return to_svg(drawn)
