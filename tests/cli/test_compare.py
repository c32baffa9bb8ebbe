"""``./reproduce.sh compare``: small models of several papers, trained alike. Training itself is tested elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

import papers
from common.robustness import embedded
from common.robustness.corruptions import CORRUPTIONS
from common.robustness.embedded import Contender
from common.run import Run
from common.training.recipe import load_recipe
from papers.__main__ import main
from papers._commands import compare, reproduce
from results import measured

SMALL_MODELS = """
from torch import nn
from common.robustness.corruptions import CORRUPTIONS
from common.robustness.embedded import Contender


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 10))


def hooks(recipe):
    return [dict(recipe.method)]


def small_models():
    return [Contender("linear", build), Contender("linear+gradient", build, hooks, CHANGES)]
"""
CHANGES = ("method.patch_augmentation_gradient=discarded", "cutmix=1.0")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps runs out of the checkout."""
    folder = tmp_path / "runs"
    monkeypatch.setattr(reproduce, "runs_folder", lambda: folder)
    return folder


@pytest.fixture
def offering(toy: Path) -> Path:
    """``toy`` with two small models and rvt's recipe."""
    (toy / "claims.py").write_text(SMALL_MODELS + f"\n\nCHANGES = {CHANGES!r}\n")
    (toy / "recipe.toml").write_text(papers.find("rvt").recipe.read_text())
    return toy


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Contender], Path]]:
    """In place of training: numbers made from the seed; what would have been trained is kept."""
    asked: list[tuple[list[Contender], Path]] = []

    def table(run: Run, contenders: Sequence[Contender], path: Path) -> pd.DataFrame:
        asked.append((list(contenders), path))
        cells = [f"corruption_top1/{name}/{severity}" for name in CORRUPTIONS for severity in embedded.SEVERITIES]
        rows = {
            (contender.name, seed): dict.fromkeys((*embedded.METRICS, *cells), 50.0 + place + seed)
            for place, contender in enumerate(contenders)
            for seed in run.seeds()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "seed"])

    monkeypatch.setattr(embedded, "compare", table)
    return asked


def test_models_of_two_papers_side_by_side(
    offering: Path, runs: Path, trained: list, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "fan", "toy", "--quick"]) == 0
    ((contenders, recipe),) = trained
    assert recipe == papers.find("fan").recipe, "the budget of the paper that is named first"
    names = ["fan/fan_mini", "fan/fan_mini.convolution", "fan/fan_mini.mlp", "toy/linear", "toy/linear+gradient"]
    assert [contender.name for contender in contenders] == names
    (folder,) = (runs / "compare-fan-toy").iterdir()
    table = measured.load(folder / "measured.csv")
    assert set(table["model"]) == set(names)
    assert set(table["metric"]) == {"params", "flops", *embedded.METRICS}
    (params,) = table.loc[(table["model"] == "toy/linear") & (table["metric"] == "params"), "value"]
    assert params == pytest.approx((3 * 28 * 28 * 10 + 10) / 1000)
    page = (folder / "report.html").read_text()
    assert "budget of fan" in page
    assert page.count("<figure>") == 3
    out = capsys.readouterr().out
    assert all(name in out for name in names)
    assert "budget of fan" in " ".join(out.split())


def test_every_model_keeps_the_method_of_its_own_paper(offering: Path) -> None:
    plain, changed = compare.small_models(papers.find("toy"), quick=True)
    common = load_recipe(papers.find("fan").recipe, "embedded", changes=changed.changes)
    assert changed.changes == ("cutmix=1.0",)
    assert common.cutmix == 1.0
    assert plain.hooks(common) == ()
    ((method,)) = changed.hooks(common)
    own = load_recipe(papers.find("rvt").recipe, "embedded").method
    assert method == {**own, "patch_augmentation_gradient": "discarded"}


def test_two_runs_of_the_same_papers_can_be_compared(offering: Path, tmp_path: Path, trained: list) -> None:
    for name in ("old", "new"):
        assert main(["compare", "toy", "--quick", "--output", str(tmp_path / name)]) == 0
    assert main(["compare-runs", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert main(["compare", "fan", "--quick", "--output", str(tmp_path / "old"), "--resume"]) == 2


def test_a_failure_is_told(
    offering: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("out of range")

    monkeypatch.setattr(embedded, "compare", fails)
    assert main(["compare", "toy", "--quick", "--output", str(tmp_path / "run")]) == 2
    assert "out of range" in " ".join(capsys.readouterr().out.split())
    assert "out of range" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["toy", "rvt"], "toy offers no small models to compare;"),
        (["fan", "fan"], "named twice"),
        (["fna"], "Did you mean fan?"),
        (["results/runs/vars/old", "results/runs/vars/new"], "compare-runs OLD NEW"),
        (["results/reference/vars.csv"], "compare-runs OLD NEW"),
    ],
)
def test_mistakes_are_one_sentence(
    toy: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in line


def test_a_small_model_cannot_change_the_budget(offering: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (offering / "claims.py").write_text(SMALL_MODELS + "\n\nCHANGES = ('epochs=9',)\n")
    assert main(["compare", "toy"]) == 2
    assert "changes epochs=9, a part of the budget" in capsys.readouterr().err
