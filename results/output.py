"""Everything that a run leaves for its reader, written in one go."""

from __future__ import annotations

import json
from typing import Any

from common.files import write_atomic
from common.measurement import Measurement
from common.provenance import data
from common.run import Run
from results import junit, reference, report, terminal
from results.answers import answers
from results.judge import Judgement, judgement
from results.measured import MEASURED, PROVENANCE, to_csv

JUNIT, REPORT = "junit.xml", "report.html"


def write(run: Run, *, alone: bool = False, quiet: bool = False) -> int:
    """See ``results.write_all``."""
    judged = judgement(run, reference.table_of(run.paper.slug), alone=alone)
    # First what cannot be made again, then what is drawn from it.
    told = record(judged)
    write_atomic(run.folder / JUNIT, junit.render(judged))
    write_atomic(run.folder / REPORT, report.render(judged, told))
    if not quiet:
        terminal.show(judged)
    return judged.exit_status


def record(judged: Judgement) -> dict[str, Any]:
    """Write ``measured.csv`` and ``provenance.json``; return the provenance."""
    told = provenance(judged)
    write_atomic(judged.run.folder / MEASURED, to_csv(judged.measured))
    write_atomic(judged.run.folder / PROVENANCE, json.dumps(told, indent=2) + "\n")
    return told


def provenance(judged: Judgement) -> dict[str, Any]:
    """What the run's numbers depend on and what it says of them, JSON-able."""
    return {
        "exit_status": judged.exit_status,
        "verdicts": judged.counts,
        "findings": judged.finding_counts,
        "contradictions": len(judged.contradictions),
        "answers": [answer.to_json() for answer in answers(judged)],
        **origin(judged.run),
    }


def origin(run: Run) -> dict[str, Any]:
    """What the numbers of any run depend on, JSON-able: calls, seeds, protocols, data, and how each claim ended."""
    results = [result for claim in run.results.values() for result in claim]
    needs = {need for claim in run.paper.claims if run.results.get(claim.name) for need in claim.needs}
    return {
        "paper": run.paper.slug,
        "seconds": round(sum(state.seconds for state in run.states.values()), 2),
        "seeds": seeds(run),
        "protocols": sorted({result.protocol for result in results if isinstance(result, Measurement)} - {""}),
        "data": data(needs, run.settings.folders, run.settings.checkpoint),
        "claims": {
            name: {"state": s.state, "reason": s.reason, "seconds": s.seconds} for name, s in run.states.items()
        },
        "calls": run.calls,
    }


def seeds(run: Run) -> list[int]:
    """The seeds that the run's trainings used."""
    most = max((getattr(result, "seeds", 0) for results in run.results.values() for result in results), default=0)
    return list(range(run.settings.seed, run.settings.seed + most))
