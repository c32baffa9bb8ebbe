"""``./reproduce.sh list``: the papers with their state, computed from manifests and reference results."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from rich.console import Console
from rich.table import Table


def add_arguments(parser: ArgumentParser) -> None:
    """Declare nothing but what the columns mean; there are no options."""
    parser.epilog = (
        "State: not measured (there are no reference results), off (a printed number or an exact finding is), partly "
        "measured, measured.\nNumbers are the printed ones, findings all other claims; both by verdict, from "
        "results/reference."
    )


def run(args: Namespace) -> int:
    """Print one row a paper."""
    import papers
    import results

    table = Table("paper", "kind", "venue", "state", "numbers", "findings", box=None, pad_edge=False)
    for slug, paper in papers.all_papers().items():
        summary = results.summary(paper)
        table.add_row(slug, paper.kind, paper.venue, summary.state, summary.numbers_text, summary.findings_text)
    console = Console(highlight=False)
    # A log or a pipe has no width that rows would have to fit in.
    console.print(table, width=None if console.is_terminal else 1000, crop=console.is_terminal)
    return 0
