"""Verdicts: printed numbers beside measured ones, and what they say.

A number that was measured is ``reproduced``, ``off`` or ``unclear``; one that was not is ``not measured`` or
``failed``, with the reason. ``off, known`` is off for a reason that the manifest states: the released code itself does
not give the number. Nothing else exists, and only a comparison of two numbers gives ``reproduced``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import pandas as pd

from common.declaration import Claim, Paper
from common.manifest import half_unit, load_manifest, metrics
from common.measurement import Weights
from common.needs import command
from common.run import ClaimState, Run
from results import agreement
from results.measured import each, of_run

KEY = ["model", "dataset", "metric"]
WEIGHTS: tuple[str, ...] = get_args(Weights)

#: Outcomes of a printed number, the ones that need attention first.
OUTCOMES = ("off", "failed", "unclear", "off, known", "reproduced", "not measured")

#: Verdicts of a finding, in the order of the report.
FINDINGS = ("does not hold", "unclear", "no difference", "holds")


@dataclass(frozen=True)
class Tolerance:
    """How far a measured value may be from the printed one: ``width`` in the metric's unit, NaN if not judged."""

    width: float
    reason: str


@dataclass(frozen=True)
class Judgement:
    """A run and everything that it says.

    Attributes:
        run: what was judged.
        rows: as ``judge`` returns it.
        comparisons: one row a printed number and kind of weights that were measured: ``row`` (index in ``rows``),
            ``weights``, ``measured``, ``low``, ``high``, ``seeds``, ``n``, ``difference``, ``tolerance``, ``reason``,
            ``outcome``, ``explanation``.
        own: measurements that no printed number corresponds to; columns of ``results.measured``.
        findings: columns of ``results.measured``, those of ``results.agreement``, and ``standing``: the verdict that
            stands, the reference's where this run has fewer seeds and is judged by it, else the run's own.
        claims: one row a claim: ``claim``, ``statement``, ``kind``, ``state``, ``reason``, ``seconds``, ``command``
            (which measures it), ``verdict`` (the standing one of its primary finding, or empty).
        contradictions: what contradicts the reference: columns of ``results.measured`` and ``results.agreement``.
        measured: everything that was measured, columns of ``results.measured``.
        reference: our reference results, by which the run was judged; None where there are none.
    """

    run: Run
    rows: pd.DataFrame
    comparisons: pd.DataFrame
    own: pd.DataFrame
    findings: pd.DataFrame
    claims: pd.DataFrame
    contradictions: pd.DataFrame
    measured: pd.DataFrame
    reference: pd.DataFrame | None

    @property
    def counts(self) -> dict[str, int]:
        """Number of printed numbers by outcome, in the order of ``OUTCOMES``."""
        return count(self.rows["outcome"], OUTCOMES)

    @property
    def finding_counts(self) -> dict[str, int]:
        """Number of findings by the verdict that stands, in the order of ``FINDINGS``."""
        return count(self.findings["standing"], FINDINGS)

    @property
    def exit_status(self) -> int:
        """What the run says, for people and for CI.

        0: everything that was measured is as printed, or off and known, and agrees with the reference; 1: something is
        newly off, an exact finding is broken, or something contradicts the reference; 2: the run could not be made to
        its end, or measured nothing.
        """
        broken = self.findings["exact"] & (self.findings["verdict"] == "does not hold")
        if broken.any() or (self.rows["outcome"] == "off").any() or len(self.contradictions):
            return 1
        unfinished = ~self.claims["state"].isin(["done", "not measured"])
        if self.measured.empty or unfinished.any() or (self.rows["outcome"] == "failed").any():
            return 2
        return 0


def judgement(run: Run, reference: pd.DataFrame | None = None, *, alone: bool = False) -> Judgement:
    """Judge everything in ``run`` against the manifest of its paper and of the papers that it builds on.

    Args:
        run: in any state.
        reference: our reference results of the paper, or None where there are none.
        alone: let the run's own verdicts stand, as they do anyway with ``ENOUGH_SEEDS`` seeds that were asked for.
    """
    expected, measured = printed(run.paper), of_run(run)
    numbers = measured[measured["kind"] == "measurement"]
    rows, comparisons = _judge(expected, numbers, lambda row: _why_not(run, row), reference)
    keys = pd.MultiIndex.from_frame(expected[KEY])
    alone = alone or (run.settings.seeds or 0) >= agreement.ENOUGH_SEEDS
    compared = measured.join(agreement.beside(None if alone else reference, measured))
    findings = compared[compared["kind"] == "finding"].reset_index(drop=True)
    # An identity must hold here and now, and what no training is behind needs no more of them.
    judged_by_it = (findings["reference"] != "") & ~findings["exact"] & (findings["seeds"].fillna(0) > 0)
    findings["standing"] = findings["reference"].where(judged_by_it, findings["verdict"])
    return Judgement(
        run=run,
        rows=rows,
        comparisons=comparisons,
        own=numbers[~pd.MultiIndex.from_frame(numbers[KEY]).isin(keys)].reset_index(drop=True),
        findings=findings,
        claims=_claims(run, findings),
        contradictions=compared[compared["agreement"] == "contradicts"].reset_index(drop=True),
        measured=measured,
        reference=None if alone else reference,
    )


def judge(expected: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Judge printed numbers by what ``run`` measured.

    Args:
        expected: rows of one or several manifests as ``load_manifest`` returns them; a column ``paper`` says whose
            they are, the run's own where it is missing.
        run: in any state.

    Returns:
        One row a printed number: its columns, and ``none``, ``released``, ``trained`` (measured values by weights,
        NaN where not measured), ``outcome`` (one of ``OUTCOMES``), ``verdict`` (the outcome, with the reason where
        nothing was measured) and ``explanation`` (of a comparison, one sentence). Where several values were
        measured, the worst one decides.
    """
    if "paper" not in expected:
        expected = expected.assign(paper=run.paper.slug)
    measured = of_run(run)
    return _judge(expected, measured[measured["kind"] == "measurement"], lambda row: _why_not(run, row), None)[0]


def judge_reference(expected: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """As ``judge``, for a stored table of measured numbers, of which no run is left to ask why one is missing."""
    return _judge(expected, measured[measured["kind"] == "measurement"], lambda row: "not measured", measured)[0]


def printed(paper: Paper) -> pd.DataFrame:
    """The manifest of ``paper`` and of the papers that it builds on, with a column ``paper``."""
    tables = [load_manifest(paper.manifest).assign(paper=paper.slug)]
    for slug in paper.builds_on:
        manifest = replace(paper, slug=slug, folder=paper.folder.parent / slug.replace("-", "_")).manifest
        tables.append(load_manifest(manifest).assign(paper=slug))
    filled = [table for table in tables if not table.empty]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def own_models_first(paper: Paper, rows: pd.DataFrame) -> pd.DataFrame:
    """Printed numbers in a reader's order: the paper's own models, others of its manifest, the rest; model by model.

    Args:
        paper: whose models are its own; of one that defines none, all in its manifest are.
        rows: with the columns ``model`` and ``paper``.
    """
    own = {model.name for model in paper.models}
    mine = rows["paper"] == paper.slug
    # A name may have a tag of the weights behind a dot.
    names = pd.Series([name.partition(".")[0] for name in rows["model"]], index=rows.index, dtype=object)
    place = 2 - mine.astype(int) - (mine & (names.isin(own))).astype(int)
    first = {model: number for number, model in reversed(list(enumerate(rows["model"])))}
    order = pd.DataFrame({"place": place, "model": rows["model"].map(first)})
    return rows.loc[order.sort_values(["place", "model"], kind="stable").index]


def count(values: pd.Series, names: tuple[str, ...]) -> dict[str, int]:
    """How often each of ``names`` is among ``values``."""
    return {name: int((values == name).sum()) for name in names}


def default_tolerance(metric: str, weights: str) -> tuple[str, str]:
    """A number, ``half unit`` or ``not judged``, and the reason; empty where the metric's table states none."""
    if metric not in metrics().index:
        return "", ""
    kind = "trained_" if weights == "trained" else ""
    row = metrics().loc[metric]
    return str(row[f"{kind}tolerance"]), str(row[f"{kind}reason"])


def tolerance(metric: str, weights: str, text: str, own: float) -> Tolerance:
    """The tolerance of a printed number.

    Args:
        metric: name of the metric.
        weights: where the measured weights come from.
        text: the number as printed; a default is at least half a unit of its last digit.
        own: the manifest's own tolerance, or NaN.
    """
    if not math.isnan(own):
        return Tolerance(own, "stated in the manifest")
    width, reason = default_tolerance(metric, weights)
    if not width:
        missing = f"no tolerance is stated for {metric} with weights {weights!r}: state it in the metric's metrics.csv"
        return Tolerance(math.nan, missing)
    if width == "not judged":
        return Tolerance(math.nan, reason)
    return Tolerance(half_unit(text) if width == "half unit" else max(float(width), half_unit(text)), reason)


def compare_value(
    printed: float,
    value: float,
    tolerance: float,
    interval: tuple[float, float] | None,
    *,
    sampled: bool,
) -> str:
    """Compare a measured value with a printed one: ``reproduced``, ``off`` or ``unclear``.

    Without chance a value is reproduced within the tolerance and off beyond it. With an interval, it is reproduced
    where the whole interval is within the tolerance, off where all of it is beyond, and else unclear.

    Args:
        printed: the printed value.
        value: the measured value.
        tolerance: half width of what counts as the same; NaN where it is not known.
        interval: 95 % confidence interval of the value where chance plays a part, else None.
        sampled: whether the value comes from a part of the data; without an interval it then proves nothing.
    """
    if not math.isfinite(value) or math.isnan(tolerance):
        return "unclear"
    if interval is None and sampled:
        return "unclear"
    low, high = interval or (value, value)
    # Values such as 4.75 - 4.7 exceed 0.05 by a rounding of binary fractions.
    width = tolerance + 1e-9 * max(1.0, abs(printed))
    if printed - width <= low and high <= printed + width:
        return "reproduced"
    return "off" if low > printed + width or high < printed - width else "unclear"


def _judge(
    expected: pd.DataFrame, numbers: pd.DataFrame, why_not: Callable[[Any], str], reference: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = expected.reset_index(drop=True)
    joined = rows.assign(row=rows.index)[["row", *KEY, "value", "printed", "unit", "tolerance", "known"]].merge(
        numbers.rename(columns={"value": "measured", "unit": "measured_unit"}).drop(columns=["note"]), on=KEY
    )
    comparisons = pd.concat([joined, _assess(joined, reference)], axis="columns")
    comparisons = comparisons.drop(columns=["tolerance", "known"]).rename(columns={"allowed": "tolerance"})
    # The worst value of each kind of weights speaks for it, and the worst of those for the row.
    comparisons["severity"] = comparisons["outcome"].map(OUTCOMES.index).astype(int)
    comparisons = comparisons.sort_values(["row", "severity"], kind="stable")
    worst = comparisons.drop_duplicates("row").set_index("row")
    values = comparisons.drop_duplicates(["row", "weights"]).pivot(index="row", columns="weights", values="measured")
    rows = rows.join(values.reindex(columns=list(WEIGHTS)).astype(float))
    rows = rows.join(worst[["outcome", "explanation"]])
    reasons = [why_not(row) if pd.isna(row.outcome) else str(row.outcome) for row in each(rows)]
    rows["outcome"] = pd.Series([reason.partition(":")[0] for reason in reasons], index=rows.index, dtype=object)
    rows["verdict"] = pd.Series(reasons, index=rows.index, dtype=object)
    rows["explanation"] = rows["explanation"].astype(object).fillna("")
    order = comparisons["weights"].map(WEIGHTS.index)
    comparisons = comparisons.assign(order=order).sort_values(["row", "order"], kind="stable", ignore_index=True)
    return rows, comparisons.drop(columns=["severity", "order"])


def _assess(joined: pd.DataFrame, reference: pd.DataFrame | None) -> pd.DataFrame:
    """Tolerance, reason, difference, outcome and explanation of each comparison."""
    records = []
    for row in each(joined):
        allowed = tolerance(row.metric, row.weights, row.value, row.tolerance)
        # All images of a set are the images that the printed number is over: drawing them has no error. A part of
        # them (``--limit``, ``--quick``), another training, and a measured time have one.
        sampled = (pd.notna(row.limit) or row.quick) and row.weights != "none"
        # Of a training chance is in the seeds: one has no interval for it, whatever images say.
        once = row.weights == "trained" and (row.over == "images" or not row.seeds > 1)
        chance = sampled or row.weights != "released"
        interval = (row.low, row.high) if chance and not once and pd.notna(row.low) else None
        difference = row.measured - row.printed
        if row.measured_unit != row.unit:
            outcome, why = "failed", f"measured in {row.measured_unit!r}, printed in {row.unit!r}"
        else:
            outcome = compare_value(row.printed, row.measured, allowed.width, interval, sampled=sampled or once)
            whose = {"none": "", "released": "released weights: ", "trained": "our training: "}[row.weights]
            why = whose + _explain(outcome, difference, allowed, interval, once)
            if outcome == "off" and row.known:
                if agreement.same_value(reference, row):
                    outcome, why = "off, known", f"{why}; {row.known}"
                else:
                    why += "; it would be known of our reference's value, which this is not"
        records.append((allowed.width, allowed.reason, difference, outcome, why))
    return pd.DataFrame(
        records, columns=["allowed", "reason", "difference", "outcome", "explanation"], index=joined.index
    )


def _explain(
    outcome: str, difference: float, allowed: Tolerance, interval: tuple[float, float] | None, once: bool
) -> str:
    if math.isnan(allowed.width):
        return allowed.reason
    if outcome != "unclear":
        return f"{difference:+.4g} from the printed value, tolerance {allowed.width:g}"
    if interval is None:
        return "a single training, which says nothing of chance" if once else "a part of the data, without an interval"
    return (
        f"the 95 % interval, {interval[0]:.4g} to {interval[1]:.4g}, is neither within the tolerance, "
        f"{allowed.width:g}, nor beyond it"
    )


def _why_not(run: Run, row: Any) -> str:
    """Why a printed number was not measured: ``not measured: ...`` or ``failed: ...``."""
    claims = [claim for claim in run.paper.claims if claim.covers(row.dataset, row.metric)]
    if not claims:
        elsewhere = f"; ask ./reproduce.sh {row.paper}" if row.paper != run.paper.slug else ""
        return f"not measured: no claim of {run.paper.slug} measures {row.metric} on {row.dataset}{elsewhere}"
    # A failure must be seen whatever other claims say; else the claim that needs least is the one to tell of.
    order = ("failed", "interrupted", "not reached", "not measured", "done")
    states = {claim.name: _state(run, claim) for claim in claims}
    claim = min(claims, key=lambda claim: (order.index(states[claim.name].state), len(claim.needs)))
    state = states[claim.name]
    if state.state == "failed":
        return f"failed: {claim.name}: {' '.join(state.reason.split())}"
    if state.state == "not measured":
        return f"not measured: {state.reason}"
    if state.state == "done" and "checkpoint" in claim.needs:
        return "not measured: needs --checkpoint FILE and --model of this model"
    if state.state == "done":
        return f"not measured: {claim.name} gave no {row.metric} for {row.model}"
    return f"not measured: needs {claim.name} to be finished (--resume)"


def _state(run: Run, claim: Claim) -> ClaimState:
    """The state of ``claim``, also where the run has none of it: it was not asked for, or the run ended before it."""
    if claim.name in run.states:
        return run.states[claim.name]
    if run.calls and claim.name not in {name for call in run.calls for name in call["claims"]}:
        return ClaimState(claim.name, "not measured", "was not asked for")
    return ClaimState(claim.name, "not reached", "the run ended before it")


def _claims(run: Run, findings: pd.DataFrame) -> pd.DataFrame:
    records = []
    for claim in run.paper.claims:
        state = _state(run, claim)
        primary = findings[(findings["claim"] == claim.name) & (findings["name"] == claim.primary)]
        records.append(
            {
                "claim": claim.name,
                "statement": claim.statement,
                "state": state.state,
                "reason": state.reason,
                "seconds": state.seconds,
                "command": _command(run.paper.slug, claim),
                "verdict": primary["standing"].iloc[0] if claim.primary and len(primary) else "",
            }
        )
    columns = ["claim", "statement", "state", "reason", "seconds", "command", "verdict"]
    return pd.DataFrame(records, columns=columns)


def _command(slug: str, claim: Claim) -> str:
    """What measures ``claim``; without the commands' other claims where they can be chosen."""
    choice = "" if "downstream" in claim.needs else f" --claims {claim.name}"
    return command(claim.needs, slug) + choice
