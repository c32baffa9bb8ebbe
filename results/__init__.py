"""The checker: expected against measured, verdicts, and what a reader sees of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.declaration import Paper
    from common.run import Run
    from results.reference import Summary

__all__ = ["summary", "write_all"]


def write_all(run: Run) -> int:
    """Judge ``run``, write everything that a reader gets of it into its folder, and print the table.

    Writes ``measured.csv``, ``provenance.json``, ``junit.xml`` and ``report.html``, each atomically. May be called
    at any time: after an interruption it reports what was measured so far.

    Returns:
        Exit status: 0 nothing that was measured is off, 1 something is off, 2 the run could not be made (a claim
        failed or was cut off, or nothing was measured).
    """
    from results.output import write

    return write(run)


def summary(paper: Paper) -> Summary:
    """The state of ``paper``, computed from its manifest and our own reference results."""
    from results.reference import summary as summarise

    return summarise(paper)
