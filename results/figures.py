"""Figures that every report has, whatever the paper: drawn from the judged tables alone."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.measurement import Picture
from results.judge import Judgement

COLOURS = {"reproduced": "#2a7f62", "off": "#c2413b", "unclear": "#b27d12"}
MARKERS = {"reproduced": "o", "off": "X", "unclear": "D"}
INK = "#4477aa"

#: Beyond this many tolerances the exact distance no longer matters: the point is drawn at the edge.
REACH = 4.0
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resight",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
}


def differences(judged: Judgement, most: int = 60) -> Picture | None:
    """Measured minus printed in tolerances, a row a number; None where nothing was compared."""
    table = judged.comparisons
    table = table[table["outcome"].isin(COLOURS) & (table["tolerance"] > 0)]
    if table.empty:
        return None
    # With too many rows to read, those farthest off are the ones to see.
    distance = table["difference"] / table["tolerance"]
    table = table.assign(distance=distance)
    shown = table.loc[table["distance"].abs().sort_values(ascending=False).index[:most]].sort_index()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 0.9 + 0.24 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvspan(-1, 1, color="#888888", alpha=0.18, linewidth=0)
        axes.axvline(0, color="#888888", linewidth=0.8)
        for place, row in enumerate(shown.itertuples()):
            x = float(np.clip(row.distance, -REACH, REACH))
            if pd.notna(row.low):
                low, high = (row.low - row.printed) / row.tolerance, (row.high - row.printed) / row.tolerance
                ends = np.clip([low, high], -REACH, REACH)
                axes.plot(ends, [place, place], color=COLOURS[row.outcome], linewidth=1.2)
            axes.plot(x, place, MARKERS[row.outcome], color=COLOURS[row.outcome], markersize=5.5)
        axes.set_yticks(range(len(shown)), [_name(row) for row in shown.itertuples()])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(-REACH - 0.2, REACH + 0.2)
        axes.set_xlabel("measured minus printed, in tolerances")
        axes.tick_params(axis="y", length=0)
        cut = f" The {most} farthest of {len(table)} are shown." if len(table) > most else ""
        return Picture(
            name="differences",
            caption="Measured minus printed, divided by the tolerance. Within the grey band a number counts as "
            f"reproduced; circle reproduced, cross off, diamond unclear; lines are 95 % intervals; points at the edge "
            f"lie beyond it.{cut}",
            svg=_svg(figure),
        )


def own_numbers(table: pd.DataFrame, most: int = 9) -> Picture | None:
    """Small multiples, a panel a metric, of measurements on one data set; None with fewer than two models."""
    metrics = [metric for metric, part in table.groupby("metric", sort=False) if part["model"].nunique() > 1][:most]
    if not metrics:
        return None
    models = list(dict.fromkeys(table["model"]))
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2.6 + 2.0 * columns, lines * (0.75 + 0.22 * len(models))), layout="constrained")
        grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes in grid.flat[len(metrics) :]:
            axes.set_visible(False)
        for axes, metric in zip(grid.flat, metrics, strict=False):
            part = table[table["metric"] == metric]
            unit = part["unit"].iloc[0]
            for row in part.itertuples():
                place = models.index(row.model)
                if np.isfinite([row.low, row.high]).all():
                    axes.plot([row.low, row.high], [place, place], color=INK, linewidth=1.4)
                axes.plot(row.value, place, "o", color=INK, markersize=5)
            axes.set_title(f"{metric} [{unit}]" if unit else metric)
            axes.set_yticks(range(len(models)), models)
            axes.set_ylim(len(models) - 0.5, -0.5)
            axes.tick_params(axis="y", length=0)
            axes.locator_params(axis="x", nbins=4)
            axes.grid(axis="x", color="#888888", alpha=0.25, linewidth=0.6)
        dataset = table["dataset"].iloc[0]
        where = "" if dataset == "-" else f" on {dataset}"
        return Picture(
            name=f"own-{dataset}",
            caption=f"Measured{where}: points are values, lines their 95 % intervals where chance plays a part.",
            svg=_svg(figure),
        )


def _name(row: tuple) -> str:
    what = row.metric if row.dataset == "-" else f"{row.dataset} {row.metric}"  # type: ignore[attr-defined]
    kind = "" if row.weights == "none" else f", {row.weights}"  # type: ignore[attr-defined]
    return f"{row.model}  {what}{kind}"  # type: ignore[attr-defined]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
