"""Bad data is named in one sentence before training starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, init_default_scope
from PIL import Image

import downstream  # noqa: F401  (before anything of OpenMMLab)
import papers
from common.errors import UserError
from downstream.checks import _is_box, _is_mask, check
from downstream.composition import GARMENTS
from downstream.training import CONFIGS, Job, prepare, settings


def _note(number: int, **changes: object) -> dict[str, object]:
    box = {"bbox": [0, 0, 4, 4], "area": 16, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]], "iscrowd": 0}
    return {"id": number, "image_id": 1, "category_id": 1, **box, **changes}


def _coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        Image.new("RGB", (8, 8)).save(root / split / "1.jpg")
        content = {
            "images": [{"id": 1, "file_name": "1.jpg", "height": 8, "width": 8}],
            "annotations": [_note(1)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(GARMENTS, start=1)],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _ade20k(root: Path) -> None:
    for split in ("training", "validation"):
        for part in ("images", "annotations"):
            (root / part / split).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / "images" / split / "1.jpg")
        Image.fromarray(np.full((8, 8), 6, np.uint8)).save(root / "annotations" / split / "1.png")


def _prepared(kind: str, root: Path) -> Config:
    job = Job(
        config=CONFIGS / "embedded" / f"{kind}.py",
        data=root,
        folder=root / "run" / "x",
        model="rvt_tiny",
        model_args={"embed_dims": (16,), "depths": (1,), "num_heads": (2,)},
        workers=0,
    )
    return prepare(job)


def _change(path: str, key: str, value: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = json.loads((root / path).read_text())
        content[key] = value
        (root / path).write_text(json.dumps(content))

    return change


_TRAIN, _VAL = "annotations/instances_train2017.json", "annotations/instances_val2017.json"
_OTHERS = [{"id": 1, "name": "person"}]
_MORE = [*({"id": number, "name": name} for number, name in enumerate(GARMENTS, start=1)), {"id": 9, "name": "hat"}]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: (root / _TRAIN).unlink(), "no annotation file .*instances_train2017.json"),
        (lambda root: (root / _VAL).write_text(""), "instances_val2017.json is not a COCO annotation file"),
        (lambda root: (root / _VAL).write_text("{}"), "lacks 'images'"),
        (_change(_TRAIN, "annotations", []), "has no annotations"),
        (_change(_TRAIN, "images", []), "has no images"),
        (_change(_VAL, "categories", _OTHERS), "no category 'Trouser'.*its categories are person"),
        (_change(_VAL, "categories", _MORE), "has the category 'hat', which the config does not know"),
        (_change(_TRAIN, "annotations", [_note(7, image_id=5)]), "annotation 7 is of an image that is not listed"),
        (_change(_TRAIN, "annotations", [_note(7, category_id=90)]), "annotation 7 is of a category that is not"),
        (_change(_TRAIN, "annotations", [_note(7, bbox=[])]), "annotation 7 has no box of four numbers"),
        (_change(_TRAIN, "annotations", [_note(7, segmentation=[])]), "annotation 7 has no segmentation"),
        (
            _change(_TRAIN, "annotations", [_note(1), _note(7, bbox=[0, float("nan"), 4, 4])]),
            "annotation 7 has no box of four numbers",
        ),
        (
            _change(_VAL, "annotations", [_note(1), _note(7, segmentation=[[]])]),
            "annotation 7 has a segmentation that is neither polygons of three or more points nor runs",
        ),
        (
            _change(_VAL, "images", [{"id": 1, "file_name": "1.jpg", "height": 8, "width": 8}] * 2),
            "lists two images as 1",
        ),
        (
            _change(_TRAIN, "images", [{"id": 1, "file_name": "1.jpg", "height": 8, "width": 9}]),
            "1.jpg has 8 x 8 pixels and instances_train2017.json lists 9 x 8",
        ),
        (lambda root: (root / "train2017/1.jpg").write_text("x"), "1.jpg cannot be read as an image"),
        (
            _change(_TRAIN, "annotations", [{"id": 7, "image_id": 1}]),
            "annotation 7 is of a category that is not listed",
        ),
        (
            _change(_TRAIN, "annotations", [{"id": 7, "category_id": 1}]),
            "annotation 7 is of an image that is not listed",
        ),
        (
            _change(_TRAIN, "annotations", [{"id": 7, "image_id": 1, "category_id": 1}]),
            "annotation 7 has no box of four numbers and an area",
        ),
        (_change(_TRAIN, "annotations", [7]), "is no JSON of COCO's form"),
        (_change(_VAL, "images", [{"id": 1, "file_name": "1.jpg"}]), "lacks 'width'"),
        (lambda root: (root / "train2017/1.jpg").unlink(), "lists 1.jpg, which is not in .*train2017"),
    ],
)
def test_bad_annotations_of_coco_are_named(tmp_path: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    _coco(tmp_path)
    config = _prepared("mask-rcnn", tmp_path)
    check(config)
    spoil(tmp_path)
    with pytest.raises(UserError, match=sentence):
        check(config)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: (root / "annotations/validation/1.png").unlink(), "annotations/validation has no files"),
        (lambda root: (root / "images/training/1.jpg").unlink(), "images/training has no files"),
        (lambda root: Image.new("RGB", (8, 8)).save(root / "images/training/2.jpg"), "no semantic map .*2.png"),
        (
            lambda root: Image.fromarray(np.full((8, 8), 7, np.uint8)).save(root / "annotations/training/1.png"),
            "has the label 7, and the config knows 6 classes",
        ),
        (lambda root: (root / "annotations/training/1.png").write_text("x"), "cannot be read as an image"),
        *(
            (
                lambda root, mode=mode: Image.new(mode, (8, 8)).save(root / "annotations/training/1.png"),
                f"1.png has {channels} channels of .* a semantic map has one whole number a pixel",
            )
            for mode, channels in (("RGB", 3), ("RGBA", 4))
        ),
        (
            lambda root: Image.new("F", (8, 8)).save(root / "images/training/1.jpg", format="TIFF"),
            "images/training/1.jpg cannot be read as an image .its pixels are floating-point numbers",
        ),
        (
            lambda root: Image.fromarray(np.full((8, 9), 6, np.uint8)).save(root / "annotations/training/1.png"),
            "has 9 x 8 pixels and its image 8 x 8",
        ),
    ],
)
def test_bad_semantic_maps_are_named(tmp_path: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    _ade20k(tmp_path)
    config = _prepared("upernet", tmp_path)
    check(config)
    spoil(tmp_path)
    with pytest.raises(UserError, match=sentence):
        check(config)


def test_labels_of_cityscapes_that_were_not_made_are_explained(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for part, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            (tmp_path / part / split / "bonn").mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / part / split / "bonn" / f"bonn_000000_000019_{end}.png")
    config = prepare(
        Job(config=settings(papers.find("fan"))["all-mlp_160k_cityscapes"], data=tmp_path, folder=tmp_path / "run/x")
    )
    with pytest.raises(UserError, match=r"gtFine/train has no files \*_gtFine_labelTrainIds\.png; .*TrainIdLabelImgs"):
        check(config)


def test_an_evaluation_needs_no_training_data(tmp_path: Path) -> None:
    _coco(tmp_path)
    config = _prepared("mask-rcnn", tmp_path)
    (tmp_path / _TRAIN).unlink()
    check(config, ("val",))


def test_heads_that_do_not_fit_the_classes_are_named(tmp_path: Path) -> None:
    _coco(tmp_path)
    config = _prepared("mask-rcnn", tmp_path)
    config.model.roi_head.mask_head.num_classes = 80
    with pytest.raises(UserError, match="mask_head has 80 classes and its data set 5"):
        check(config)


@pytest.mark.parametrize("box", [[0, 0, -1, 4], [0, 0, float("inf"), 4], [0, 0, 4, "4"], [0, 0, 4], [0, 0, 4, None], 4])
def test_what_is_no_box(box: object) -> None:
    assert _is_box([0, 0, 0, 4], 0)
    assert not _is_box(box, 16)


@pytest.mark.parametrize("area", [-1, float("nan"), "16", None])
def test_what_is_no_area(area: object) -> None:
    assert not _is_box([0, 0, 4, 4], area)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[]],
        [0, 0, 4, 0, 4, 4],
        [[0, 0, 4, 4]],
        [[0, 0, 4, 0, 4, 4], [1, 1]],
        [[0, 0, 4, 0, 4, 4, 1]],
        [[0, 0, 4, 0, float("nan"), 4]],
        {"size": [8, 9], "counts": [3, 4]},
        {"size": [9, 8], "counts": [72]},
        {"size": [8, 9]},
        "polygon",
    ],
)
def test_what_is_no_mask(segmentation: object) -> None:
    assert _is_mask([[0, 0, 4, 0, 4, 4], [1, 1, 2, 1, 2, 2, 1, 2]], 9, 8)
    assert _is_mask({"size": [8, 9], "counts": [72]}, 9, 8)
    assert not _is_mask(segmentation, 9, 8)


def test_runs_palettes_and_boxes_without_width_are_fine(tmp_path: Path) -> None:
    _coco(tmp_path)
    runs = {"size": [8, 8], "counts": [3, 4, 57]}
    notes = [_note(1, segmentation=runs, iscrowd=1), _note(2, bbox=[1, 1, 0, 4], area=0)]
    _change(_VAL, "annotations", notes)(tmp_path)
    check(_prepared("mask-rcnn", tmp_path))
    palette = Image.fromarray(np.full((8, 8), 6, np.uint8), "P")
    palette.putpalette(list(range(256)) * 3)
    _ade20k(tmp_path)
    palette.save(tmp_path / "annotations/training/1.png")
    check(_prepared("upernet", tmp_path))


def test_hidden_images_of_segmentation_are_left_out_and_others_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _ade20k(tmp_path)
    for name in ("._1.jpg", ".ipynb_checkpoints/1-checkpoint.jpg", "2.JPG"):
        path = tmp_path / "images/training" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((tmp_path / "images/training/1.jpg").read_bytes())
    config = _prepared("upernet", tmp_path)
    check(config)
    assert "1 images do not end in .jpg and are left out, the first 2.JPG" in " ".join(capsys.readouterr().err.split())
    init_default_scope(config.default_scope)
    assert len(DATASETS.build(config.train_dataloader.dataset)) == 1


@pytest.mark.parametrize("ids", [(0, 1), (5, 5)])
def test_annotations_of_any_ids_and_without_iscrowd_are_measured(tmp_path: Path, ids: tuple[object, object]) -> None:
    """A perfect detector has an average precision of 1, whatever the annotations are called."""
    _coco(tmp_path)
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 8, "width": 8} for number in (1, 2)]
    (tmp_path / "val2017/2.jpg").write_bytes((tmp_path / "val2017/1.jpg").read_bytes())
    notes = [{**_note(1), "id": each, "image_id": image["id"]} for each, image in zip(ids, images, strict=True)]
    for note in notes:
        del note["iscrowd"]
    _change(_VAL, "images", images)(tmp_path)
    _change(_VAL, "annotations", notes)(tmp_path)
    config = _prepared("mask-rcnn", tmp_path)
    check(config)
    init_default_scope(config.default_scope)
    dataset = DATASETS.build(config.val_dataloader.dataset)
    metric = METRICS.build(config.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4, :4] = True
    found = {
        "bboxes": torch.tensor([[0.0, 0, 4, 4]]),
        "scores": torch.ones(1),
        "labels": torch.zeros(1, dtype=torch.long),
        "masks": mask,
    }
    samples = [{"img_id": image["id"], "ori_shape": (8, 8), "pred_instances": found} for image in images]
    metric.process({}, samples)
    measured = metric.evaluate(2)
    assert (measured["coco/bbox_mAP"], measured["coco/segm_mAP"]) == (1.0, 1.0)
