"""Claims at full scale: the rows of a manifest that a checkpoint on a folder settles."""

from __future__ import annotations

import json
import pkgutil
from pathlib import Path

import pytest

import papers
from common.measurement import Measurement
from common.robustness import full_scale_measures
from common.robustness.benchmarks.classes import imagenet_wnids
from common.run import Run, Settings
from results.judge import judgement
from tests.robustness.stand_ins import ColourModel, class_folders, write_picture


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Verdicts of a model that knows every answer, by data set and metric."""

    def settle(slug: str, model: str, claim: str, data: Path) -> dict[tuple[str, str], str]:
        monkeypatch.setattr(full_scale_measures, "load_model", lambda run: (ColourModel(), model, "released"))
        paper = papers.find(slug)
        (declared,) = (c for c in paper.claims if c.name == claim)
        settings = Settings(folders={declared.needs[0]: data}, checkpoint=data, workers=0)
        run = Run(paper, settings, tmp_path / "run")
        run.execute((declared,))
        assert run.states[claim].state == "done", run.states[claim].reason
        rows = judgement(run).rows
        return {(r.dataset, r.metric): r.outcome for r in rows[rows["model"] == model].itertuples()}

    return settle


def test_a_printed_error_is_settled_by_accuracy(settled, tmp_path: Path) -> None:
    val = class_folders(tmp_path / "imagenet" / "val", imagenet_wnids())
    found = settled("augmix", "resnet50_augmix", "imagenet", val.parent)
    assert found["imagenet-1k", "top1_error"] == "off"
    assert found["imagenet-p", "mfr"] == "not measured"


def test_an_error_is_what_accuracy_lacks() -> None:
    accuracy = Measurement(model="m", dataset="imagenet-1k", metric="top1", value=70.0, unit="%", interval=(68.0, 71.5))
    error = full_scale_measures._error(accuracy)
    assert (error.metric, error.value, error.interval) == ("top1_error", 30.0, (28.5, 32.0))


def test_real_labels_settle_their_rows(settled, tmp_path: Path) -> None:
    real = json.loads(pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json"))
    wnids = imagenet_wnids()
    for wnid in wnids:
        (tmp_path / "real" / wnid).mkdir(parents=True)
    for image in [i for i, labels in enumerate(real) if labels][:9]:
        write_picture(tmp_path / "real" / wnids[0] / f"ILSVRC2012_val_{image + 1:08d}.JPEG", real[image][0])
    found = settled("swin", "swin_large_patch4_window12_384.in22k_ft_in1k", "imagenet_real", tmp_path / "real")
    assert {found["imagenet-real", metric] for metric in ("top1", "top5")} <= {"off", "unclear"}
