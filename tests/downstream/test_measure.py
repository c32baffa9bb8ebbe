"""A run of the command: training, clean and corrupted evaluation, what is recorded."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import downstream  # noqa: F401  (before anything of OpenMMLab)
import papers
from common.errors import UserError
from common.run import Run, measured_claims
from downstream import corruption, measure, training
from downstream.composition import Canvases, write
from downstream.settings import DownstreamSettings
from papers._commands import dispatch
from papers._commands import downstream as command

_CONFIG = """
_base_ = "{base}"
corruptions = "few"
model = dict(
    backbone=dict(
        name="rvt_tiny",
        img_size=64,
        model_args=dict(embed_dims=(16,), depths=(1,), num_heads=(2,), stem_strides=(2, 2, 1), stem_width=8),
    )
)
"""


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Canvases as ADE20K, a paper's only setting for it, and a short list of corruptions."""
    write(tmp_path / "canvases", Canvases(train=8, val=5))
    paper = papers.find("vars")
    own = dataclasses.replace(paper, folder=tmp_path / "vars")
    (own.folder / "downstream").mkdir(parents=True)
    base = training.CONFIGS / "embedded" / "upernet.py"
    (own.folder / "downstream" / "upernet_160k_ade20k.py").write_text(_CONFIG.format(base=base))
    shutil.copy(paper.manifest, own.manifest)
    known = {**papers.all_papers(), "vars": own}
    monkeypatch.setattr(papers, "all_papers", lambda: known)
    monkeypatch.setitem(corruption.SETS, "few", (("contrast",), (1, 5)))
    return tmp_path


def _run(folder: Path, data: Path, **options: object) -> Run:
    settings = DownstreamSettings(folders={"ade20k": data}, iterations=2, workers=0, **options)  # type: ignore[arg-type]
    return Run(papers.find("vars"), settings, folder)


def test_clean_and_corrupted_numbers_go_through_the_run(ready: Path) -> None:
    run = _run(ready / "run", ready / "canvases" / "ade20k", corruptions=True)
    claims = tuple(claim for claim in run.paper.claims if claim.name.startswith("segmentation"))
    run.execute(claims)
    assert {name: state.reason for name, state in run.states.items()} == dict.fromkeys(
        ("segmentation", "segmentation_corruption"), ""
    )
    size, clean = run.results["segmentation"]
    mean, relative = run.results["segmentation_corruption"]
    assert (clean.model, clean.dataset, clean.metric, clean.weights) == ("rvt_tiny", "ade20k-val", "miou", "trained")
    assert clean.n == 5
    assert size.key == ("rvt_tiny", "ade20k-val", "params")
    assert size.value == pytest.approx(sum(value.numel() for value in _opened_model(run).parameters()) / 1e6)
    assert mean.key == ("rvt_tiny", "ade20k-c", "miou")
    cells = [mean.detail["contrast/1"], mean.detail["contrast/5"]]
    assert mean.value == pytest.approx(sum(cells) / 2)
    assert relative.metric == "relative_miou"
    assert relative.value == pytest.approx(100 * mean.value / clean.value)

    measure._opened.clear()
    weights = ready / "run" / "training" / "upernet_160k_ade20k" / "model.pth"
    again = _run(ready / "again", ready / "canvases" / "ade20k", weights=weights)
    again.execute(claims)
    assert again.results["segmentation"][1].value == clean.value
    assert again.states["segmentation_corruption"].reason == "needs --corruptions (evaluates dozens of times)"


def _opened_model(run: Run) -> torch.nn.Module:
    return measure._opened[run.folder, "ade20k"].training.model


def _call(rank: int, words: list[str]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    assert dispatch(words) == 0


@pytest.mark.slow  # two minutes; that processes share training and evaluation has faster tests in test_training.py
def test_the_command_under_torchrun(ready: Path, processes: Any, process_group: Any) -> None:
    """Two processes train and evaluate; called again, they measure only what is new, together."""
    output, data = ready / "run", ready / "canvases" / "ade20k"
    words = ["vars", "downstream", "--ade20k", str(data), "--iterations", "2", "--workers", "0", "--device", "cpu"]
    words += ["--output", str(output)]
    assert processes(_call, 2, words, **process_group(2)) == [0, 0]
    assert measured_claims(output) == {"segmentation"}
    assert processes(_call, 2, [*words, "--resume", "--corruptions"], **process_group(2)) == [0, 0]
    assert measured_claims(output) == {"segmentation", "segmentation_corruption"}
    events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    together = {event["metric"]: event for event in events if event["kind"] == "measurement"}

    measure._opened.clear()
    weights = output / "training" / "upernet_160k_ade20k" / "model.pth"
    alone = _run(ready / "alone", data, weights=weights, corruptions=True)
    alone.execute(tuple(claim for claim in alone.paper.claims if claim.name.startswith("segmentation")))
    for result in [*alone.results["segmentation"], *alone.results["segmentation_corruption"]]:
        if result.dataset == "ade20k-c" or result.metric == "params":
            assert together[result.metric]["value"] == pytest.approx(result.value)
            assert together[result.metric]["n"] == result.n


def test_the_embedded_composition_is_no_matter_for_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="leave torchrun out"):
        dispatch(["vars", "downstream", "--output", "nowhere"])


def test_bad_data_stops_before_training(ready: Path) -> None:
    measure._opened.clear()
    (ready / "canvases" / "ade20k" / "annotations" / "training" / "ADE_train_00000001.png").unlink()
    run = _run(ready / "run", ready / "canvases" / "ade20k")
    run.execute(tuple(claim for claim in run.paper.claims if claim.name == "segmentation"))
    assert run.states["segmentation"].state == "failed"
    assert "no semantic map" in run.states["segmentation"].reason
    assert not (ready / "run" / "training").exists()


def test_settings_are_chosen_by_data_set() -> None:
    assert measure.choose(papers.find("vars"), "coco", None) == "mask-rcnn_1x_coco"
    assert measure.choose(papers.find("fan"), "coco", None) == "cascade-mask-rcnn_3x_coco"
    assert measure.choose(papers.find("fan"), "cityscapes", None) == "all-mlp_160k_cityscapes"
    with pytest.raises(UserError, match="Did you mean mask-rcnn_3x_coco"):
        measure.choose(papers.find("vars"), "coco", "mask-rcnn_3x_cocoo")
    with pytest.raises(UserError, match="no setting for ade20k"):
        measure.choose(papers.find("unrolling"), "ade20k", None)


def test_the_command_picks_claims_by_what_is_given() -> None:
    vars_paper = papers.find("vars")
    names = [claim.name for claim in command._claims(vars_paper, None, {})]
    assert names == ["embedded_detection", "embedded_segmentation"]
    assert [claim.name for claim in command._claims(vars_paper, "detection", {})] == ["embedded_detection"]
    names = [claim.name for claim in command._claims(vars_paper, "detection", {"coco": Path()})]
    assert names == ["detection", "detection_corruption"]
    with pytest.raises(UserError, match="give --coco DIR"):
        command._claims(papers.find("fan"), None, {})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--setting", "mask-rcnn_1x_coco"], "--setting is for a data set; give --coco DIR or"),
        (["--weights", __file__], "--weights is for a data set"),
        (["--coco", ".", "--seeds", "2"], "--seeds is for the embedded composition"),
        (["--coco", ".", "--weights", __file__, "--checkpoint", __file__], "--checkpoint is for training"),
        (
            ["--coco", ".", "--ade20k", ".", "--setting", "mask-rcnn_1x_coco"],
            "has no setting .* for ade20k",
        ),
        (["--coco", ".", "--setting", "mask-rcnn_1x_cocoo"], "Did you mean mask-rcnn_1x_coco"),
    ],
)
def test_options_that_would_change_nothing_are_refused(options: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        dispatch(["vars", "downstream", *options])


def test_a_run_without_the_command_says_which_command_it_needs() -> None:
    from common.run import Settings

    claim = next(claim for claim in papers.find("fan").claims if claim.name == "detection")
    assert Settings().missing(claim)[0] == "the command ./reproduce.sh SLUG downstream"
    run = SimpleNamespace(settings=Settings(), paper=papers.find("fan"), folder=Path())
    with pytest.raises(UserError, match="fan downstream"):
        list(measure.detection(run))  # type: ignore[arg-type]
