"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from typing import Any

import pandas as pd
from markupsafe import Markup

from common.measurement import Picture
from results import figures, page, style, training
from results.judge import Judgement
from results.measured import each
from results.svg import inline


def render(judged: Judgement, provenance: dict[str, Any]) -> str:
    """The report of a run as HTML.

    Args:
        judged: the run.
        provenance: as ``results.output.provenance`` gives it.
    """
    pictures = _Pictures()
    return page.render(
        "report.html",
        paper=judged.run.paper,
        judged=judged,
        provenance=provenance,
        provenance_json=json.dumps(provenance, indent=2),
        headline=headline(judged),
        tables=list(_tables(judged)),
        not_measured=list(_not_measured(judged)),
        sources=list(dict.fromkeys(judged.rows["source"])),
        own=list(_own(judged, pictures)),
        differences=pictures.draw(figures.differences(judged)),
        claim_figures=[
            (claim, [pictures.draw(result) for result in results if isinstance(result, Picture)])
            for claim, results in judged.run.results.items()
            if any(isinstance(result, Picture) for result in results)
        ],
        training=pictures.draw(training.curves(judged.run.folder)),
        statements={claim.name: claim.statement for claim in judged.run.paper.claims},
        finding_of=_finding_of(judged),
        findings=[{**row._asdict(), "beside": style.beside_reference(row)} for row in each(judged.findings)],
        done=set(judged.claims.loc[judged.claims["state"] == "done", "claim"]),
    )


def headline(judged: Judgement) -> str:
    """What the run says, in one or two sentences."""
    counts = judged.counts
    outcomes = ("reproduced", "off", "off, known", "unclear")
    measured = sum(counts[name] for name in outcomes)
    if not len(judged.rows):
        numbers = "The manifest has no printed numbers yet."
    elif not measured:
        numbers = f"None of the {len(judged.rows)} printed numbers was measured."
    else:
        parts = [f"{counts[name]} {name}" for name in outcomes if counts[name]]
        numbers = f"{measured} of {len(judged.rows)} printed numbers were measured: {', '.join(parts)}."
    broken = judged.claims.loc[~judged.claims["state"].isin(["done", "not measured"]), "claim"]
    if len(broken):
        numbers += f" Not finished: {', '.join(broken)}."
    if against := len(judged.contradictions):
        numbers += f" {against} result{' contradicts' if against == 1 else 's contradict'} the reference."
    return numbers


class _Pictures:
    """Gives each figure of a page an id of its own."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, picture: Picture | None) -> dict[str, Any] | None:
        if picture is None:
            return None
        self.drawn += 1
        return {"caption": picture.caption, "svg": Markup(inline(picture.svg, f"figure{self.drawn}", picture.caption))}


def _tables(judged: Judgement) -> Iterator[dict[str, Any]]:
    """Tables of the printed numbers that were measured, or whose measurement failed."""
    shown = judged.rows[judged.rows["outcome"] != "not measured"]
    of_model = shown["dataset"] == "-"
    for title, part, weights in (
        ("Size and cost", shown[of_model], ("none",)),
        ("Accuracy and robustness", shown[~of_model], ("released", "trained")),
    ):
        if part.empty:
            continue
        found = judged.comparisons[judged.comparisons["row"].isin(part.index)]
        # A value whose weights have no column of their own would vanish from the table.
        kinds = [kind for kind in style.WEIGHTS if kind in weights or (found["weights"] == kind).any()]
        yield {
            "title": title,
            "headings": [style.WEIGHTS[kind] for kind in kinds],
            "rows": [_table_row(judged, index, row, kinds) for index, row in part.iterrows()],
            "reasons": _reasons(found),
        }


def _table_row(judged: Judgement, index: Any, row: pd.Series, kinds: list[str]) -> dict[str, Any]:
    found = judged.comparisons[judged.comparisons["row"] == index]
    cells = [[_cell(x, row["value"]) for x in each(found[found["weights"] == kind])] for kind in kinds]
    return {"cells": cells, **{str(name): value for name, value in row.items()}}


def _cell(x: Any, text: str) -> dict[str, Any]:
    value = style.interval(x.measured, x.low, x.high) if pd.notna(x.low) else style.number(x.measured, text)
    lines = [style.signed(x.difference, text), "not judged" if pd.isna(x.tolerance) else f"tolerance {x.tolerance:g}"]
    if pd.notna(x.n):
        lines.append(f"{x.n:,} images")
    if pd.notna(x.seeds) and x.seeds:
        lines.append(f"{x.seeds} seed{'s' if x.seeds > 1 else ''}")
    return {"value": value, "lines": lines, "outcome": x.outcome}


def _reasons(found: pd.DataFrame) -> list[str]:
    """Which tolerance stands for which metrics, and why."""
    lines = []
    for (reason, _), part in found.groupby(["reason", "tolerance"], sort=False, dropna=False):
        width = f"{part['tolerance'].iloc[0]:g}" if part["tolerance"].notna().all() else "not judged"
        kinds = [style.WEIGHTS[kind] for kind in dict.fromkeys(part["weights"]) if kind != "none"]
        what = ", ".join(dict.fromkeys(part["metric"])) + (f" ({', '.join(kinds)})" if kinds else "")
        lines.append(f"{what}: {width}; {reason}")
    return lines


def _not_measured(judged: Judgement) -> Iterator[dict[str, Any]]:
    """Printed numbers that were not measured, by what they need."""
    missing = judged.rows[judged.rows["outcome"] == "not measured"]
    for reason, part in missing.groupby("verdict", sort=False):
        yield {"reason": str(reason).removeprefix("not measured: "), "rows": part.to_dict("records")}


def _own(judged: Judgement, pictures: _Pictures) -> Iterator[dict[str, Any]]:
    """Numbers that nobody printed, a table and a figure a claim and data set."""
    for (claim, dataset), part in judged.own.groupby(["claim", "dataset"], sort=False):
        seeds = sorted({int(n) for n in part["seeds"].dropna() if n})
        yield {
            "dataset": dataset,
            "grid": style.wide(part),
            "seeds": seeds,
            "claim": claim,
            "figure": pictures.draw(figures.own_numbers(part)),
            "notes": [f"{row.model} {row.metric}: {row.note}" for row in each(part) if row.note],
        }


def _finding_of(judged: Judgement) -> dict[str, list[dict[Hashable, Any]]]:
    return {str(claim): part.to_dict("records") for claim, part in judged.findings.groupby("claim")}
