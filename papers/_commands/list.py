"""``./reproduce.sh list``: the papers with their state, computed from manifests and reference results."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from rich.console import Console
from rich.table import Table


def add_arguments(parser: ArgumentParser) -> None:
    """Declare nothing but what the columns mean; there are no options."""
    parser.epilog = (
        "State: no reference (nothing is in results/reference yet), off (an exact finding is broken, or a printed\n"
        "number is off without a known reason), partly measured, measured. The main claim is the first with a primary\n"
        "finding, whose verdict is shown. Numbers are the printed ones, findings those of all claims, both by verdict."
    )


def run(args: Namespace) -> int:
    """Print one row a paper."""
    import papers
    import results

    table = Table(box=None, pad_edge=False)
    for heading in ("paper", "kind", "state", "main claim"):
        table.add_column(heading, no_wrap=True)
    table.add_column("numbers")
    table.add_column("findings")
    for slug, paper in papers.all_papers().items():
        summary = results.summary(paper)
        table.add_row(slug, paper.kind, summary.state, summary.main or "-", summary.numbers_text, summary.findings_text)
    # A log or a pipe has no width that rows would have to fit in.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)
    console.print(table)
    return 0
