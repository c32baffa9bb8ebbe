"""The checker: expected against measured, verdicts, and what a reader sees of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from common.declaration import Paper
    from common.run import Run
    from results.reference import Summary

__all__ = ["numbers", "summary", "write_all"]


def write_all(run: Run, *, alone: bool = False, quiet: bool = False) -> int:
    """Judge ``run`` by the manifest and our reference results, write what a reader gets of it, and print the table.

    Writes ``measured.csv``, ``provenance.json``, ``junit.xml`` and ``report.html`` into the run's folder, each
    atomically. May be called at any time: after an interruption it reports what was measured so far.

    Args:
        run: in any state.
        alone: let the run's own verdicts stand, without the reference's.
        quiet: print nothing.

    Returns:
        Exit status: 0 everything that was measured is as printed, or off and known, and agrees with the reference; 1
        something is newly off, an exact finding is broken, or a result contradicts the reference; 2 the run could not
        be made (a claim failed or was cut off, or nothing was measured).
    """
    from results.output import write

    return write(run, alone=alone, quiet=quiet)


def numbers(
    slugs: Collection[str] = (), *, dataset: str | None = None, metric: str | None = None, model: str | None = None
) -> pd.DataFrame:
    """All printed and measured numbers, of all papers or of ``slugs``, best first; see ``results.all_numbers``."""
    from results.all_numbers import numbers as table

    return table(slugs, dataset=dataset, metric=metric, model=model)


def summary(paper: Paper) -> Summary:
    """The state of ``paper``, computed from its manifest and our own reference results."""
    from results.reference import summary as summarise

    return summarise(paper)
