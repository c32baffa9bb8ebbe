"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
from markupsafe import Markup

from common.measurement import Picture
from results import figures, missing, page, style, training
from results.answers import Answer, answers
from results.judge import Judgement, own_models_first
from results.measured import each
from results.svg import inline


def render(judged: Judgement, provenance: dict[str, Any]) -> str:
    """The report of a run as HTML.

    Args:
        judged: the run.
        provenance: as ``results.output.provenance`` gives it.
    """
    pictures = _Pictures()
    found = answers(judged)
    return page.render(
        "report.html",
        paper=judged.run.paper,
        judged=judged,
        provenance=provenance,
        provenance_json=json.dumps(provenance, indent=2),
        headline=headline(judged),
        answers=found,
        claims=[_claim(judged, answer, pictures) for answer in found if answer.measured],
        tables=list(_tables(judged)),
        missing=missing.by_need(judged),
        sources=list(dict.fromkeys(judged.rows["source"])),
        differences=pictures.draw(figures.differences(judged)),
        training=pictures.draw(training.curves(judged.run.folder)),
        statements={claim.name: claim.statement for claim in judged.run.paper.claims},
        measured_claims={answer.claim for answer in found if answer.measured},
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


def _claim(judged: Judgement, answer: Answer, pictures: _Pictures) -> dict[str, Any]:
    """All that was measured for one claim: what is shown at once, and what is folded."""
    (claim,) = (claim for claim in judged.run.paper.claims if claim.name == answer.claim)
    findings = [
        {**row._asdict(), "beside": style.beside_reference(row)}
        for row in each(judged.findings[judged.findings["claim"] == claim.name])
    ]
    first = [row for row in findings if claim.primary and row["name"] == claim.primary]
    drawn = [pictures.draw(one) for one in judged.run.results[claim.name] if isinstance(one, Picture)]
    state = judged.claims.set_index("claim").loc[claim.name]
    return {
        "answer": answer,
        "primary": first[0] if first else None,
        "secondary": [row for row in findings if row not in first],
        "figures": drawn[:1],
        "more_figures": drawn[1:],
        "own": list(_own(judged, claim.name, pictures)),
        "contradictions": judged.contradictions[judged.contradictions["claim"] == claim.name].to_dict("records"),
        "state": state.to_dict(),
    }


def _tables(judged: Judgement) -> Iterator[dict[str, Any]]:
    """Tables of the printed numbers that were measured, or whose measurement failed."""
    shown = own_models_first(judged.run.paper, judged.rows[judged.rows["outcome"] != "not measured"])
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
            "rows": _table_rows(judged, part, kinds),
            "reasons": _reasons(found),
        }


def _table_rows(judged: Judgement, part: pd.DataFrame, kinds: list[str]) -> list[dict[str, Any]]:
    """A row a printed number; one that several sources repeat, with the same digits and the same outcome, is one."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for index, row in part.iterrows():
        found = judged.comparisons[judged.comparisons["row"] == index]
        cells = [[_cell(x, row["value"]) for x in each(found[found["weights"] == kind])] for kind in kinds]
        shown = {"cells": cells, "places": [], **{str(name): value for name, value in row.items()}}
        key = tuple(row[name] for name in ("model", "dataset", "metric", "value", "outcome"))
        place = {name: row[name] for name in ("locator", "source", "note", "paper")}
        rows.setdefault(key, shown)["places"].append(place)
    return list(rows.values())


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


def _own(judged: Judgement, claim: str, pictures: _Pictures) -> Iterator[dict[str, Any]]:
    """Numbers of a claim that nobody printed, a table and a figure a data set."""
    for dataset, part in judged.own[judged.own["claim"] == claim].groupby("dataset", sort=False):
        seeds = sorted({int(n) for n in part["seeds"].dropna() if n})
        yield {
            "dataset": dataset,
            "grid": style.wide(part),
            "seeds": seeds,
            "figure": pictures.draw(figures.own_numbers(part)),
            "notes": [f"{row.model} {row.metric}: {row.note}" for row in each(part) if row.note],
        }
