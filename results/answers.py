"""What a run says of each claim of its paper: what a reader looks for first, in the terminal as in the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from common.declaration import Claim
from common.manifest import metrics
from results import agreement, style
from results.judge import FINDINGS, OUTCOMES, Judgement, count
from results.measured import each


@dataclass(frozen=True)
class Answer:
    """What a run says of a claim.

    Attributes:
        claim, statement: as declared.
        verdict: the standing one of the primary finding; of a claim without one, the outcome of its printed numbers
            that needs attention first; else how far its measurement came.
        here: the key number of this run with its interval, or in words what was measured, or why nothing was.
        reference: the key number of our reference results; empty where there is none.
        agreement: ``agrees``, ``contradicts``, ``another budget``, or empty where there is nothing to compare with.
        measured: whether this run measured it.
        decisive: whether it has a primary finding.
    """

    claim: str
    statement: str
    verdict: str
    here: str
    reference: str
    agreement: str
    measured: bool
    decisive: bool

    def to_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self)


def answers(judged: Judgement) -> list[Answer]:
    """One for each claim: those with a primary finding first, the main claim on top, then those of printed numbers,
    then what was not measured; each as declared.
    """
    found = [_answer(judged, claim) for claim in judged.run.paper.claims]
    return sorted(found, key=lambda answer: (answer.verdict == "not measured", not answer.decisive))


def main_claim(found: list[Answer]) -> Answer | None:
    """The answer to the paper's main claim: the first declared one that has a primary finding, else the first."""
    return next((answer for answer in found if answer.decisive), found[0] if found else None)


def primary(judged: Judgement, claim: Claim) -> Any | None:
    """The claim's primary finding, a row of ``judged.findings``; None where it has none or was not measured."""
    rows = judged.findings[(judged.findings["claim"] == claim.name) & (judged.findings["name"] == claim.primary)]
    return next(each(rows), None) if claim.primary else None


def key_number(row: Any) -> str:
    """A finding's number with its interval and unit; what is exact has its evidence instead."""
    if row.exact or pd.isna(row.value):
        return str(row.evidence).rstrip(".")
    text = style.interval(row.value, row.low, row.high)
    # A hypothesis of the bench ends with its metric: "a > b: top1".
    metric = row.name.rpartition(": ")[2]
    unit = metrics()["unit"].get(metric, "") if " > " in row.name or " = " in row.name else ""
    signed = text if not unit or text.startswith("-") else f"+{text}"
    return f"{signed} {'points' if unit == '%' else unit}".rstrip() + _seeds(row)


def _seeds(row: Any) -> str:
    return "" if pd.isna(row.seeds) or not row.seeds else f" ({row.seeds} seed{'' if row.seeds == 1 else 's'})"


def _answer(judged: Judgement, claim: Claim) -> Answer:
    state = judged.claims.set_index("claim").loc[claim.name]
    row = primary(judged, claim)
    measured = claim.name in set(judged.measured["claim"])
    fields: dict[str, Any] = {
        "claim": claim.name,
        "statement": claim.statement,
        "measured": measured,
        "decisive": bool(claim.primary),
    }
    if row is not None:
        old = agreement.counterpart(judged.reference, row)
        beside = "" if old is None else row.agreement or "another budget"
        # An identity is the same sentence in both.
        reference = "" if old is None or row.exact else f"{key_number(old)}: {old.verdict}"
        return Answer(
            verdict=row.standing,
            here=key_number(row),
            reference=reference,
            agreement="" if row.exact and beside != "contradicts" else beside,
            **fields,
        )
    if not measured or state["state"] != "done":
        lacking = [name for name in claim.needs if name not in judged.run.settings.given()]
        here = state["reason"] or "nothing was measured"
        if lacking and state["state"] == "not measured":
            here = f"needs {' and '.join(lacking)}"
        verdict = str(state["state"]) if state["state"] != "done" else "not measured"
        return Answer(verdict=verdict, here=here, reference="", agreement="", **fields)
    against = judged.contradictions["claim"].eq(claim.name).any()
    beside = "contradicts" if against else ""
    rows = judged.comparisons.loc[judged.comparisons["claim"] == claim.name, "row"].unique()
    outcomes = {name: n for name, n in count(judged.rows.loc[rows, "outcome"], OUTCOMES).items() if n}
    if outcomes:
        here = f"of {style.plural(len(rows), 'printed number')} {style.pieces(outcomes)}"
        return Answer(verdict=next(iter(outcomes)), here=here, reference="", agreement=beside, **fields)
    mine = judged.findings.loc[judged.findings["claim"] == claim.name, "standing"]
    verdicts = {name: n for name, n in count(mine, FINDINGS).items() if n}
    own = int((judged.measured["claim"] == claim.name).sum()) - len(mine)
    here = (
        f"findings: {style.pieces(verdicts)}" if verdicts else f"{style.plural(own, 'number')} measured, none printed"
    )
    return Answer(verdict=next(iter(verdicts), "done"), here=here, reference="", agreement=beside, **fields)
