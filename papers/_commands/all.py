"""``./reproduce.sh all``: measure the claims of every paper, one after the other, and write one index."""

from __future__ import annotations

import json
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.text import Text

import papers
from common import bench
from common.bench.contenders import no_hooks
from common.declaration import Paper
from common.errors import UserError
from common.files import write_atomic
from common.locks import make_folder
from common.profiling import count
from common.progress import console
from common.run import Run, Settings
from common.signed import checked, signed
from papers._commands import reproduce
from papers._commands.compare import contenders
from papers._commands.reproduce import add_embedded_arguments, command_to_go_on, embedded_settings
from results.index import Entry

#: What the folder of such a run holds, beside a folder a paper: what was asked for, and whether it came to its end.
RECORD = "all.json"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of a run of every paper."""
    parser.epilog = (
        "The folder gets index.html, junit.xml and a folder with a report for each paper. A paper that fails does not\n"
        "stop the others. Exit status, the worst of all: 0 as printed, or off for a known reason, and agreeing with\n"
        "our reference results; 1 newly off, broken, or against the reference; 2 something could not run;\n"
        "130 interrupted."
    )
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="these papers only (default: all)")
    add_embedded_arguments(parser)
    parser.add_argument(
        "--no-reference", action="store_true", help="let the verdicts of this run stand, without our reference results"
    )


def run(args: Namespace) -> int:
    """Measure paper after paper; what is done is in the index, whatever happens."""
    from results import index

    chosen = [papers.find(slug) for slug in dict.fromkeys(args.slugs)] or list(papers.all_papers().values())
    settings = embedded_settings(args)
    folder = _folder(args, chosen, settings)
    settings = replace(settings, shared=folder / "contenders")  # what several papers train alike is trained once
    entries = {paper.slug: Entry(paper, "not reached") for paper in chosen}
    spent: list[float] = []
    for number, paper in enumerate(chosen, start=1):
        title = Text(paper.slug, style="bold").append(f" ({number} of {len(chosen)})", style="not bold")
        console.rule(title, align="left", style="dim")
        start = time.monotonic()
        entries[paper.slug] = _measure(paper, settings, folder, alone=args.no_reference)
        spent.append(time.monotonic() - start)
        left = len(chosen) - number
        index.show_line(entries[paper.slug], folder, left * sum(spent) / len(spent) if left else None)
        if entries[paper.slug].state == "interrupted":
            index.write(folder, list(entries.values()))
            command = command_to_go_on(args.words, folder)
            console.print(
                f"Stopped. What was measured is kept; go on with\n  {command}", highlight=False, soft_wrap=True
            )
            return 130
    finished = all(entry.state in ("done", "off") for entry in entries.values())
    write_atomic(folder / RECORD, json.dumps(signed({**_asked(chosen, settings), "finished": finished})))
    return index.write(folder, list(entries.values()), costs=_costs(entries.values()))


def _costs(entries: Iterable[Entry]) -> dict[str, float]:
    """Multiply-adds in millions of the small models of every architecture that was measured, by name.

    What is trained in another way than the bench's says nothing about its architecture, and is left out.
    """
    found: dict[str, float] = {}
    measured = [entry.paper for entry in entries if entry.state in ("done", "off")]
    for contender in (one for paper in measured if paper.kind == "architecture" for one in contenders(paper)):
        plain = contender.hooks is no_hooks and contender.recipe == bench.RECIPE and not contender.changes
        if plain and contender.name not in found:
            sizes = count(contender.build().eval(), contender.name, (3, 28, 28))
            found[contender.name] = next(1000 * size.value for size in sizes if size.metric == "flops")
    return found


def _measure(paper: Paper, settings: Settings, folder: Path, *, alone: bool) -> Entry:
    """Measure one paper in its own folder; whatever fails becomes a sentence."""
    import results

    own = folder / paper.slug
    try:
        if not paper.claims:
            raise UserError(f"{paper.slug} declares no claims; add them in {paper.folder / '__init__.py'}.")
        measured = Run(paper, settings, own)
        try:
            measured.execute()
        except KeyboardInterrupt:
            results.write_all(measured, alone=alone, quiet=True)
            return Entry(paper, "interrupted")
        status = results.write_all(measured, alone=alone, quiet=True)
    except UserError as error:
        return Entry(paper, "failed", str(error))
    except Exception as error:
        write_atomic(own / "errors" / "run.txt", traceback.format_exc())
        return Entry(paper, "failed", f"{type(error).__name__}: {error} (see {paper.slug}/errors/run.txt)")
    return Entry(paper, ("done", "off", "failed")[status], _unfinished(measured) if status else "")


def _unfinished(run: Run) -> str:
    """Which claims failed, and why; the report has all else that is off."""
    failed = [f"{state.claim}: {state.reason}" for state in run.states.values() if state.state == "failed"]
    return "; ".join(failed)


def _asked(chosen: Sequence[Paper], settings: Settings) -> dict[str, Any]:
    return {"papers": [paper.slug for paper in chosen], "settings": settings.to_json()}


def _folder(args: Namespace, chosen: Sequence[Paper], settings: Settings) -> Path:
    """The folder in ``args.output``, a new one, or that of the newest unfinished run that was asked the same."""
    base, asked = reproduce.runs_folder() / "all", _asked(chosen, settings)
    if args.output is not None:
        before = _read(args.output / RECORD)
        if args.resume and not before:
            raise UserError(f"{args.output} holds no run to go on with; leave out --resume.")
        if before and not args.resume:
            raise UserError(
                f"{args.output} already holds a run; add --resume to go on with it, or name another folder."
            )
        if before and {name: before[name] for name in asked} != asked:
            raise UserError(
                f"{args.output} was asked for other papers or options; give the same, or choose another --output."
            )
        folder = args.output
    elif args.resume:
        found = [
            path.parent
            for path in sorted(base.glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime, reverse=True)
            if (before := _read(path)) and before == {**asked, "finished": False}
        ]
        if not found:
            raise UserError(f"There is no unfinished run with these options in {base}; call without --resume.")
        folder = found[0]
    else:
        folder = reproduce.new_folder(base)
    write_atomic(make_folder(folder) / RECORD, json.dumps(signed({**asked, "finished": False})))
    return folder


def _read(path: Path) -> dict[str, Any]:
    """What an earlier call was asked for; empty where there was none."""
    if not path.exists():
        return {}
    try:
        record = checked(json.loads(path.read_text(encoding="utf-8")))
        return {name: record[name] for name in ("papers", "settings", "finished")}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; choose another --output.") from None
