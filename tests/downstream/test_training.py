"""Training on the embedded composition, resuming, weights of other names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from pycocotools import mask as run_lengths

import downstream  # noqa: F401  (before anything of OpenMMLab)
import papers  # noqa: F401  (registers the models)
from common.checkpoints import to_released
from common.errors import UserError
from downstream import pictures
from downstream.checkpoints import load_finetuned
from downstream.composition import Canvases, write
from downstream.training import CONFIGS, Job, Training, build_model, prepare
from papers.rvt.claims import MINI

_HOST = {name: value for name, value in MINI.items() if name not in ("img_size", "num_classes")}


@pytest.fixture(scope="module")
def canvases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few canvases in both formats."""
    folder = tmp_path_factory.mktemp("canvases")
    write(folder, Canvases(train=16, val=6))
    return folder


class _Record(Hook):
    """Appends the number of every iteration."""

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        self.seen.append(runner.iter)


def _job(kind: str, canvases: Path, folder: Path, **options: object) -> Job:
    data = canvases / ("coco" if kind == "mask-rcnn" else "ade20k")
    arguments = {"model": "rvt_tiny", "model_args": _HOST, "iterations": 2, "workers": 0, "img_size": 64, **options}
    return Job(config=CONFIGS / "embedded" / f"{kind}.py", data=data, folder=folder, **arguments)  # type: ignore[arg-type]


def test_the_composition_says_the_same_in_both_formats(canvases: Path) -> None:
    content = json.loads((canvases / "coco/annotations/instances_train2017.json").read_text())
    assert len(content["images"]) == len(list((canvases / "coco/train2017").glob("*.jpg"))) == 16
    for image in content["images"]:
        semantic = np.asarray(Image.open(canvases / f"ade20k/annotations/training/ADE_train_{image['id']:08d}.png"))
        drawn = np.ones_like(semantic)
        for note in (each for each in content["annotations"] if each["image_id"] == image["id"]):
            mask = run_lengths.decode(note["segmentation"]).astype(bool)
            drawn[mask] = note["category_id"] + 1
            x, y, width, height = note["bbox"]
            rows, columns = mask.nonzero()
            assert [columns.min(), rows.min()] == [x, y]
            assert [columns.max() + 1, rows.max() + 1] == [x + width, y + height]
            assert mask.sum() == note["area"]
        np.testing.assert_array_equal(drawn, semantic)


@pytest.mark.parametrize("kind", ["mask-rcnn", "upernet"])
def test_a_training_ends_with_weights_that_give_the_same_numbers(kind: str, canvases: Path, tmp_path: Path) -> None:
    training = Training(_job(kind, canvases, tmp_path / "a"))
    weights = training.train()
    measured = training.evaluate()
    assert set(measured) == ({"box_ap", "mask_ap"} if kind == "mask-rcnn" else {"miou"})
    assert training.images == 6
    again = Training(_job(kind, canvases, tmp_path / "b", seed=1))
    again.load(weights)
    assert again.evaluate() == measured
    loaded = again.runner.model.state_dict()
    for name, value in training.runner.model.state_dict().items():
        assert torch.equal(value, loaded[name]), name
    assert len(pictures.predictions(again, 2)) == 2
    assert [done for done, _ in training.losses] == list(range(1, training.runner.max_iters + 1))
    assert all(loss > 0 for _, loss in training.losses)
    assert "iterations" in pictures.training("detection", "Mask R-CNN", {"a": [training.losses]}).svg


def test_an_interrupted_training_goes_on_where_it_was(canvases: Path, tmp_path: Path) -> None:
    first = Training(_job("upernet", canvases, tmp_path / "x"))
    first.runner.train()  # left with its last checkpoint, as an interruption leaves one
    assert (tmp_path / "x" / "last_checkpoint").exists()
    second = Training(_job("upernet", canvases, tmp_path / "x", iterations=3))
    seen: list[int] = []
    second.runner.register_hook(_Record(seen))
    second.train()
    assert seen == [2]


def test_released_names_of_a_detector_are_those_of_its_classifier(canvases: Path, tmp_path: Path) -> None:
    config = prepare(_job("mask-rcnn", canvases, tmp_path / "x", model="vars_s_rvt_tiny"))
    torch.manual_seed(0)
    model = build_model(config)
    released = {f"backbone.{name}": value for name, value in to_released(model.backbone.model).items()}
    heads = {name: value for name, value in model.state_dict().items() if not name.startswith("backbone.")}
    torch.manual_seed(1)
    other = build_model(config)
    load_finetuned(other, {"state_dict": {**released, **heads}, "meta": {}})
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    first = next(iter(released))
    del released[first]
    with pytest.raises(UserError, match="is missing"):
        load_finetuned(other, {"state_dict": {**released, **heads}})


def test_swin_detectors_load_by_their_released_names() -> None:
    """The release puts a downsampling at the end of a stage, timm at the start of the next one."""
    config = prepare(Job(config=CONFIGS / "swin/mask-rcnn_1x_coco.py", data=Path("x"), folder=Path("y/z")))
    config.model.backbone.model_args = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    config.model.neck.in_channels = [16, 32, 64, 128]
    model, other = build_model(config), build_model(config)
    state = {}
    for name, value in model.state_dict().items():
        name = name.replace("backbone.model.", "backbone.")
        stage = name.split(".")[2] if ".downsample." in name else ""
        state[name.replace(f"layers.{stage}.downsample", f"layers.{int(stage or 1) - 1}.downsample")] = value
    assert "backbone.layers.0.downsample.reduction.weight" in state
    load_finetuned(other, {"state_dict": state})
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
