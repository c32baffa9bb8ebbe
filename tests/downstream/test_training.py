"""Training on the embedded composition, resuming, weights of other names."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from pycocotools import mask as run_lengths

import downstream  # noqa: F401  (before anything of OpenMMLab)
import papers
from common.checkpoints import to_released
from common.data import loading
from common.errors import UserError
from downstream import loading as downstream_loading
from downstream import pictures
from downstream.checkpoints import load_finetuned
from downstream.composition import Canvases, write
from downstream.operators import registration
from downstream.training import CONFIGS, Job, Training, build_model, prepare
from papers.rvt.claims import MINI

SWIN = papers.find("swin").folder / "downstream"
_HOST = {name: value for name, value in MINI.items() if name not in ("img_size", "num_classes")}


@pytest.fixture(scope="module")
def canvases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few canvases in both formats."""
    folder = tmp_path_factory.mktemp("canvases")
    write(folder, Canvases(train=16, val=5))  # an odd number, which two processes cannot share evenly
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


@pytest.mark.parametrize("kind", ["mask-rcnn", "upernet"])
def test_batches_go_through_pipes_where_shared_memory_is_small(
    kind: str, canvases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = next(iter(Training(_job(kind, canvases, tmp_path / "a")).runner.train_dataloader))
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(2**20))
    downstream_loading._say_once.cache_clear()
    training = Training(_job(kind, canvases, tmp_path / "b", workers=1))
    assert "batches go through pipes" in " ".join(capsys.readouterr().err.split())
    batch = next(iter(training.runner.train_dataloader))
    assert all(isinstance(part, bytes) for part in batch.values())
    downstream_loading.Unpack().before_train_iter(training.runner, 0, batch)
    assert [image.shape for image in batch["inputs"]] == [image.shape for image in expected["inputs"]]
    training.train()
    assert training.evaluate()


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
    assert training.images == 5
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


class _Die(Hook):
    """Ends the process without any farewell, as ``kill -9`` does, after saving has begun once more."""

    priority = "LOWEST"

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        if runner.iter == 2:
            folder = Path(runner.work_dir)
            newest = max(folder.glob("iter_*.pth"), key=lambda path: path.stat().st_mtime)
            newest.write_bytes(newest.read_bytes()[:100])  # cut off while it is written,
            (folder / "last_checkpoint").write_text(str(folder / "iter_2.pth"))  # before it is named
            os._exit(9)


def _train_until_killed(rank: int, job: Job) -> None:
    training = Training(job)
    training.runner.register_hook(_Die())
    training.train()


@pytest.mark.parametrize("kind", ["mask-rcnn", "upernet"])
def test_a_killed_training_goes_on_where_it_was(kind: str, canvases: Path, tmp_path: Path, processes: Any) -> None:
    job = _job(kind, canvases, tmp_path / "x", iterations=4)
    assert processes(_train_until_killed, 1, job) == [9]
    assert not (tmp_path / "x" / "model.pth").exists()
    training = Training(job)
    seen: list[int] = []
    training.runner.register_hook(_Record(seen))
    training.train()
    assert seen == [2, 3]
    assert [path.name for path in (tmp_path / "x").glob("*.pth")] == ["model.pth"]


@pytest.mark.parametrize("kind", ["mask-rcnn", "upernet"])
def test_mixed_precision_trains(kind: str, canvases: Path, tmp_path: Path) -> None:
    """On CPUs in bfloat16: the loss is that of float32 to its few digits, the weights stay float32."""
    if kind == "mask-rcnn" and registration.compiled():
        pytest.skip("compiled mmcv has no roi_align in bfloat16 on a CPU; ours has")
    losses = {}
    for amp in (False, True):
        training = Training(_job(kind, canvases, tmp_path / str(amp), amp=amp))
        seen: list[float] = []
        training.runner.register_hook(_Losses(seen))
        training.train()
        losses[amp] = seen
        assert {value.dtype for value in training.runner.model.parameters()} == {torch.float32}
    assert losses[True][0] != losses[False][0]
    assert losses[True][0] == pytest.approx(losses[False][0], rel=0.05)


class _Losses(Hook):
    """Appends the loss of every iteration."""

    def __init__(self, seen: list[float]) -> None:
        self.seen = seen

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Any = None) -> None:
        self.seen.append(float(outputs["loss"]))


def _train_together(rank: int, job: Job) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    training = Training(job)
    training.train()
    measured = training.evaluate()
    state = {name: value.tolist() for name, value in training.model.named_parameters() if value.ndim == 1}
    (job.folder / f"rank_{rank}.json").write_text(json.dumps([measured, state]))


@pytest.mark.parametrize("kind", ["mask-rcnn", "upernet"])
def test_two_processes_train_one_model_and_count_every_image_once(
    kind: str, canvases: Path, tmp_path: Path, processes: Any, process_group: Any
) -> None:
    job = _job(kind, canvases, tmp_path / "x")
    assert processes(_train_together, 2, job, **process_group(2)) == [0, 0]
    first, second = (json.loads((tmp_path / "x" / f"rank_{rank}.json").read_text()) for rank in range(2))
    assert first == second
    alone = Training(_job(kind, canvases, tmp_path / "y"))
    alone.load(tmp_path / "x" / "model.pth")
    assert alone.evaluate() == pytest.approx(first[0], abs=0.11)  # mmdet rounds to a tenth
    assert not Path(".dist_test").exists()


def test_iterations_shorten_a_schedule_that_counts_epochs() -> None:
    job = Job(config=SWIN / "mask-rcnn_3x_coco.py", data=Path("x"), folder=Path("y/z"), iterations=360)
    config = prepare(job)
    assert config.train_cfg.max_iters == 360
    warmup, steps = config.param_scheduler
    assert (warmup.begin, warmup.end) == (0, 36)
    assert (steps.end, steps.milestones) == (360, [270, 330])
    assert not warmup.by_epoch
    assert not steps.by_epoch
    job = Job(config=SWIN / "upernet_160k_ade20k.py", data=Path("x"), folder=Path("y/z"), iterations=1600)
    warmup, decay = prepare(job).param_scheduler
    assert (warmup.end, decay.begin, decay.end) == (15, 15, 1600)


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
    config = prepare(Job(config=SWIN / "mask-rcnn_1x_coco.py", data=Path("x"), folder=Path("y/z")))
    config.model.backbone.model_args = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    config.model.neck.in_channels = [16, 32, 64, 128]
    model, other = build_model(config), build_model(config)
    state = {}
    for name, value in model.state_dict().items():
        name = name.replace("backbone.model.", "backbone.")
        stage = name.split(".")[2] if ".downsample." in name else ""
        state[name.replace(f"layers.{stage}.downsample", f"layers.{int(stage or 1) - 1}.downsample")] = value
    assert {
        name for name in state if name.startswith(("backbone.patch_embed", "backbone.layers.0", "backbone.norm"))
    } == {
        *(f"backbone.patch_embed.{part}.{kind}" for part in ("proj", "norm") for kind in ("weight", "bias")),
        *(f"backbone.norm{level}.{kind}" for level in range(4) for kind in ("weight", "bias")),
        *(
            f"backbone.layers.0.blocks.0.{part}.{kind}"
            for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
            for kind in ("weight", "bias")
        ),
        "backbone.layers.0.blocks.0.attn.relative_position_bias_table",
        "backbone.layers.0.downsample.reduction.weight",
        "backbone.layers.0.downsample.norm.weight",
        "backbone.layers.0.downsample.norm.bias",
    }
    for stage in range(4):  # the release keeps the table of places, which follows from the window's size
        state[f"backbone.layers.{stage}.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    load_finetuned(other, {"state_dict": state})
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
