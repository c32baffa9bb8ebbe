"""``./reproduce.sh compare`` and ``try``: what papers train on the bench. Training itself is tested elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from common import bench
from common.run import Run
from papers.__main__ import main
from papers._commands import reproduce
from results import measured

CONTENDERS = """
from torch import nn
from common import bench


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 10))


def contenders():
    return [bench.Contender("linear", build), bench.Contender("linear+cutmix", build, changes=("cutmix=1.0",))]
"""


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps runs out of the checkout."""
    folder = tmp_path / "runs"
    monkeypatch.setattr(reproduce, "runs_folder", lambda: folder)
    monkeypatch.setattr("papers._commands.try_out.runs_folder", lambda: folder)
    return folder


@pytest.fixture
def offering(toy: Path) -> Path:
    """``toy`` with two contenders, and ``second-toy`` with the same and one more."""
    (toy / "claims.py").write_text(CONTENDERS)
    second = toy.parent / "second_toy"
    second.mkdir()
    (second / "__init__.py").write_text((toy / "__init__.py").read_text().replace('"toy"', '"second-toy"'))
    (second / "expected.csv").write_text((toy / "expected.csv").read_text())
    more = "\n\ndef contenders():\n    return [*first(), bench.Contender('wide', build)]\n"
    (second / "claims.py").write_text(CONTENDERS.replace("def contenders", "def first") + more)
    return toy


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """In place of training: scores made from the seed; the names of what would have been trained are kept."""
    asked: list[list[str]] = []

    def scores(run: Run, contenders: Sequence[bench.Contender], measure: object) -> bench.Scores:
        asked.append([contender.name for contender in contenders])
        draws = np.random.default_rng(0)
        cells = {f"corruption_top1/{name}/{severity}": np.array(0.5) for name, severity in bench.CORRUPTION_CELLS}
        return bench.Scores(
            {
                (contender.name, seed): {
                    **{metric: (draws.random((1, 50)) < 0.8).astype(float) for metric in bench.ROBUSTNESS},
                    **cells,
                }
                for contender in contenders
                for seed in run.seeds()
            }
        )

    monkeypatch.setattr(bench, "scores", scores)
    return asked


def test_what_two_papers_train_alike_is_trained_once_and_stands_beside_what_is_no_network(
    offering: Path, runs: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "toy", "second-toy", "--quick"]) == 0
    names = ["linear", "linear+cutmix", "wide"]
    assert trained == [names]
    (folder,) = (runs / "compare-toy-second-toy").iterdir()
    table = measured.load(folder / "measured.csv")
    assert set(table["model"]) == {*names, "logistic_regression", "chance"}
    assert set(table["metric"]) == {"params", "flops", *bench.ROBUSTNESS}
    (params,) = table.loc[(table["model"] == "linear") & (table["metric"] == "params"), "value"]
    assert params == pytest.approx((3 * 28 * 28 * 10 + 10) / 1000)
    page = (folder / "report.html").read_text()
    assert "Every model gets the bench" in page
    assert page.count("<figure>") == 3
    out = capsys.readouterr().out
    assert all(name in out for name in (*names, "logistic_regression"))


def test_two_runs_of_the_same_papers_can_be_compared(offering: Path, tmp_path: Path, trained: list[list[str]]) -> None:
    for name in ("old", "new"):
        assert main(["compare", "toy", "--quick", "--output", str(tmp_path / name)]) == 0
    assert main(["compare-runs", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert main(["compare", "second-toy", "--quick", "--output", str(tmp_path / "old"), "--resume"]) == 2


def test_a_failure_is_told(
    offering: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("out of range")

    monkeypatch.setattr(bench, "scores", fails)
    assert main(["compare", "toy", "--quick", "--output", str(tmp_path / "run")]) == 2
    assert "out of range" in " ".join(capsys.readouterr().out.split())
    assert "out of range" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "toy"], "toy trains nothing on the bench"),
        (["compare", "fan", "fan"], "named twice"),
        (["compare", "fna"], "Did you mean fan?"),
        (["compare", "results/runs/vars/old", "results/runs/vars/new"], "compare-runs OLD NEW"),
        (["compare", "results/reference/vars.csv"], "compare-runs OLD NEW"),
        (["toy", "try", "linear"], "toy trains no 'linear' on the bench"),
    ],
)
def test_mistakes_are_one_sentence(
    toy: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in line


def test_one_contender_can_be_tried_with_other_settings(offering: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toy", "try", "linear", "--quick", "--device", "cpu", "--set", "learning_rate=0.01"]) == 0
    out = capsys.readouterr().out
    assert "epoch 1.000: train_loss" in out
    assert "corruption_top1" in out
    assert "logistic regression" in out
    assert main(["toy", "try", "linear", "--quick", "--set", "learning_rat=0.01"]) == 2
    assert "Did you mean learning_rate?" in capsys.readouterr().err
