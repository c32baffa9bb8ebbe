"""Everything that a run leaves for its reader, written in one go."""

from __future__ import annotations

import json
from typing import Any

from common.files import write_atomic
from common.provenance import data
from common.run import Run
from results import junit, reference, report, terminal
from results.answers import answers
from results.judge import Judgement, judgement
from results.measured import MEASURED, PROVENANCE, to_csv

JUNIT, REPORT = "junit.xml", "report.html"


def write(run: Run, *, alone: bool = False) -> int:
    """See ``results.write_all``."""
    judged = judgement(run, reference.table_of(run.paper.slug), alone=alone)
    # First what cannot be made again, then what is drawn from it.
    origin = record(judged)
    write_atomic(run.folder / JUNIT, junit.render(judged))
    write_atomic(run.folder / REPORT, report.render(judged, origin))
    terminal.show(judged)
    return judged.exit_status


def record(judged: Judgement) -> dict[str, Any]:
    """Write ``measured.csv`` and ``provenance.json``; return the provenance."""
    origin = provenance(judged)
    write_atomic(judged.run.folder / MEASURED, to_csv(judged.measured))
    write_atomic(judged.run.folder / PROVENANCE, json.dumps(origin, indent=2) + "\n")
    return origin


def provenance(judged: Judgement) -> dict[str, Any]:
    """What the run's numbers depend on, JSON-able."""
    run = judged.run
    needs = {need for claim in run.paper.claims if run.results.get(claim.name) for need in claim.needs}
    return {
        "paper": run.paper.slug,
        "exit_status": judged.exit_status,
        "verdicts": judged.counts,
        "findings": judged.finding_counts,
        "contradictions": len(judged.contradictions),
        "answers": [answer.to_json() for answer in answers(judged)],
        "seconds": round(float(judged.claims["seconds"].sum()), 2),
        "seeds": seeds(run),
        "protocols": sorted(set(judged.measured["protocol"]) - {""}),
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
