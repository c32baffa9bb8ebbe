"""``./reproduce.sh numbers``: every printed and measured number of every paper, with its source, best first."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.arguments import output_file
from common.files import write_atomic

#: What is drawn where nothing else is asked for.
PLOTTED = ("imagenet-1k", "top1")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what is shown of the table, and how."""
    parser.epilog = (
        "Printed numbers are those of the papers' manifests, measured ones those of our reference results. In Python:\n"
        "results.numbers(), a pandas DataFrame. --plot draws one metric on one data set against parameters or\n"
        "multiply-adds (flops), papers by colour, filled where measured and open where printed."
    )
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="of these papers only (default: all)")
    parser.add_argument("--dataset", metavar="D", help="on this data set, e.g. imagenet-1k")
    parser.add_argument("--metric", metavar="M", help="of this metric, e.g. top1")
    parser.add_argument("--model", metavar="PATTERN", help="of these models, e.g. 'rvt*plus'; a part of a name will do")
    form = parser.add_mutually_exclusive_group()
    for name in ("csv", "json", "markdown"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=f"print it as {name}")
    parser.add_argument(
        "--plot", nargs="?", const="params", choices=("params", "flops"), help="draw it (default: against params)"
    )
    parser.add_argument(
        "--output",
        type=output_file,
        default=Path("numbers.svg"),
        metavar="FILE",
        help="of the figure (default: numbers.svg)",
    )


def run(args: Namespace) -> int:
    """Print the table, or draw it."""
    from results import numbers

    dataset, metric = args.dataset, args.metric
    if args.plot:
        dataset, metric = dataset or PLOTTED[0], metric or PLOTTED[1]
    table = numbers(args.slugs, dataset=dataset, metric=metric, model=args.model)
    if args.plot:
        from results.all_numbers import picture

        print(write_atomic(args.output, picture(table, args.plot)))
    elif args.form == "csv":
        sys.stdout.write(table.to_csv(index=False, lineterminator="\n"))
    elif args.form == "json":
        print(table.to_json(orient="records", indent=1, force_ascii=False))
    elif args.form == "markdown":
        print(_markdown(table))
    else:
        _show(table)
    return 0


def _cells(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Model, data set, metric, value, kind, paper and source of each row as text."""
    from results.measured import each
    from results.style import interval, number

    rows: list[tuple[str, ...]] = []
    for row in each(table):
        value = row.digits or (interval(row.value, row.low, row.high) if pd.notna(row.low) else number(row.value))
        kind = row.kind if row.weights in ("", "none") else f"{row.kind}, {row.weights}"
        where = f"{row.source}, {row.locator}" if row.kind == "printed" else row.source
        rows.append((row.model, row.dataset, row.metric, f"{value} {row.unit}".rstrip(), kind, row.paper, where))
    return rows


HEADINGS = ("model", "data set", "metric", "value", "kind", "paper", "source")


def _show(table: pd.DataFrame) -> None:
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for heading in HEADINGS:
        grid.add_column(heading, justify="right" if heading == "value" else "left", overflow="fold")
    for cells in _cells(table):
        grid.add_row(*map(Text, cells))
    # A log or a pipe has no width that rows would have to fit in.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)
    console.print(grid)


def _markdown(table: pd.DataFrame) -> str:
    lines = [HEADINGS, ("---",) * len(HEADINGS), *_cells(table)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
