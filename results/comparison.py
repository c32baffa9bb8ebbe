"""Models of several papers side by side: a table, its CSV and a page. No source prints any of these numbers."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from markupsafe import Markup
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from common.files import write_atomic
from common.measurement import Picture
from common.run import Run
from results import page
from results.measured import MEASURED, PROVENANCE, of_run, to_csv
from results.output import REPORT, origin
from results.style import wide
from results.svg import inline
from results.terminal import fitting


def write(run: Run, console: Console | None = None) -> int:
    """Write ``measured.csv``, ``provenance.json`` and ``report.html`` into the run's folder, and print the table.

    Returns:
        Exit status: 0 measured, 2 not measured to its end.
    """
    console = console or Console(markup=False)
    table = of_run(run)
    done = bool(run.states) and all(state.state == "done" for state in run.states.values())
    told = {"exit_status": 0 if done else 2, **origin(run)}
    write_atomic(run.folder / MEASURED, to_csv(table))
    write_atomic(run.folder / PROVENANCE, json.dumps(told, indent=2) + "\n")
    grid = side_by_side(table) if len(table) else None
    report = write_atomic(run.folder / REPORT, _render(run, grid, told))
    console.print()
    console.print(Rule(Text(run.paper.title, style="bold"), align="left", style="dim"))
    console.print(Text(run.paper.summary, style="dim"))
    for part in fitting(grid, console.width) if grid is not None else ():
        console.print(part)
    for state in run.states.values():
        if state.state != "done":
            console.print(Text(f"{state.state}: {state.reason}", style="bold red"))
    console.print(Text("\nReport: ", style="bold").append(str(report), style="not bold"), soft_wrap=True)
    return 0 if done else 2


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Text with a row a model and a column a metric, ``±`` half the 95 % interval; sizes first."""
    numbers = table[table["kind"] == "measurement"]
    return wide(numbers.sort_values("dataset", key=lambda names: names != "-", kind="stable"))


def _render(run: Run, grid: pd.DataFrame | None, told: dict[str, Any]) -> str:
    results = [result for measured in run.results.values() for result in measured]
    pictures = [result for result in results if isinstance(result, Picture)]
    broken = "; ".join(f"{state.state}: {state.reason}" for state in run.states.values() if state.state != "done")
    return page.render(
        "comparison.html",
        paper=run.paper,
        headline=broken or f"{0 if grid is None else len(grid)} small models, trained and measured alike.",
        grid=grid,
        dataset=", ".join(sorted({result.dataset for result in results if hasattr(result, "dataset")} - {"-"})),
        seeds=told["seeds"],
        pictures=[
            {"caption": picture.caption, "svg": Markup(inline(picture.svg, f"figure{number}", picture.caption))}
            for number, picture in enumerate(pictures, start=1)
        ],
        provenance=told,
        provenance_json=json.dumps(told, indent=2),
    )
