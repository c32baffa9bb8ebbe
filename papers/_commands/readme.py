"""``./reproduce.sh readme``: write the generated sections of the READMEs from declarations, manifests and results.

A generated section stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; the rest of a README is by hand.
"""

from __future__ import annotations

import math
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from common.declaration import Paper
from common.errors import UserError, nearest
from common.files import write_atomic
from papers._commands import training_cost
from results.measured import each

CHECKOUT = Path(__file__).resolve().parents[2]

#: A table of numbers is no longer and no wider than this.
MOST_ROWS, MOST_COLUMNS = 40, 6

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
        "training": lambda: training_table(paper),
    }


def training_table(paper: Paper) -> str:
    """One row a model that the paper defines: what its training on ImageNet takes."""
    found = training_cost.rows(paper)
    if not found:
        return "The paper defines no model that its recipe trains on ImageNet."
    end = "Estimated from multiply-adds as [docs/training-cost.md](../../docs/training-cost.md) tells; not timed."
    return f"{_table(training_cost.HEADER, found)}\n\n{end}"


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
    """A row a model, the paper's own first, and a column a metric: what is printed, and in brackets what we measured.

    Columns are the metrics with most numbers, rows the first models; the rest is in the manifest, which is linked.
    """
    from common.manifest import load_manifest
    from results import judge, reference
    from results.style import pieces

    expected = load_manifest(paper.manifest).assign(paper=paper.slug)
    if expected.empty:
        return "No printed number is in the manifest."
    table = reference.table_of(paper.slug)
    if table is None:
        rows = expected.assign(none=math.nan, released=math.nan, trained=math.nan, outcome="not measured")
    else:
        rows = judge.judge_reference(expected, table)
    rows = judge.own_models_first(paper, rows)
    rows["column"] = [row.metric if row.dataset == "-" else f"{row.dataset} {row.metric}" for row in each(rows)]
    common = set(rows["column"].value_counts(sort=True).index[:MOST_COLUMNS])
    columns = [column for column in dict.fromkeys(_columns(rows)) if column in common]
    shown = rows[rows["column"].isin(common)]
    models = list(dict.fromkeys(shown["model"]))[:MOST_ROWS]
    cells = {key: _cell(part) for key, part in shown.groupby(["model", "column"], sort=False)}
    units = dict(zip(rows["column"], rows["unit"], strict=True))
    header = ("model", *(f"{column} [{units[column]}]" if units[column] else column for column in columns))
    body = [(model, *(cells.get((model, column), "") for column in columns)) for model in models]
    left = len(rows) - int((shown["model"].isin(models)).sum())
    told = f"Of {len(rows)} printed numbers: {pieces(judge.count(rows['outcome'], judge.OUTCOMES))}."
    rest = f" {left} of them are not in this table." if left else ""
    end = f"{told}{rest} [expected.csv](expected.csv) has all, each with where it is printed."
    return "\n\n".join((_legend(rows), _table(header, body), *_known(rows), end)).replace("\n\n\n", "\n\n")


def _columns(rows: pd.DataFrame) -> list[str]:
    """The columns of printed numbers, size first, then in the order of the manifest."""
    ordered = rows.sort_index()
    return [*ordered.loc[ordered["dataset"] == "-", "column"], *ordered["column"]]


def _cell(part: pd.DataFrame) -> str:
    """The printed numbers of one model and metric, each once, and what we measured."""
    printed = " / ".join(dict.fromkeys(part["value"]))
    like = max(part["value"], key=lambda text: len(text.partition(".")[2]))
    first = part.iloc[0]
    ours = [_number(first["none"] if math.isnan(first["released"]) else first["released"], like)]
    ours += [f"trained {_number(first['trained'], like)}"] if not math.isnan(first["trained"]) else []
    marks = "".join(mark for name, mark in (("off", " ✗"), ("off, known", " ≠")) if (part["outcome"] == name).any())
    said = ", ".join(filter(None, ours))
    return f"{printed} ({said}{marks})" if said else printed


def _legend(rows: pd.DataFrame) -> str:
    if rows["outcome"].eq("not measured").all():
        return "As printed; nothing of it has been measured yet."
    marks = [
        text
        for name, text in (("off", "✗ is off"), ("off, known", "≠ is off for a known reason"))
        if rows["outcome"].eq(name).any()
    ]
    told = "".join(f"; {mark}" for mark in marks)
    return f"As printed, in brackets as measured{told}. Slashes part what sources disagree on."


def _known(rows: pd.DataFrame) -> list[str]:
    """Why numbers are off, as the manifest states it: a list, or nothing."""
    known = rows[rows["outcome"] == "off, known"]
    reasons: dict[str, list[str]] = {}
    for row in each(known):
        reasons.setdefault(row.known, []).append(f"{row.model} {row.column}")
    lines = [f"- ≠ {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items()]
    return ["\n".join(lines)] if lines else []


def findings_table(paper: Paper) -> str:
    """A row a claim with the verdict of its primary finding, as the reference results have it; the others folded."""
    from results import judge, reference
    from results.style import pieces

    table = reference.table_of(paper.slug)
    if table is None:
        return "There are no reference results yet."
    found = table[table["kind"] == "finding"]
    if found.empty:
        return "No claim of this paper has findings: its claims are its printed numbers."
    primary = {claim.name: claim.primary for claim in paper.claims if claim.primary}
    first = found[[primary.get(row.claim) == row.name for row in each(found)]]
    by_claim = {row.claim: row for row in each(first)}
    rows = [
        (claim.statement, by_claim[claim.name].verdict, by_claim[claim.name].evidence)
        for claim in paper.claims
        if claim.name in by_claim
    ]
    parts = [_table(("claim", "verdict", "evidence"), rows)] if rows else []
    others = found.drop(first.index)
    if len(others):
        counts = pieces(judge.count(others["verdict"], tuple(reversed(judge.FINDINGS))))
        lines = [f"- {row.verdict}: {row.statement} {row.evidence}" for row in each(others)]
        what = "Secondary findings" if rows else "Findings"
        parts.append("\n".join((f"<details><summary>{what}: {counts}</summary>\n", *lines, "\n</details>")))
    return "\n\n".join(parts)


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


def _number(value: float, like: str) -> str:
    """A measured value with one digit more than the printed one; empty where nothing was measured."""
    return f"{value:.{len(like.partition('.')[2]) + 1}f}" if not math.isnan(value) else ""


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
