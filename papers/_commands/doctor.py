"""``./reproduce.sh doctor``: what this machine has, and what each data set that it lacks would settle."""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.arguments import existing_file, existing_folder
from common.declaration import Paper
from common.needs import NEEDS, Need, command
from common.run import Settings

#: Needs that are shown; what the others would settle is told in one line.
MOST_NEEDS = 24


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the paper, and the data that a run would be given."""
    parser.epilog = (
        "With a paper, shows for each of its claims whether it can be measured. With the folders and the checkpoint\n"
        "of a run, shows what that run could measure, and what would still be missing."
    )
    parser.add_argument("slug", nargs="?", metavar="SLUG", help="show the claims of this paper")
    parser.add_argument("--checkpoint", type=existing_file, metavar="FILE")
    for need in _folders():
        parser.add_argument(need.option, type=existing_folder, metavar="DIR")


def _folders() -> list[Need]:
    """The data sets that papers use."""
    import papers

    used = {need for paper in papers.all_papers().values() for need in paper.data_sets}
    return [need for need in NEEDS.values() if need in used]


def run(args: Namespace) -> int:
    """Print what is there and what is missing: of all papers by need, of one paper by claim."""
    import papers

    chosen = papers.find(args.slug) if args.slug else None
    # A log or a pipe has no width that rows would have to fit in.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)
    named = {need.name: getattr(args, need.name.replace("-", "_")) for need in _folders()}
    folders = {name: path for name, path in named.items() if path is not None}
    settings = Settings(folders=folders, checkpoint=args.checkpoint)
    if chosen is not None:
        _claims(console, chosen, settings)
        return 0
    _machine(console)
    _data(console, folders)
    _needs(console, list(papers.all_papers().values()), settings.given())
    return 0


def _section(console: Console, title: str) -> None:
    console.print(Text(f"\n{title}", style="bold"))


def _machine(console: Console) -> None:
    import torch

    from common import provenance

    console.print(Text("Machine", style="bold"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hardware = provenance.hardware(device)
    memory = f", {hardware['memory_gib']} GiB memory" if hardware["memory_gib"] else ""
    accelerator = f", {hardware['accelerator']}" if hardware["accelerator"] else ""
    mps = "; mps with --device mps" if torch.backends.mps.is_available() else ""
    free = shutil.disk_usage(provenance.PROJECT).free / 2**30
    console.print(f"  {hardware['system']}; {hardware['cpu']}, {hardware['cores']} cores{memory}")
    console.print(f"  device: {device}{accelerator}{mps}; disk: {free:.1f} GiB free in {provenance.PROJECT}")
    versions = provenance.versions()
    libraries = [f"{name} {version}" for name, version in versions.items() if name not in ("resight", "C compiler")]
    console.print(f"  {', '.join(libraries)}")
    console.print(f"  {_fast(versions['C compiler'])}")


def _fast(compiler: str) -> str:
    """Which form of the parts that have two is in use."""
    import papers
    from papers.vars.fast import in_use

    compiled = [slug for slug, paper in papers.all_papers().items() if any(paper.folder.rglob("*.c"))]
    return f"fast parts of {', '.join(compiled)}; C compiler {compiler}. {in_use()}"


def _data(console: Console, folders: dict[str, Path]) -> None:
    from common.data.fashion_mnist import find_fashion_mnist
    from common.data.folders import visible_folders

    _section(console, "Data")
    console.print(f"  {find_fashion_mnist().sentence}")
    for name, path in folders.items():
        root = path / "val" if (path / "val").is_dir() else path
        count = len(visible_folders(root)) if root.is_dir() else 0
        console.print(f"  {name}: {root.resolve()}, {count} folders in it")


def _needs(console: Console, chosen: Iterable[Paper], given: set[str]) -> None:
    """What is missing, a line each: claims and printed numbers that wait for it."""
    claims: dict[str, int] = {}
    numbers: dict[str, int] = {}
    free = 0
    for paper in chosen:
        settled = _settled(paper)
        for claim in paper.claims:
            lacking = [need for need in claim.needs if need not in given]
            free += not lacking
            for need in lacking:
                claims[need] = claims.get(need, 0) + 1
                numbers[need] = numbers.get(need, 0) + settled[claim.name]
    console.print(f"  With what is here, {free} claims of all papers can be measured.")
    if not claims:
        return
    _section(console, "Missing, with the claims and printed numbers that wait for it (for each thing that they lack)")
    table = _table("need", "claims", "numbers", "how to give it")
    order = sorted(claims, key=lambda need: (-numbers[need], -claims[need]))
    for need in order[:MOST_NEEDS]:
        table.add_row(need, str(claims[need]), str(numbers[need]), NEEDS[need].remedy)
    console.print(table)
    if left := order[MOST_NEEDS:]:
        console.print(f"  and {', '.join(left)}: {sum(numbers[need] for need in left)} numbers")


def _settled(paper: Paper) -> dict[str, int]:
    """How many printed numbers each claim settles; one that several do counts for the one with fewest needs."""
    from common.manifest import load_manifest
    from results.measured import each

    settled = dict.fromkeys((claim.name for claim in paper.claims), 0)
    for row in each(load_manifest(paper.manifest)):
        covering = [claim for claim in paper.claims if claim.covers(row.dataset, row.metric)]
        if covering:
            settled[min(covering, key=lambda claim: len(claim.needs)).name] += 1
    return settled


def _claims(console: Console, paper: Paper, settings: Settings) -> None:
    """Each claim of one paper: what it says, what it settles, and what it still needs."""
    settled = _settled(paper)
    console.print(Text(f"{paper.title} ({paper.venue})", style="bold"))
    table = _table("claim", "numbers", "state", "statement")
    waiting = [claim for claim in paper.claims if settings.missing(claim)]
    for claim in paper.claims:
        lacking = ", ".join(need for need in claim.needs if need not in settings.given())
        state = f"needs {lacking}" if claim in waiting else "ready"
        table.add_row(claim.name, str(settled[claim.name] or ""), state, claim.statement)
    console.print(table)
    if waiting:
        _section(console, "To measure the others")
        for words in dict.fromkeys(command(claim.needs, paper.slug) for claim in waiting):
            console.print(f"  {words}")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        right = heading in ("claims", "numbers")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading in ("need", "claim", "state"))
    return table
