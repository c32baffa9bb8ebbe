"""Our own measured results, the ones that we stand behind: ``<slug>.csv`` beside this file.

A file has the columns of a run's ``measured.csv`` and is written by ``./reproduce.sh reference SLUG``. It is the
regression baseline: a new run is compared with it by ``results.compare_runs``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.declaration import Paper
from common.errors import UserError
from common.files import write_atomic
from results.judge import FINDINGS, OUTCOMES, count, judge_reference, printed
from results.measured import MEASURED, PROVENANCE, load, to_csv
from results.style import pieces

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Summary:
    """The state of a paper, computed from its manifest and reference results.

    Attributes:
        slug: of the paper.
        numbers: printed numbers by outcome.
        findings: findings by verdict.
        main: verdict of the main claim, the first one that has a primary finding; empty where there is none.
        own: how many measured numbers no source prints.
        broken: how many exact findings do not hold.
        commits: abbreviated commits that the results were measured at.
        measured: whether there are reference results at all.
    """

    slug: str
    numbers: dict[str, int]
    findings: dict[str, int]
    main: str
    own: int
    broken: int
    commits: tuple[str, ...]
    measured: bool

    @property
    def state(self) -> str:
        """``no reference``, ``off``, ``partly measured`` or ``measured``."""
        if not self.measured:
            return "no reference"
        if self.numbers["off"] or self.broken:
            return "off"
        return "partly measured" if self.numbers["not measured"] else "measured"

    @property
    def numbers_text(self) -> str:
        """Printed numbers by outcome: ``3 off, 9 reproduced``."""
        return pieces(self.numbers)

    @property
    def findings_text(self) -> str:
        """Findings by verdict: ``13 holds, 22 unclear``."""
        return pieces({name: self.findings[name] for name in reversed(FINDINGS)})

    def __str__(self) -> str:
        if not self.measured:
            return f"no reference results; {sum(self.numbers.values())} printed numbers"
        parts = []
        if sum(self.numbers.values()):
            parts.append(f"numbers: {self.numbers_text}")
        if sum(self.findings.values()):
            parts.append(f"findings: {self.findings_text}")
        return "; ".join(parts)


def path_of(slug: str) -> Path:
    """Where the reference results of a paper are, whether or not they exist."""
    return FOLDER / f"{slug}.csv"


def table_of(slug: str) -> pd.DataFrame | None:
    """The reference results of a paper, columns of ``results.measured``; None where there are none."""
    path = path_of(slug)
    return load(path) if path.exists() else None


def write(folder: Path, path: Path | None = None, *, part: bool = False) -> Path:
    """Make the run in ``folder`` the reference of its paper.

    Only what a commit can account for is worth standing behind, so a run of changed or unversioned code is refused.

    Args:
        folder: of a run that wrote its report.
        path: where to; ``path_of`` the run's paper by default.
        part: whether results of claims that the run did not measure are left as they are.

    Raises:
        UserError: the folder holds no such run, or the run is unfinished, measured nothing or was not of a commit.
    """
    try:
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        slug, claims = str(provenance["paper"]), dict(provenance["claims"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is not a run with a report; give a folder below results/runs.") from None
    refused = f"{folder} cannot become a reference: "
    for name, claim in claims.items():
        if claim["state"] not in ("done", "not measured"):
            raise UserError(f"{refused}{name} is {claim['state']}; finish it with --resume.")
    table = load(folder / MEASURED)
    if table.empty:
        raise UserError(f"{refused}it measured nothing.")
    if (table["dirty"] != "False").any():
        raise UserError(f"{refused}its code was not committed when it ran; commit, and run again.")
    target = path or path_of(slug)
    if part and target.exists():
        earlier = load(target)
        table = pd.concat([table, earlier[~earlier["claim"].isin(list(claims))]])
    return write_atomic(target, to_csv(table))


def summary(paper: Paper) -> Summary:
    """The state of ``paper``; light enough for a list of all papers."""
    expected, table = printed(paper), table_of(paper.slug)
    if table is None:
        untouched = dict.fromkeys(OUTCOMES, 0) | {"not measured": len(expected)}
        return Summary(paper.slug, untouched, dict.fromkeys(FINDINGS, 0), "", 0, 0, (), measured=False)
    rows = judge_reference(expected, table)
    keys = set(zip(expected["model"], expected["dataset"], expected["metric"], strict=True))
    numbers = table[table["kind"] == "measurement"]
    own = sum(key not in keys for key in zip(numbers["model"], numbers["dataset"], numbers["metric"], strict=True))
    return Summary(
        slug=paper.slug,
        numbers=count(rows["outcome"], OUTCOMES),
        findings=count(table.loc[table["kind"] == "finding", "verdict"], FINDINGS),
        main=_main(paper, table),
        own=own,
        broken=int((table["exact"] & (table["verdict"] == "does not hold")).sum()),
        commits=tuple(dict.fromkeys(commit[:10] for commit in table["commit"] if commit)),
        measured=True,
    )


def _main(paper: Paper, table: pd.DataFrame) -> str:
    claim = next((claim for claim in paper.claims if claim.primary), None)
    if claim is None:
        return ""
    verdicts = table.loc[(table["claim"] == claim.name) & (table["name"] == claim.primary), "verdict"]
    return str(verdicts.iloc[0]) if len(verdicts) else ""
