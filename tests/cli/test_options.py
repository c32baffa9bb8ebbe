"""Every option that is a number or a path is checked where it is given; so is what there is to go on with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.arguments import MOST, existing_file, number, output_file, output_folder, whole_number
from papers.__main__ import main

TRAIN = ("rvt", "train", "--model", "rvt_tiny", "--recipe", "embedded", "--quick")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((*TRAIN, "--workers", "-2"), "argument --workers: '-2' is not a whole number of at least 0"),
        ((*TRAIN, "--device-batch", "-4"), "argument --device-batch: '-4' is not a whole number of at least 1"),
        ((*TRAIN, "--checkpoint-steps", "-1"), "argument --checkpoint-steps: '-1' is not a whole number"),
        ((*TRAIN, "--seed", "-1"), "argument --seed: '-1' is not a whole number of at least 0"),
        ((*TRAIN, "--seed", "9" * 25), f"is more than {MOST}"),
        (("vars", "--seed", "9" * 25), f"is more than {MOST}"),
        ((*TRAIN, "--set", "input_size=100000000"), "input_size must be at most 8192"),
        ((*TRAIN, "--set", f"total_batch={10**20}"), f"total_batch must be at most {MOST}"),
        ((*TRAIN, "--output", ""), "argument --output: it names nothing; give a path"),
        ((*TRAIN, "--output", "/dev/null"), "argument --output: '/dev/null' is no folder; name one"),
        ((*TRAIN, "--output", "/dev/null/x"), "'/dev/null/x' cannot be made: /dev/null is no folder"),
        ((*TRAIN, "--output", "x" * 300), "is no path (File name too long)"),
        ((*TRAIN, "--output", "caf\udce9"), "is not UTF-8 here; set PYTHONUTF8=1, or rename it"),
        ((*TRAIN, "--initial", ""), "argument --initial: it names nothing; give a path"),
        ((*TRAIN, "--initial", "/tmp"), "argument --initial: '/tmp' is a folder, not a file"),
        ((*TRAIN, "--weights", "ema"), "--weights is of what --initial holds"),
        (("vars", "--output", "/dev/null"), "argument --output: '/dev/null' is no folder; name one"),
        (("vars", "--model", "rvt_tiny"), "--model is of what --checkpoint holds; give --checkpoint FILE, too"),
        (("vars", "--weights", "ema"), "--weights is of what --checkpoint holds"),
        (("vars", "--imagenet", ""), "argument --imagenet: it names nothing; give a path"),
        (("vars", "--checkpoint", "~nobody-of-this-name/x"), "is no path"),
        (("all", "--output", "/dev/null"), "is no folder; name one"),
        (("compare-runs", "nowhere", "nowhere"), "argument old: there is no 'nowhere'"),
        (("reference", "vars", "--shard", "4/3"), "is no share; write 1/3 for the first of three"),
        (("corrupt", "/tmp", "/dev/null/x", "--crop", "-1"), "/dev/null is no folder"),
        (("corrupt", "/tmp", "x", "--severities", "6"), "6 is more than 5"),
        (("corrupt", "/tmp", "x", "--crop", "100000000"), "100000000 is more than 8192"),
        (("new", "fresh", "--year", "-1"), "'-1' is not a whole number of at least 1900"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    words: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert re.sub("^A", "a", sentence) in re.sub("^A", "a", error)
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_types_of_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "there").touch()
    assert whole_number(0)("7") == 7
    assert number(above=0, most=1)("1") == 1
    assert existing_file("~/there") == tmp_path / "there"
    assert output_folder("~/new/one") == tmp_path / "new/one"
    assert output_file("~/there") == tmp_path / "there"


def test_there_must_be_something_to_go_on_with(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["toy"], ["all", "toy"]):
        assert main([*words, "--output", str(tmp_path / "none"), "--resume"]) == 2
        assert f"{tmp_path / 'none'} holds no run to go on with; leave out --resume." in capsys.readouterr().err
    assert main([*TRAIN, "--from-previous", "--output", str(tmp_path / "new")]) == 2
    assert "has no checkpoint, and no previous one; leave out --from-previous." in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_found_before_the_first_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*TRAIN, "--output", "/proc/none/there"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    for slug in ("vars", "all"):
        assert main([slug, "--output", "/proc/none/there"]) == 2
        assert "cannot be written" in capsys.readouterr().err
