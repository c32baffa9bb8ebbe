"""Figures that every report has, whatever the paper: drawn from the judged tables alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from common.figures import COLOURS, INK, figure, multiples, to_svg
from common.measurement import Picture
from results.judge import Judgement
from results.measured import each

#: Colour and marker of a verdict; neither is needed to tell it from the others.
LOOK = {
    "reproduced": (COLOURS[2], "o"),
    "off": (COLOURS[1], "X"),
    "off, known": (COLOURS[1], "x"),
    "unclear": (COLOURS[4], "D"),
}

#: What all small models are compared by, as titles of panels.
COMPARED = {"top1": "top-1 accuracy, %", "corruption_top1": "top-1 under corruption, %"}

#: Beyond this many tolerances the exact distance no longer matters: the point is drawn at the edge.
REACH = 4.0


def differences(judged: Judgement, most: int = 60) -> Picture | None:
    """Measured minus printed in tolerances, a row a number; None where nothing was compared.

    Args:
        judged: the run.
        most: with more rows than can be read, those that are farthest off are drawn.
    """
    table = judged.comparisons
    table = table[table["outcome"].isin(list(LOOK)) & (table["tolerance"] > 0)]
    if table.empty:
        return None
    table = table.assign(distance=table["difference"].div(table["tolerance"]))
    shown = table.loc[table["distance"].abs().sort_values(ascending=False).index[:most]].sort_index()
    with figure("differences", width=7.2, height=0.9 + 0.24 * len(shown)) as drawn:
        axes = drawn.add_subplot()
        axes.axvspan(-1, 1, color=INK, alpha=0.18, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, row in enumerate(each(shown)):
            colour, marker = LOOK[row.outcome]
            if pd.notna(row.low):
                ends = np.array([row.low, row.high]) - row.printed
                axes.plot(np.clip(ends / row.tolerance, -REACH, REACH), [place, place], color=colour, linewidth=1.2)
            axes.plot([np.clip(row.distance, -REACH, REACH)], [place], marker, color=colour, markersize=5.5)
        axes.set_yticks(range(len(shown)), [_name(row) for row in each(shown)])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(-REACH - 0.2, REACH + 0.2)
        axes.set_xlabel("measured minus printed, in tolerances")
        axes.tick_params(axis="y", length=0)
        svg = to_svg(drawn)
    cut = f" The {most} farthest of {len(table)} are shown." if len(table) > most else ""
    caption = (
        "Measured minus printed, divided by the tolerance; within the grey band they agree. Circle: reproduced, "
        "cross: off (thin: for a known reason), diamond: unclear. Lines are 95 % intervals; a point at the edge lies "
        f"beyond it.{cut}"
    )
    return Picture(name="differences", caption=caption, svg=svg)


def own_numbers(table: pd.DataFrame, most: int = 9) -> Picture | None:
    """Small multiples, a panel a metric, of measurements on one data set; None with fewer than two models.

    Args:
        table: measurements of one claim on one data set, columns of ``results.measured``.
        most: number of panels at most, the first metrics first.
    """
    panels = [(metric, part) for metric, part in table.groupby("metric", sort=False) if part["model"].nunique() > 1]
    panels = panels[:most]
    if not panels:
        return None
    models = list(dict.fromkeys(table["model"]))
    dataset = str(table["dataset"].iloc[0])
    name = f"own-{table['claim'].iloc[0]}-{dataset}"
    with figure(name) as drawn:
        grid = multiples(drawn, len(panels), width=2.1, height=0.75 + 0.22 * len(models))
        for axes, (metric, part) in zip(grid, panels, strict=True):
            for row in each(part):
                place = models.index(row.model)
                axes.plot([row.low, row.high], [place, place], color=COLOURS[0], linewidth=1.4)
                axes.plot([row.value], [place], "o", color=COLOURS[0], markersize=5)
            unit = part["unit"].iloc[0]
            axes.set_title(f"{metric} [{unit}]" if unit else str(metric))
            axes.set_yticks(range(len(models)), models)
            axes.set_ylim(len(models) - 0.5, -0.5)
            axes.tick_params(axis="y", length=0)
            axes.locator_params(axis="x", nbins=4)
            axes.grid(axis="x")
        svg = to_svg(drawn)
    where = "" if dataset == "-" else f" on {dataset}"
    caption = f"Measured{where}: points are values, lines their 95 % intervals where chance plays a part."
    return Picture(name=name, caption=caption, svg=svg)


def small_models(table: pd.DataFrame) -> Picture | None:
    """Accuracy and robustness of the bench's models against their cost, papers by colour; None without models.

    Args:
        table: ``model``, ``paper``, ``cost`` (multiply-adds in millions) and the metrics ``COMPARED``, a row a model.
    """
    if table.empty:
        return None
    with figure("small-models", width=9.5, height=4.2) as drawn:
        panels = drawn.subplots(1, len(COMPARED))
        for axes, (metric, title) in zip(panels, COMPARED.items(), strict=True):
            for position, (slug, part) in enumerate(table.groupby("paper", sort=True)):
                # With more papers than colours, the marker tells them apart.
                look = {"color": COLOURS[position % len(COLOURS)], "marker": "os^DvP"[position // len(COLOURS) % 6]}
                axes.plot(part["cost"], part[metric], linestyle="", markersize=5, label=slug, **look)
            # Named are those that no other beats at their cost or less.
            ordered = table.sort_values(["cost", metric], ascending=[True, False])
            best = ordered[ordered[metric] > ordered[metric].cummax().shift(fill_value=-np.inf)]
            axes.plot(best["cost"], best[metric], color=INK, linewidth=0.8, zorder=0, drawstyle="steps-post")
            for row in each(best):
                place = {"xytext": (4, -9), "textcoords": "offset points", "fontsize": "small", "color": INK}
                axes.annotate(row.model, (row.cost, getattr(row, metric)), **place)
            axes.set_xscale("log")
            for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
                ticks("{x:g}")
            axes.margins(x=0.15, y=0.08)
            axes.set_xlabel("multiply-adds, millions")
            axes.set_title(title)
            axes.grid()
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper center", ncols=min(8, len(labels)))
        svg = to_svg(drawn)
    caption = (
        "Small models of all architectures, trained alike on Fashion-MNIST, against the multiply-adds of one image. "
        "Named, and joined by the line, are those that none of the same cost or less beats."
    )
    return Picture(name="small-models", caption=caption, svg=svg)


def _name(row: Any) -> str:
    what = row.metric if row.dataset == "-" else f"{row.dataset} {row.metric}"
    kind = "" if row.weights == "none" else f", {row.weights}"
    return f"{row.model}  {what}{kind}"
