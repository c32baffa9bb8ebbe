"""Is the data there, and what the config expects? Asked before training, answered in one sentence."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image, UnidentifiedImageError

from common.errors import UserError

#: Semantic maps whose values are looked at, evenly spread: reading all of them would take minutes.
_MAPS = 50
#: Pixels that are not annotated, once labels have been reduced.
_IGNORED = 255


def check(config: Config, splits: Sequence[str] = ("train", "val")) -> None:
    """Check the data of a prepared config.

    Args:
        config: made ready by ``downstream.training.prepare``.
        splits: what is going to be read: ``train``, ``val``.

    Raises:
        UserError: something is missing, empty, damaged, or does not fit the config; names it and the remedy.
    """
    for split in splits:
        dataset = config[f"{split}_dataloader"].dataset
        while "dataset" in dataset:
            dataset = dataset.dataset
        kind = DATASETS.get(f"{config.default_scope}.{dataset.type}")
        classes = tuple((dataset.get("metainfo") or kind.METAINFO)["classes"])
        _check_heads(config, classes)
        if "ann_file" in dataset and dataset.ann_file:
            masks = "segm" in config.val_evaluator.get("metric", ())
            _check_coco(Path(dataset.data_root), dataset, classes, masks)
        else:
            _check_maps(Path(dataset.data_root), dataset, kind, classes)


def _check_heads(config: Config, classes: Sequence[str]) -> None:
    found: dict[str, int] = {}

    def collect(node: Any, where: str) -> None:
        if isinstance(node, dict):
            if "num_classes" in node and where != "rpn_head":
                found[where] = node["num_classes"]
            for name, child in node.items():
                collect(child, name)
        elif isinstance(node, (list, tuple)):
            for child in node:
                collect(child, where)

    collect(config.model, "model")
    for head, count in found.items():
        if count != len(classes):
            raise UserError(
                f"The config's {head} has {count} classes and its data set {len(classes)}; make num_classes and "
                f"metainfo agree."
            )


def _check_coco(root: Path, dataset: Any, classes: Sequence[str], masks: bool) -> None:
    path, folder = root / dataset.ann_file, root / dataset.data_prefix.img
    if not path.is_file():
        raise UserError(f"There is no annotation file {path}; give the folder that holds {dataset.ann_file}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images, annotations = content["images"], content["annotations"]
        names = [category["name"] for category in content["categories"]]
        kinds = {category["id"] for category in content["categories"]}
        files = [image["file_name"] for image in images]
        sizes = [(image["width"], image["height"]) for image in images]
        known = {image["id"] for image in images}
        strays = [note["id"] for note in annotations if note["image_id"] not in known]
        unnamed = [note["id"] for note in annotations if note["category_id"] not in kinds]
        boxless = [note["id"] for note in annotations if len(note["bbox"]) != 4 or not note["area"] >= 0]
        bare = [note["id"] for note in annotations if masks and not note.get("segmentation")]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else "is no JSON of COCO's form"
        raise UserError(f"{path} is not a COCO annotation file: it {problem}; get it again.") from error
    for what, entries in (("images", images), ("annotations", annotations)):
        if not entries:
            raise UserError(f"{path} has no {what}; get the complete annotation file.")
    lacking = [name for name in classes if name not in names]
    if lacking:
        raise UserError(
            f"{path} has no category {lacking[0]!r}, which the config expects{_more(lacking)}; its categories are "
            f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}."
        )
    extra = [name for name in names if name not in classes]
    if extra:
        raise UserError(
            f"{path} has the category {extra[0]!r}, which the config does not know{_more(extra)}; set metainfo and "
            f"num_classes of the config."
        )
    if strays:
        raise UserError(f"{path}: annotation {strays[0]} is of an image that is not listed{_more(strays)}; mend it.")
    if unnamed:
        raise UserError(
            f"{path}: annotation {unnamed[0]} is of a category that is not listed{_more(unnamed)}; mend it."
        )
    if boxless:
        raise UserError(
            f"{path}: annotation {boxless[0]} has no box of four numbers with an area{_more(boxless)}; mend it."
        )
    empty = [name for name, size in zip(files, sizes, strict=True) if min(size) < 1]
    if empty:
        raise UserError(f"{path}: the image {empty[0]} is listed without a size{_more(empty)}; mend it.")
    if bare:
        raise UserError(
            f"{path}: annotation {bare[0]} has no segmentation{_more(bare)}, and the setting trains masks; take "
            f"annotations with masks, or a setting without (retinanet)."
        )
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} with the images of {path.name}; unpack the images there.")
    present = {entry.name for entry in os.scandir(folder)}
    absent = [name for name in files if name not in present and not (folder / name).is_file()]
    if absent:
        raise UserError(
            f"{path} lists {absent[0]}, which is not in {folder}{_more(absent)}; unpack all images, or give the "
            f"annotations of those that are there."
        )


def _check_maps(root: Path, dataset: Any, kind: Any, classes: Sequence[str]) -> None:
    images, maps = root / dataset.data_prefix.img_path, root / dataset.data_prefix.seg_map_path
    suffixes = [_suffix(dataset, kind, name) for name in ("img_suffix", "seg_map_suffix")]
    for folder, suffix in zip((images, maps), suffixes, strict=True):
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}; give the folder that holds {folder.relative_to(root)}.")
        if not any(folder.rglob(f"*{suffix}")):
            hint = "; its labels are made from gtFine by cityscapesscripts' createTrainIdLabelImgs"
            made = hint if "TrainIds" in suffix else "; unpack the data set there"
            raise UserError(f"{folder} has no files *{suffix}{made}.")
    pairs = []
    for image in sorted(images.rglob(f"*{suffixes[0]}")):
        stem = str(image.relative_to(images)).removesuffix(suffixes[0])
        pairs.append((image, maps / f"{stem}{suffixes[1]}"))
    absent = [each for _, each in pairs if not each.is_file()]
    if absent:
        raise UserError(f"There is no semantic map {absent[0]} of an image{_more(absent)}; unpack all annotations.")
    reduced = bool(dataset.get("reduce_zero_label", "ADE20K" in kind.__name__))
    for image, path in pairs[:: max(1, len(pairs) // _MAPS)]:
        (size, _), (map_size, values) = _read(image), _read(path)
        if size != map_size:
            raise UserError(
                f"{path} has {map_size[0]} x {map_size[1]} pixels and its image {size[0]} x {size[1]}; get both again."
            )
        values = np.unique(values)
        highest = max((int(value) for value in values if value != _IGNORED), default=0)
        if highest >= len(classes) + int(reduced):
            raise UserError(
                f"{path} has the label {highest}, and the config knows {len(classes)} classes"
                f"{' beside 0 for not annotated' if reduced else ', from 0'}; use annotations that the config is for."
            )


def _read(path: Path) -> tuple[tuple[int, int], np.ndarray]:
    """Width and height of an image, and its values."""
    try:
        with Image.open(path) as opened:
            return opened.size, np.asarray(opened)
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} cannot be read as an image; get it again.") from error


def _suffix(dataset: Any, kind: Any, name: str) -> str:
    """A file suffix of a data set: the config's, else the default of its class."""
    for each in kind.__mro__:
        parameter = inspect.signature(each.__init__).parameters.get(name)
        if name in dataset or parameter is not None:
            return str(dataset.get(name, parameter.default if parameter is not None else ""))
    return ""


def _more(names: Sequence[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
