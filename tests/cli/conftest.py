"""Papers that exist for one test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import papers

DECLARATION = """
from common.declaration import Claim, Paper

PAPER = Paper(
    slug="toy",
    title="A Toy",
    authors=("A. Author",),
    venue="CONF 2026",
    year=2026,
    kind="analysis",
    summary="Toys hold.",
    bibtex="@article{author2026toy, title = {A Toy}, author = {Author, A.}, year = {2026}}",
    claims=(
        Claim(name="first", statement="The first holds."),
        Claim(name="second", statement="The second holds."),
        Claim(name="third", statement="The third needs data.", needs=("imagenet",)),
    ),
)
"""

#: ``first`` counts its calls in a file; ``second`` is interrupted while a file says so.
CLAIMS = """
import signal
from pathlib import Path

from common.errors import UserError
from common.measurement import Finding

HERE = Path(__file__).parent


def first(run):
    calls = HERE / "first.calls"
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    yield Finding(statement="The first holds.", verdict="holds", evidence="It was called.", exact=True)


def second(run):
    mode = (HERE / "mode").read_text()
    if mode == "interrupt":
        raise KeyboardInterrupt
    if mode == "terminate":
        signal.raise_signal(signal.SIGTERM)
    if mode == "user error":
        raise UserError("The toy is out of reach; fetch it.")
    verdict = "does not hold" if mode == "off" else "holds"
    yield Finding(statement="The second holds.", verdict=verdict, evidence=f"The mode is {mode}.", exact=True)
"""


@pytest.fixture
def more_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A second folder in which papers are found."""
    folder = tmp_path / "papers"
    folder.mkdir()
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(folder)])
    forget = papers.all_papers.cache_clear
    forget()
    yield folder
    forget()
    for path in folder.iterdir():
        for name in [name for name in sys.modules if f"{name}.".startswith(f"papers.{path.name}.")]:
            del sys.modules[name]
        if hasattr(papers, path.name):
            delattr(papers, path.name)


@pytest.fixture
def toy(more_papers: Path) -> Path:
    """The paper ``toy``, in its folder; the file ``mode`` says what happens to its second claim."""
    folder = more_papers / "toy"
    folder.mkdir()
    (folder / "__init__.py").write_text(DECLARATION)
    (folder / "claims.py").write_text(CLAIMS)
    (folder / "expected.csv").write_text("model,dataset,metric,value,unit,tolerance,source,locator,note\n")
    (folder / "mode").write_text("fine")
    papers.all_papers.cache_clear()
    return folder
