"""``./reproduce.sh readme``: write the generated sections of the READMEs from declarations, manifests and results.

A generated section stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; the rest of a README is by hand.
"""

from __future__ import annotations

import math
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common.declaration import Paper
from common.errors import UserError, nearest
from common.files import write_atomic

CHECKOUT = Path(__file__).resolve().parents[2]
_SECTION = re.compile(r"(<!-- generated: (?P<name>\S+) -->\n)(?P<text>.*?)(<!-- end -->)", re.DOTALL)
_OPENING = re.compile(r"<!-- generated: ")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``--check``."""
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a section is out of date")


def run(args: Namespace) -> int:
    """Bring every README up to date, or say which are not."""
    import papers

    readmes: list[tuple[Path, dict[str, Callable[[], str]]]] = [
        (CHECKOUT / "README.md", {"papers": lambda: papers_table(papers.all_papers().values())})
    ]
    for paper in papers.all_papers().values():
        readmes.append((paper.folder / "README.md", sections_of(paper)))
    status = 0
    for path, sections in readmes:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        renewed = renew(text, sections, path)
        if renewed == text:
            continue
        name = path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path
        if args.check:
            print(f"{name} is out of date; call ./reproduce.sh readme.")
            status = 1
        else:
            write_atomic(path, renewed)
            print(f"wrote {name}")
    return status


def renew(text: str, sections: dict[str, Callable[[], str]], path: Path) -> str:
    """Return ``text`` with every generated section renewed.

    Raises:
        UserError: a section has no end or a name that ``sections`` lacks.
    """
    if len(_OPENING.findall(text)) != len(_SECTION.findall(text)):
        raise UserError(f"{path}: a generated section has no <!-- end -->; close it.")

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in sections:
            raise UserError(f"{path}: there is no generated section {name!r}.{nearest(name, sections)}")
        return f"{match[1]}\n{sections[name]().strip()}\n\n{match[4]}"

    return _SECTION.sub(fill, text)


def sections_of(paper: Paper) -> dict[str, Callable[[], str]]:
    """The generated sections that a paper's README may have, by name."""
    return {
        "claims": lambda: claims_table(paper),
        "numbers": lambda: numbers_table(paper),
        "findings": lambda: findings_table(paper),
        "deviations": lambda: deviations_table(paper),
    }


def papers_table(papers: Iterable[Paper]) -> str:
    """One row a paper: title, kind, venue, state."""
    import results

    rows = []
    for paper in papers:
        folder = paper.package.replace(".", "/")
        rows.append((f"[{paper.slug}]({folder})", paper.title, paper.kind, paper.venue, str(results.summary(paper))))
    return _table(("paper", "title", "kind", "venue", "state"), rows)


def claims_table(paper: Paper) -> str:
    """One row a claim: statement and what it needs."""
    rows = [(claim.name, claim.statement, ", ".join(claim.needs) or "nothing") for claim in paper.claims]
    return _table(("claim", "statement", "needs"), rows)


def numbers_table(paper: Paper) -> str:
    """One row a printed number, beside what we measured: released weights (or none), and our own training."""
    from common.manifest import load_manifest
    from results import judge, measured, reference
    from results.measured import each

    path = reference.path_of(paper.slug)
    expected = load_manifest(paper.manifest)
    if expected.empty:
        return "No printed number is in the manifest."
    if not path.exists():
        return _table(
            ("model", "data set", "metric", "printed", "where"), [(*_what(row), _where(row)) for row in each(expected)]
        )
    rows = []
    for row in each(judge.judge_reference(expected, measured.load(path))):
        ours = row.released if math.isnan(row.none) else row.none
        values = (_number(ours, row.value), _number(row.trained, row.value))
        rows.append((*_what(row), *values, row.verdict, _where(row)))
    return _table(("model", "data set", "metric", "printed", "measured", "own training", "verdict", "where"), rows)


def findings_table(paper: Paper) -> str:
    """One row a finding of the reference results."""
    from results import measured, reference
    from results.measured import each

    path = reference.path_of(paper.slug)
    if not path.exists():
        return "There are no reference results yet."
    table = measured.load(path)
    found = table[table["kind"] == "finding"]
    return _table(
        ("statement", "verdict", "evidence"), [(row.statement, row.verdict, row.evidence) for row in each(found)]
    )


def deviations_table(paper: Paper) -> str:
    """One row a deviation between publication, released code and ours."""
    if not paper.deviations:
        return "We know of no place where publication, released code and our code differ."
    claims = {claim.name for claim in paper.claims}
    rows = [
        (
            *(d.name, d.publication, d.released, d.ours, f"`{d.switch}`" if d.switch != "none" else "none"),
            f"measured by the claim {d.effect}" if d.effect in claims else d.effect,
        )
        for d in paper.deviations
    ]
    return _table(("deviation", "publication", "released code", "ours", "switch", "effect"), rows)


def _what(row: Any) -> tuple[str, ...]:
    return row.model, row.dataset, f"{row.metric} {row.unit}".rstrip(), row.value


def _where(row: Any) -> str:
    return f"{row.source}, {row.locator}"


def _number(value: float, like: str) -> str:
    """A measured value with one digit more than the printed one; empty where nothing was measured."""
    return f"{value:.{len(like.partition('.')[2]) + 1}f}" if not math.isnan(value) else ""


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
