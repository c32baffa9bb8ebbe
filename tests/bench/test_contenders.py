"""Contenders: trained once, taken up again, measured by image, shared between runs; damaged files are made anew."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import papers
from common import bench
from common.bench import contenders as module
from common.bench.hosts import vit_mini
from common.run import Run, Settings
from common.training.distillation import Distillation
from common.training.recipe import Recipe

TINY = bench.Contender("tiny", partial(vit_mini, embed_dim=12, depth=1, num_heads=1))
OTHER = replace(TINY, name="other", changes=("label_smoothing=0.0",))


def run_in(folder: Path, shared: Path | None = None) -> Run:
    return Run(papers.find("swin"), Settings(quick=True, seeds=2, shared=shared), folder)


def few(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    tests = bench.test_set(quick)
    return {"top1": bench.correct(bench.normalised(model, recipe), tests.clean[:2], tests.labels[:2])}


def test_scores_are_by_image_and_an_interrupted_comparison_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.scores(run_in(tmp_path / "a"), [TINY, OTHER], few)
    assert first.contenders == ("tiny", "other")
    assert first.values["tiny", 0]["top1"].shape == (2, 50)
    monkeypatch.setattr(module, "train", None)  # nothing is trained again
    again = bench.scores(run_in(tmp_path / "a"), [TINY, OTHER], few)
    for key, values in first.values.items():
        assert np.array_equal(values["top1"], again.values[key]["top1"])
    model = bench.trained(run_in(tmp_path / "a"), TINY, 1)
    tests = bench.test_set(quick=True)
    right = bench.correct(bench.normalised(model, TINY.settings()), tests.clean[:2], tests.labels[:2])
    assert np.array_equal(right, first.values["tiny", 1]["top1"])


def test_runs_that_share_a_folder_train_a_contender_once(tmp_path: Path) -> None:
    bench.scores(run_in(tmp_path / "a", tmp_path / "shared"), [TINY], few)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.*")}
    bench.scores(run_in(tmp_path / "b", tmp_path / "shared"), [TINY], few)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.*")}
    assert len(list((tmp_path / "b" / "trainings").glob("*.csv"))) == 2  # the curves are in either report
    assert not (tmp_path / "b" / "weights").exists()


def test_a_damaged_file_is_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = bench.scores(run_in(tmp_path), [TINY], few)
    for kind in ("weights", "scores"):
        for path in (tmp_path / kind).iterdir():
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)
    again = bench.scores(run_in(tmp_path), [TINY], few)
    assert np.array_equal(first.array("top1"), again.array("top1"))
    assert "damaged; it is made anew" in " ".join(capsys.readouterr().err.split())


def test_any_changed_byte_of_scores_is_seen(tmp_path: Path) -> None:
    """Whatever zipfile raises: a byte may make the content encrypted, undecodable or begin before the file does."""
    path = tmp_path / "scores.npz"
    np.savez_compressed(path, top1=np.linspace(0, 1, 200), loss=np.ones(3))
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        for flip in (0x01, 0x80):
            content = bytearray(whole)
            content[place] ^= flip
            path.write_bytes(content)
            kept = module._checked(path)
            if kept is not None:  # times and flags that say nothing of the content
                with np.load(io.BytesIO(kept)) as stored:
                    assert np.array_equal(stored["top1"], np.linspace(0, 1, 200))


def test_what_differs_between_contenders_differs_in_what_they_are_kept_under() -> None:
    def key(contender: bench.Contender, seed: int = 0) -> str:
        return module.Job(contender, seed, contender.settings(), False, "cpu", Path()).key

    keys = {
        key(TINY),
        key(TINY, 1),
        key(OTHER),
        key(replace(TINY, build=partial(vit_mini, embed_dim=24, depth=1, num_heads=1))),
    }
    assert len(keys) == 4
    assert key(TINY) == key(replace(TINY))


def test_a_student_learns_from_its_teacher_of_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ("distillation=hard", "distillation_teacher=tiny")
    student = replace(TINY, name="student", changes=changes, teacher=TINY)
    taught, of = [], Distillation.of

    def recorded(recipe: Recipe, teacher: nn.Module) -> Distillation:
        taught.append(teacher)
        return of(recipe, teacher)

    monkeypatch.setattr(Distillation, "of", recorded)
    run = run_in(tmp_path)
    bench.trained(run, student, 1)
    (teacher,) = taught
    same = bench.trained(run, TINY, 1).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in teacher.state_dict().items())
    keys = {module._job(run, replace(student, teacher=one), 1).key for one in (TINY, OTHER)}
    assert len(keys) == 2


def test_first_losses_are_those_of_the_recipe_and_repeat() -> None:
    losses = bench.first_losses(TINY)
    assert len(losses) == 20
    assert losses == bench.first_losses(TINY)
    assert losses != bench.first_losses(TINY, seed=1)
    assert losses[0] == pytest.approx(np.log(10), rel=0.2)


def test_networks_below_the_floor_get_no_verdict() -> None:
    generator = np.random.default_rng(0)
    values = {
        (name, seed): {"top1": generator.random((20, 5)) < share}
        for name, share in (("better", 0.8), ("worse", 0.2))
        for seed in (0, 1)
    }
    (finding,) = bench.findings(bench.Scores(values), "better > worse: top1")
    assert finding.verdict == "unclear"
    assert "networks did not learn" in finding.evidence


def test_the_floor_is_logistic_regression() -> None:
    """84 % from all training images, as has been measured elsewhere by scikit-learn."""
    assert 83.5 < bench.floor() < 85.5
    assert torch.equal(
        bench.logistic_regression()(torch.zeros(1, 3, 28, 28))[0], bench.logistic_regression().linear.bias
    )


def test_calibration_of_a_quick_run() -> None:
    """A classifier that is always sure of one class is wrong by 90 points, clean and corrupted."""

    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(100 * torch.eye(10)[3])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(x), -1)

    found = bench.calibration(Sure(), TINY.settings(quick=True), quick=True)
    for metric in ("rms_calibration_error", "corruption_rms_calibration_error"):
        assert found[metric] == pytest.approx(0.9, abs=0.02)
