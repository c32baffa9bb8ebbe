"""What was not measured, by what it needs: a line a data set, with the numbers that it would settle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common.declaration import Claim
from common.needs import NEEDS, command
from results.judge import Judgement
from results.measured import each


@dataclass
class Missing:
    """What one need stands in the way of.

    Attributes:
        need: what is missing: a data set, another thing that a user can give, or in words why nothing was measured.
        what: what that is, as its folder holds it; may be empty.
        command: the command that provides it; empty where that is not up to the user.
        claims: names of the claims that wait for it.
        rows: printed numbers that it would settle, rows of ``results.judge``.
    """

    need: str
    what: str = ""
    command: str = ""
    claims: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


def need_of(lacking: Sequence[str]) -> str:
    """What a claim that lacks these needs waits for: its data sets, else the last of them."""
    return " and ".join(_deciding(lacking))


def _deciding(lacking: Sequence[str]) -> Sequence[str]:
    return [name for name in lacking if NEEDS[name].tier == "data"] or lacking[-1:]


def by_need(judged: Judgement) -> list[Missing]:
    """Everything in ``judged`` that was not measured; what would settle most comes first."""
    run, found = judged.run, dict[str, Missing]()
    states = judged.claims.set_index("claim")
    given = run.settings.given()

    def entry(need: str, what: str = "", words: str = "") -> Missing:
        return found.setdefault(need, Missing(need, what, words))

    def of_claim(claim: Claim) -> Missing:
        lacking = [name for name in claim.needs if name not in given]
        if lacking and states.loc[claim.name, "state"] == "not measured":
            what = "; ".join(NEEDS[name].remedy.partition("(")[2].rstrip(")") for name in _deciding(lacking))
            words = command([name for name in lacking if name != "corruptions"], run.paper.slug)
            return entry(need_of(lacking), what, words)
        if states.loc[claim.name, "state"] != "done":
            return entry(str(states.loc[claim.name, "reason"]))
        if "checkpoint" in claim.needs:
            return entry("checkpoints", "one a model", command(claim.needs, run.paper.slug) + " --model NAME")
        return entry("other models", "the claims that ran did not measure these")

    for claim in run.paper.claims:
        if states.loc[claim.name, "state"] == "not measured":
            of_claim(claim).claims.append(claim.name)
    for row in each(judged.rows[judged.rows["outcome"] == "not measured"]):
        covering = [claim for claim in run.paper.claims if claim.covers(row.dataset, row.metric)]
        if covering:
            done = [claim for claim in covering if states.loc[claim.name, "state"] == "done"]
            into = of_claim(min(done or covering, key=lambda claim: len(claim.needs)))
        elif row.paper != run.paper.slug:
            into = entry(row.paper, "a run of that paper", f"./reproduce.sh {row.paper}")
        else:
            into = entry("no claim", "nothing here measures them")
        into.rows.append(row._asdict())
    return sorted(found.values(), key=lambda one: -len(one.rows))
