"""``./reproduce.sh numbers``: one table of all numbers, in each of its forms."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from papers.__main__ import main
from results import all_numbers, reference
from tests.results.fake_paper import Fake, number

HEADER = "model,dataset,metric,value,unit,tolerance,source,locator,note\n"
ONE = """net_tiny,-,params,8.60,M,,README.md @1,table 1,
net_tiny,imagenet-1k,top1,78.4,%,,README.md @1,table 1,
net_small.tag,imagenet-1k,top1,81.7,%,,README.md @1,table 1,
net_small,-,params,22.1,M,,README.md @1,table 1,
net_tiny,imagenet-c,mce,57.0,,,README.md @1,table 2,
net_small,imagenet-c,mce,49.4,,,README.md @1,table 2,
"""
TWO = "other,imagenet-1k,top1,80.0,%,,README.md @2,table 1,with | a bar\n"


@pytest.fixture(autouse=True)
def two_papers(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two manifests, and a reference of the first."""
    for slug, rows in (("one", ONE), ("paper_two", TWO)):
        (tmp_path / "papers" / slug).mkdir(parents=True)
        (tmp_path / "papers" / slug / "expected.csv").write_text(HEADER + rows)
    monkeypatch.setattr("results.all_numbers.PAPERS", tmp_path / "papers")
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    measured = [number("net_tiny", "-", "params", 8.6412, "M")]
    trained = number("net_tiny", "fashion-mnist", "top1", 91.2, weights="trained", interval=(90.0, 92.4), seeds=6)
    from results.measured import of_run, to_csv

    (tmp_path / "one.csv").write_text(to_csv(of_run(fake.run({"size": measured, "robustness": [trained]}))))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path, monkeypatch)


def csv(capsys: pytest.CaptureFixture[str], *words: str) -> pd.DataFrame:
    assert main(["numbers", "--csv", *words]) == 0
    return pd.read_csv(io.StringIO(capsys.readouterr().out), dtype={"digits": str}, keep_default_na=False)


def test_all_numbers_are_in_one_table_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    table = csv(capsys)
    assert len(table[table["kind"] == "printed"]) == 7
    assert set(table["paper"]) == {"one", "paper-two"}
    assert (table["source"] != "").all()
    assert "8.60" in set(table["digits"]), "digits as printed"
    row = table[table["dataset"] == "fashion-mnist"].iloc[0]
    assert (row["value"], row["low"], row["seeds"], row["weights"]) == (91.2, "90.0", "6", "trained")


def test_the_best_comes_first_whichever_way_is_better(capsys: pytest.CaptureFixture[str]) -> None:
    top1 = csv(capsys, "--dataset", "imagenet-1k", "--metric", "top1")
    assert list(top1["model"]) == ["net_small.tag", "other", "net_tiny"]
    assert list(csv(capsys, "--metric", "mce")["value"]) == [49.4, 57.0]
    assert list(csv(capsys, "--metric", "params")["value"]) == [8.6, 8.6412, 22.1]


@pytest.mark.parametrize(
    ("words", "models"),
    [
        (("--model", "SMALL"), {"net_small", "net_small.tag"}),
        (("--model", "net_small"), {"net_small", "net_small.tag"}),
        (("--model", "*small"), {"net_small"}),
        (("paper-two",), {"other"}),
    ],
)
def test_papers_and_models_are_chosen(words, models, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(csv(capsys, *words)["model"]) == models


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("oen",), "Did you mean one?"),
        (("--metric", "mec"), "Did you mean mce?"),
        (("--dataset", "imagenet1k"), "Did you mean imagenet-1k?"),
        (("--model", "swin"), "No number is of a model that matches 'swin'"),
        (("--csv", "--json"), "not allowed with"),
        (("paper-two", "--metric", "top1", "--plot"), "Of none of these models the params are known"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["numbers", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in line


def test_every_form_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["numbers", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records) == len(csv(capsys))
    assert main(["numbers", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(records) + 2
    assert main(["numbers"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(records) + 1
    assert any("91.2 ± 1.2 %" in line for line in shown)


def test_a_figure_shows_accuracy_against_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figure.svg"
    assert main(["numbers", "--plot", "--output", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    svg = path.read_text()
    assert svg.startswith("<svg")
    assert "top1 on imagenet-1k, %" in svg
    assert main(["numbers", "--plot", "flops", "--output", str(path)]) == 2


def test_costs_are_as_counted_before_as_printed() -> None:
    assert all_numbers.costs("params") == {"net_tiny": 8.6412, "net_small": 22.1}


def test_in_python_it_is_a_data_frame() -> None:
    import results

    for _ in range(2):
        assert isinstance(results.numbers(metric="mce"), pd.DataFrame)
