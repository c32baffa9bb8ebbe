"""``./reproduce.sh all``: every paper one after the other, and one index of all."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest

import papers
from papers.__main__ import main
from papers._commands import reproduce


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps runs out of the checkout."""
    folder = tmp_path / "runs"
    monkeypatch.setattr(reproduce, "runs_folder", lambda: folder)
    return folder


@pytest.fixture
def second(toy: Path) -> Path:
    """A paper like ``toy``, called ``second-toy``."""
    folder = toy.parent / "second_toy"
    folder.mkdir()
    for name in ("claims.py", "expected.csv", "mode"):
        (folder / name).write_text((toy / name).read_text())
    declaration = (toy / "__init__.py").read_text()
    (folder / "__init__.py").write_text(declaration.replace('"toy"', '"second-toy"').replace("A Toy", "Another <Toy>"))
    papers.all_papers.cache_clear()
    return folder


def suites(folder: Path) -> dict[str, ElementTree.Element]:
    return {suite.get("name"): suite for suite in ElementTree.parse(folder / "junit.xml").getroot()}


def test_one_index_of_all_papers(toy: Path, second: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["all", "toy", "second-toy", "--quick"]) == 0
    (folder,) = (runs / "all").iterdir()
    page = (folder / "index.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert links == ["toy/report.html", "second-toy/report.html"]
    assert all((folder / link).is_file() for link in links)
    assert "Another &lt;Toy&gt;" in page
    assert "4 holds" in page
    assert "2 papers: 2 done." in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r'(src|href)="(https?:)?//', page), "needs nothing from elsewhere"
    assert set(suites(folder)) == {"resight.toy", "resight.second-toy"}
    first, second_line, *_, last = capsys.readouterr().out.rstrip().splitlines()
    assert first.startswith("toy ")
    assert "left" in first, "it says how long the rest will take"
    assert second_line.startswith("second-toy ")
    assert "left" not in second_line
    assert str(folder / "index.html") in last


def test_verdicts_can_stand_without_the_reference(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("results.write_all", lambda run, **options: asked.append(options["alone"]) or 0)
    monkeypatch.setattr("results.index.write", lambda *_, **__: 0)
    assert main(["all", "toy"]) == main(["all", "toy", "--no-reference"]) == 0
    assert asked == [False, True]


def test_a_paper_that_fails_does_not_stop_the_others(
    toy: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    (toy / "mode").write_text("user error")
    (toy.parent / "third").mkdir()
    (toy.parent / "third/__init__.py").write_text(
        re.sub(r"claims=\(.*\n    \),\n", "", (toy / "__init__.py").read_text(), flags=re.DOTALL).replace(
            "toy", "third"
        )
    )
    papers.all_papers.cache_clear()
    (second / "expected.csv").write_text("model\n")
    assert main(["all", "toy", "third", "second-toy", "--output", str(folder)]) == 2
    page = (folder / "index.html").read_text()
    assert "second: The toy is out of reach; fetch it." in page
    assert "third declares no claims" in page
    assert "3 papers: 3 failed." in page
    (error,) = suites(folder)["resight.third"].iter("error")
    assert "declares no claims" in error.get("message")
    (error,) = suites(folder)["resight.second-toy"].iter("error")
    assert "expected.csv" in error.get("message")
    (second / "expected.csv").write_text((toy / "expected.csv").read_text())
    (toy / "mode").write_text("fine")
    assert main(["all", "toy", "third", "second-toy", "--output", str(folder), "--resume"]) == 2
    assert (toy / "first.calls").read_text() == (second / "first.calls").read_text() == "x"
    assert "3 papers: 2 done, 1 failed." in (folder / "index.html").read_text()


def test_the_worst_status_counts(toy: Path, second: Path, tmp_path: Path) -> None:
    (toy / "mode").write_text("off")
    assert main(["all", "toy", "second-toy", "--output", str(tmp_path / "run")]) == 1
    assert "1 done, 1 off" in (tmp_path / "run/index.html").read_text()


def test_interruption_and_resume(toy: Path, second: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "mode").write_text("interrupt")
    assert main(["all", "toy", "second-toy", "--seeds", "1"]) == 130
    (folder,) = (runs / "all").iterdir()
    assert "1 interrupted" in (folder / "index.html").read_text()
    assert not (second / "first.calls").exists()
    *_, said = capsys.readouterr().err.strip().splitlines()
    words = shlex.split(said)[1:]
    assert words == ["all", "toy", "second-toy", "--seeds", "1", "--output", str(folder), "--resume"]

    (toy / "mode").write_text("fine")
    assert main(["all", "toy", "second-toy", "--resume"]) == 2
    assert "no unfinished run with these options" in capsys.readouterr().err
    assert main(["all", "toy", "second-toy", "--seeds", "1", "--resume"]) == 0
    assert (toy / "first.calls").read_text() == "x", "what was measured is not measured again"
    assert list((runs / "all").iterdir()) == [folder]
    assert main(["all", "toy", "second-toy", "--seeds", "1", "--resume"]) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tyo"], "Did you mean toy?"),
        (["toy", "--output", "{run}"], "already holds a run"),
        (["toy", "--output", "{run}", "--resume", "--quick"], "other papers or options"),
    ],
)
def test_mistakes_are_one_sentence(
    toy: Path, tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["all", "toy", "--output", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["all", *(word.format(run=tmp_path / "run") for word in words)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in line
