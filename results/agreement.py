"""A run beside our reference results: does what it measured with fewer seeds agree with what we stand behind?

The reference has at least six seeds and carries the verdict; a run without options has fewer, and can confirm or
contradict it. A run of another budget or procedure says nothing about it.

- Counts must be equal.
- A value of a training must lie in the prediction interval of the reference: the mean plus and minus
  t s sqrt(1 + 1/n), s from the reference's n seeds. Values of seeds that the reference has, too, are compared with
  theirs pair by pair: the mean difference of k pairs must be within t s sqrt(2/k).
- A run compares dozens of values, and a healthy one must pass: t is at 5 % over all of them together (Bonferroni). The
  spread s is pooled over the models of a table, and a model's own where that is larger.
- A verdict contradicts its opposite; ``unclear`` contradicts none.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from results.measured import each

#: Seeds with which a run's own verdict stands, whatever the reference says.
ENOUGH_SEEDS = 6

#: Metrics that follow from the code alone: whatever the machine and the seed, they must be equal.
EXACT = ("params", "flops")

#: What one number or finding is told by; findings that have no name by their statement.
NUMBER = ["claim", "model", "dataset", "metric", "weights"]

#: Probability that a run of the same procedure contradicts the reference by chance.
_ERROR = 0.05

#: Seeds of the reference that a spread can be estimated from.
_FEWEST = 3

#: Columns that ``beside`` gives.
COLUMNS = ["agreement", "reference", "why"]


@dataclass(frozen=True)
class _Values:
    """The values of a number by seed."""

    row: Any
    by_seed: dict[int, float]

    @property
    def spread(self) -> float:
        return float(np.std(list(self.by_seed.values()), ddof=1))


def beside(reference: pd.DataFrame | None, measured: pd.DataFrame) -> pd.DataFrame:
    """What the reference says of everything that was measured.

    Args:
        reference: reference results, columns of ``results.measured``; None where there are none.
        measured: of a run.

    Returns:
        With the index of ``measured``: ``agreement`` (``agrees``, ``contradicts``, or empty where they cannot be
        compared), ``reference`` (its verdict for a finding; empty where it has none of this budget) and ``why``.
    """
    table = pd.DataFrame("", index=measured.index, columns=COLUMNS, dtype=object)
    if reference is None or reference.empty or measured.empty:
        return table
    found = {key: row for row in each(reference) if (key := _key(row)) is not None}
    pairs = {row.Index: (found[_key(row)], row) for row in each(measured) if _key(row) in found}
    pairs = {index: (old, new) for index, (old, new) in pairs.items() if _comparable(old, new)}
    for index, (old, new) in pairs.items():
        if new.kind == "finding":
            table.loc[index] = _findings(old, new)
        elif new.metric in EXACT and new.weights == "none":
            table.loc[index] = _counts(old, new)
    trained = {index: (_values(old), _values(new)) for index, (old, new) in pairs.items() if new.kind == "measurement"}
    trained = {index: pair for index, pair in trained.items() if len(pair[0].by_seed) >= _FEWEST and pair[1].by_seed}
    tests = sum(len(new.by_seed) + bool(set(old.by_seed) & set(new.by_seed)) for old, new in trained.values())
    for index, (old, new) in trained.items():
        together = [other for other, _ in trained.values() if _group(other.row) == _group(old.row)]
        table.loc[index] = _seeds(old, new, together, _ERROR / tests)
    return table


def counterpart(reference: pd.DataFrame | None, row: Any) -> Any | None:
    """What the reference has for a measured number or finding, of whatever budget; None where it has nothing."""
    if reference is None:
        return None
    return next((old for old in each(reference[reference["claim"] == row.claim]) if _key(old) == _key(row)), None)


def same_value(reference: pd.DataFrame | None, row: Any) -> bool:
    """Whether the reference has the very value of a measured row, to rounding."""
    if reference is None:
        return False
    alike = reference[reference["kind"] == "measurement"]
    for name in ("model", "dataset", "metric", "weights"):
        alike = alike[alike[name] == getattr(row, name)]
    return any(math.isclose(value, row.measured, rel_tol=1e-9) for value in alike["value"])


def _key(row: Any) -> tuple[str, ...]:
    if row.kind == "finding":
        return row.kind, row.claim, row.name or row.statement
    return (row.kind, *(getattr(row, name) for name in NUMBER))


def _group(row: Any) -> tuple[str, ...]:
    return tuple(getattr(row, name) for name in NUMBER if name != "model")


def _comparable(old: Any, new: Any) -> bool:
    """Whether both are of one budget and one procedure; the number of seeds may differ."""
    names = ("quick", "epochs", "limit", "protocol", "unit")
    return all(_plain(getattr(old, name)) == _plain(getattr(new, name)) for name in names)


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value


def _values(row: Any) -> _Values:
    """A training's value by seed, from its detail; empty for what was not trained by us."""
    detail = json.loads(row.detail) if row.detail else {}
    values = detail.get("per_seed", []) if row.weights == "trained" else []
    first = 0 if pd.isna(row.first_seed) else int(row.first_seed)
    seeds = detail.get("seeds", range(first, first + len(values)))
    return _Values(row, {int(seed): float(value) for seed, value in zip(seeds, values, strict=True)})


def _counts(old: Any, new: Any) -> tuple[str, str, str]:
    if math.isclose(old.value, new.value, rel_tol=1e-9):
        return "agrees", "", ""
    return "contradicts", "", f"{new.value:.10g}, the reference has {old.value:.10g}; a count must be equal"


def _findings(old: Any, new: Any) -> tuple[str, str, str]:
    if {old.verdict, new.verdict} == {"holds", "does not hold"}:
        return "contradicts", old.verdict, f"{new.verdict} here, {old.verdict} in the reference"
    return "agrees", old.verdict, ""


def _seeds(old: _Values, new: _Values, together: list[_Values], error: float) -> tuple[str, str, str]:
    freedom = sum(len(other.by_seed) - 1 for other in together)
    pooled = math.sqrt(sum((len(other.by_seed) - 1) * other.spread**2 for other in together) / freedom)
    spread = max(pooled, old.spread)
    if spread == 0:
        return "", "", ""
    reach = float(stdtrit(freedom, 1 - error / 2)) * spread
    count, mean = len(old.by_seed), float(np.mean(list(old.by_seed.values())))
    half = reach * math.sqrt(1 + 1 / count)
    for seed, value in new.by_seed.items():
        if abs(value - mean) > half:
            predicted = f"{mean - half:.4g} to {mean + half:.4g}, as the reference's {count} seeds predict"
            return "contradicts", "", f"{value:.4g} with seed {seed} is beyond {predicted}"
    shared = [seed for seed in new.by_seed if seed in old.by_seed]
    if shared:
        moved = float(np.mean([new.by_seed[seed] - old.by_seed[seed] for seed in shared]))
        if abs(moved) > reach * math.sqrt(2 / len(shared)):
            seeds = ", ".join(map(str, shared))
            return "contradicts", "", f"{moved:+.4g} from the reference with the same seeds ({seeds})"
    return "agrees", "", ""
