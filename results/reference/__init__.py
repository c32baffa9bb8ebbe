"""Our own measured results, the ones that we stand behind: ``<slug>.csv`` beside this file.

A file has the columns of a run's ``measured.csv`` (without per-call details) and is the regression baseline: a new
run is compared with it by ``results.compare``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.declaration import Paper
from common.errors import UserError
from common.files import write_atomic
from common.run import Run
from results.judge import FINDINGS, OUTCOMES, count, judge_reference, printed
from results.measured import load, of_run, to_csv
from results.style import pieces

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Summary:
    """The state of a paper, computed from its manifest and reference results.

    Attributes:
        slug: of the paper.
        numbers: printed numbers by outcome.
        findings: findings by verdict.
        own: how many measured numbers no source prints.
        commits: abbreviated commits that the results were measured at.
        measured: whether there are reference results at all.
    """

    slug: str
    numbers: dict[str, int]
    findings: dict[str, int]
    own: int
    commits: tuple[str, ...]
    measured: bool

    def __str__(self) -> str:
        if not self.measured:
            return f"no reference results; {sum(self.numbers.values())} printed numbers"
        parts = []
        if sum(self.numbers.values()):
            parts.append(f"numbers: {pieces(self.numbers)}")
        if sum(self.findings.values()):
            parts.append(f"findings: {pieces({n: self.findings[n] for n in reversed(FINDINGS)})}")
        return "; ".join(parts)


def path_of(slug: str) -> Path:
    """Where the reference results of a paper are, whether or not they exist."""
    return FOLDER / f"{slug}.csv"


def write(run: Run, path: Path | None = None) -> Path:
    """Make ``run`` the reference of its paper.

    Only what a commit can account for is worth standing behind, so a run of changed or unversioned code is refused.

    Raises:
        UserError: the run is unfinished or measured nothing, or its code was not committed.
    """
    table = of_run(run)
    unfinished = [name for name, state in run.states.items() if state.state not in ("done", "not measured")]
    if unfinished or table.empty:
        what = f"{unfinished[0]} is {run.states[unfinished[0]].state}" if unfinished else "it measured nothing"
        raise UserError(f"{run.folder} cannot become a reference: {what}; finish it with --resume.")
    if (table["dirty"] != "False").any():
        raise UserError(
            f"{run.folder} cannot become a reference: its code was not committed when it ran; commit and run again."
        )
    return write_atomic(path or path_of(run.paper.slug), to_csv(table))


def summary(paper: Paper) -> Summary:
    """The state of ``paper``; light enough for a list of all papers."""
    expected, path = printed(paper), path_of(paper.slug)
    if not path.exists():
        untouched = dict.fromkeys(OUTCOMES, 0) | {"not measured": len(expected)}
        return Summary(paper.slug, untouched, dict.fromkeys(FINDINGS, 0), 0, (), measured=False)
    table = load(path)
    rows = judge_reference(expected, table)
    keys = set(zip(expected["model"], expected["dataset"], expected["metric"], strict=True))
    numbers = table[table["kind"] == "measurement"]
    own = sum(key not in keys for key in zip(numbers["model"], numbers["dataset"], numbers["metric"], strict=True))
    return Summary(
        slug=paper.slug,
        numbers=count(rows["outcome"], OUTCOMES),
        findings=count(table.loc[table["kind"] == "finding", "verdict"], FINDINGS),
        own=own,
        commits=tuple(dict.fromkeys(commit[:10] for commit in table["commit"] if commit)),
        measured=True,
    )
