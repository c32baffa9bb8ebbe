"""``./reproduce.sh SLUG``: settings, exit status, interruption and resume."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from common import provenance
from papers.__main__ import entry, main
from papers._commands import reproduce
from results import reference


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps runs out of the checkout."""
    folder = tmp_path / "runs"
    monkeypatch.setattr(reproduce, "runs_folder", lambda: folder)
    monkeypatch.setattr("papers._commands.reference.runs_folder", lambda: folder)
    return folder


def test_measures_and_reports(toy: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toy"]) == 0
    (folder,) = (runs / "toy").iterdir()
    assert {"measured.csv", "provenance.json", "junit.xml", "report.html"} <= {path.name for path in folder.iterdir()}
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["claims"]["first"]["state"] == "done"
    assert provenance["claims"]["third"]["state"] == "not measured"
    assert "--imagenet DIR" in provenance["claims"]["third"]["reason"]


def test_exit_status_tells_off_and_failed(toy: Path, tmp_path: Path) -> None:
    (toy / "mode").write_text("off")
    assert main(["toy", "--output", str(tmp_path / "off")]) == 1
    (toy / "mode").write_text("user error")
    assert main(["toy", "--output", str(tmp_path / "failed")]) == 2


def test_a_mistake_in_the_manifest_is_told_before_anything_is_measured(
    toy: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (toy / "expected.csv").open("a") as manifest:
        manifest.write("net,-,parms,8.6,M,,README.md @1,table 1,\n")
    assert main(["toy"]) == 2
    assert "line 2, column 'metric': unknown metric 'parms'. Did you mean params?" in capsys.readouterr().err
    assert not (toy / "first.calls").exists()
    assert not runs.exists()


def test_nothing_measured_is_not_success(toy: Path) -> None:
    assert main(["toy", "--claims", "third"]) == 2


def test_interruption_keeps_what_was_measured_and_says_how_to_go_on(
    toy: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / "mode").write_text("interrupt")
    assert main(["toy", "--quick", "--seeds", "2"]) == 130
    (folder,) = (runs / "toy").iterdir()
    assert (folder / "report.html").exists()
    *_, said = capsys.readouterr().err.strip().splitlines()
    program, *words = shlex.split(said)
    assert program == "./reproduce.sh"
    assert words == ["toy", "--quick", "--seeds", "2", "--output", str(folder), "--resume"]

    (toy / "mode").write_text("fine")
    assert main(words) == 0
    assert (toy / "first.calls").read_text() == "x", "what was measured is not measured again"
    assert list((runs / "toy").iterdir()) == [folder]


def test_a_batch_system_that_terminates_the_run_keeps_what_was_measured(
    toy: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / "mode").write_text("terminate")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESIGHT_CALLED_FROM", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["resight", "toy"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert entry() == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    (folder,) = (runs / "toy").iterdir()
    assert json.loads((folder / "provenance.json").read_text())["claims"]["first"]["state"] == "done"
    assert "--resume" in capsys.readouterr().err


def test_resume_takes_the_newest_unfinished_run_with_the_same_settings(toy: Path, runs: Path) -> None:
    (toy / "mode").write_text("interrupt")
    assert main(["toy", "--seed", "1"]) == 130
    assert main(["toy"]) == 130
    (toy / "mode").write_text("fine")
    assert main(["toy", "--resume"]) == 0
    assert len(list((runs / "toy").iterdir())) == 2
    assert main(["toy", "--seed", "1", "--resume"]) == 0
    assert (toy / "first.calls").read_text() == "xx"


def test_resume_with_other_settings_is_refused(toy: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "mode").write_text("interrupt")
    assert main(["toy", "--quick"]) == 130
    capsys.readouterr()
    assert main(["toy", "--resume"]) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert "quick" in sentence
    (folder,) = (runs / "toy").iterdir()
    assert main(["toy", "--resume", "--output", str(folder)]) == 2
    assert "quick" in capsys.readouterr().err


def test_nothing_to_resume(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toy", "--resume"]) == 2
    assert "no unfinished run of toy" in capsys.readouterr().err
    assert main(["toy"]) == 0
    assert main(["toy", "--resume"]) == 2


def test_a_run_is_not_written_over(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["toy", "--output", str(folder)]) == 0
    before = (folder / "events.jsonl").read_text()
    assert main(["toy", "--output", str(folder)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert (folder / "events.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tyo"], "Did you mean toy?"),
        (["lst"], "Did you mean list?"),
        (["toy", "trian"], "Did you mean train?"),
        (["toy", "--seed", "-1"], "whole number of at least 0"),
        (["toy", "--seeds", "0"], "whole number of at least 1"),
        (["toy", "--epoch", "3"], "Did you mean --epochs?"),
        (["toy", "--imagenet", "nowhere"], "there is no folder 'nowhere'"),
        (["toy", "--checkpoint", "nowhere.pth"], "there is no file 'nowhere.pth'"),
        (["toy", "--claims", "frist"], "Did you mean first?"),
        (["toy", "--claims", ","], "names no claim"),
        (["toy", "--device", "abacus"], "no such device"),
        (["toy", "--device", "cuda:97"], "no such device"),
        (["cite", "tyo"], "Did you mean toy?"),
        (["list", "--all"], "does not know '--all'"),
    ],
)
def test_mistakes_are_one_sentence(
    toy: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.strip().splitlines()
    assert sentence in line


def test_reference_results_are_of_committed_code_and_give_the_state_of_the_paper(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    monkeypatch.setattr(provenance, "code", lambda: {"commit": "0123456789abcdef", "dirty": True})
    assert main(["reference", "toy"]) == 2
    assert "commit what has changed" in capsys.readouterr().err
    monkeypatch.setattr(provenance, "code", lambda: {"commit": "0123456789abcdef", "dirty": False})
    assert main(["list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("toy")]
    assert re.split(r" {2,}", line.strip()) == ["toy", "analysis", "no reference", "-", "none", "none"]
    (toy / "mode").write_text("interrupt")
    assert main(["reference", "toy"]) == 130
    (toy / "mode").write_text("fine")
    assert main(["reference", "toy"]) == 0
    assert (toy / "first.calls").read_text() == "x", "what was measured before the interruption is not measured again"
    capsys.readouterr()
    assert main(["list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("toy")]
    assert re.split(r" {2,}", line.strip()) == ["toy", "analysis", "measured", "-", "none", "2 holds"]
    assert main(["toy", "--output", str(tmp_path / "run")]) == 0
    assert main(["compare-runs", str(tmp_path / "toy.csv"), str(tmp_path / "run")]) == 0
    assert main(["reference", "toy", "--shard", "4/3"]) == 2
