"""All numbers of all papers in one table: what sources print, and what we measured, each with where it comes from."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from common.errors import UserError, nearest
from common.figures import COLOURS, figure, to_svg
from common.manifest import PAPERS, load_manifest, metrics
from results import reference
from results.measured import each, load

#: One row a number. ``kind`` is ``printed`` or ``measured``, ``digits`` are those that are printed, ``weights`` what
#: was measured. ``source`` and ``locator`` say where it is printed; of a measured one they are commit and command.
COLUMNS = (
    *("paper", "model", "dataset", "metric", "value", "unit", "better", "kind", "digits", "weights"),
    *("low", "high", "seeds", "source", "locator", "note"),
)

#: What numbers can be drawn against.
COSTS = {"params": "parameters, millions", "flops": "multiply-adds, billions"}


def numbers(
    slugs: Collection[str] = (), *, dataset: str | None = None, metric: str | None = None, model: str | None = None
) -> pd.DataFrame:
    """Printed and measured numbers as a tidy table, best first within each data set and metric.

    Printed ones are those of every paper's manifest, measured ones those of our reference results.

    Args:
        slugs: of papers; all without any.
        dataset, metric: only these, by their exact names.
        model: only models whose name matches, ``*`` and ``?`` being wildcards; without any, those that it is a part of.

    Returns:
        Columns ``COLUMNS``. ``better`` is ``higher``, ``lower`` or empty, and then the smallest comes first.

    Raises:
        UserError: nothing is called so; names the nearest.
    """
    manifests = {path.parent.name.replace("_", "-"): path for path in sorted(PAPERS.glob("*/expected.csv"))}
    for slug in slugs:
        if slug not in manifests:
            raise UserError(f"There is no paper {slug!r}.{nearest(slug, manifests)} ./reproduce.sh list shows them.")
    chosen = [slug for slug in manifests if not slugs or slug in slugs]
    tables = [_printed(slug, manifests[slug]) for slug in chosen]
    tables += [_measured(slug) for slug in chosen if reference.path_of(slug).exists()]
    filled = [table for table in tables if len(table)]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(COLUMNS))
    for column, wanted in (("dataset", dataset), ("metric", metric)):
        if wanted is not None:
            known = sorted(set(table[column]))
            if wanted not in known:
                raise UserError(f"No number has the {column} {wanted!r}.{nearest(wanted, known)}")
            table = table[table[column] == wanted]
    if model is not None:
        pattern = model.lower() if set(model) & set("*?[") else f"*{model.lower()}*"
        table = table[[fnmatchcase(name.lower(), pattern) for name in table["model"]]]
        if table.empty:
            raise UserError(f"No number is of a model that matches {model!r}; * stands for any letters.")
    return _best_first(table)


def picture(table: pd.DataFrame, cost: str) -> str:
    """Accuracy or robustness against cost as SVG, papers by colour; filled is measured, open printed.

    Args:
        table: of ``numbers``, of one data set and one metric.
        cost: of ``COSTS``.

    Raises:
        UserError: the table has several metrics, or no model whose cost is known.
    """
    shown = table[["dataset", "metric"]].drop_duplicates()
    if len(shown) != 1:
        raise UserError("A figure shows one metric on one data set; give --dataset and --metric.")
    known = costs(cost)
    table = table.assign(cost=table["model"].map(lambda name: known.get(name, known.get(name.partition(".")[0]))))
    table = table[table["cost"].notna()]
    if table.empty:
        raise UserError(f"Of none of these models the {cost} are known; leave out --plot.")
    (dataset, metric), unit = shown.iloc[0], table["unit"].iloc[0]
    with figure(f"numbers-{dataset}-{metric}", width=8.0, height=4.5) as drawn:
        axes = drawn.subplots()
        for position, (slug, part) in enumerate(table.groupby("paper")):
            # With more papers than colours, the marker tells them apart.
            colour, marker = COLOURS[position % len(COLOURS)], "os^Dv"[position // len(COLOURS) % 5]
            for kind, dots in part.groupby("kind"):
                face = colour if kind == "measured" else "none"
                axes.plot(dots["cost"], dots["value"], marker, color=colour, markerfacecolor=face, markersize=5)
            axes.plot([], [], marker, color=colour, label=slug)
        axes.set_xscale("log")
        axes.set_xlabel(COSTS[cost])
        axes.set_ylabel(f"{metric} on {dataset}{f', {unit}' if unit else ''}")
        axes.grid()
        drawn.legend(loc="outside right upper")
        return to_svg(drawn)


def costs(cost: str) -> dict[str, float]:
    """The parameters or multiply-adds of every model of which they are known: as we count them, else as printed."""
    table = numbers(metric=cost)
    table = table[table["dataset"] == "-"].sort_values("kind")  # "measured" is before "printed"
    return dict(table.drop_duplicates("model")[["model", "value"]].itertuples(index=False))


def _printed(slug: str, path: Path) -> pd.DataFrame:
    table = load_manifest(path)
    table = table.rename(columns={"value": "digits", "printed": "value"})
    table["note"] = table["known"].where(table["known"] != "", table["note"])
    return _tidy(table, paper=slug, kind="printed", weights="", low=None, high=None, seeds=None)


def _measured(slug: str) -> pd.DataFrame:
    table = load(reference.path_of(slug))
    table = table[table["kind"] == "measurement"].copy()
    table["source"] = [f"resight {row.commit[:12]}" for row in each(table)]
    table["locator"] = table["command"]
    return _tidy(table, paper=slug, kind="measured", digits="")


def _tidy(table: pd.DataFrame, **constant: str | None) -> pd.DataFrame:
    better = table["metric"].map(metrics()["better"].to_dict()).fillna("")
    table = table.assign(better=better, **constant)[list(COLUMNS)]
    return table.astype({"value": float, "low": float, "high": float}).astype({"seeds": "Int64"})


def _best_first(table: pd.DataFrame) -> pd.DataFrame:
    rank = table["value"].where(table["better"] != "higher", -table["value"])
    ordered = table.assign(rank=rank).sort_values(["dataset", "metric", "rank", "paper"], kind="stable")
    return ordered.drop(columns="rank").reset_index(drop=True)
