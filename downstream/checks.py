"""Is the data there, and what the config expects? Asked before training, answered in one sentence."""

from __future__ import annotations

import inspect
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import ExifTags, Image, ImageMode

from common.data.folders import is_hidden, is_image
from common.data.pixels import READ_ERRORS, check_range_of
from common.errors import UserError
from common.progress import console

Result = TypeVar("Result")

#: Images and semantic maps that are opened, evenly spread: reading all of them would take minutes.
_LOOKED_AT = 50
#: Pillow's modes of images with one whole number a pixel.
_MAP_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
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
        kinds = [category["id"] for category in content["categories"]]
        sizes = {image["id"]: (image["file_name"], image["width"], image["height"]) for image in images}
        files = [image["file_name"] for image in images]
        strays = [note.get("id") for note in annotations if note.get("image_id") not in sizes]
        unnamed = [note.get("id") for note in annotations if note.get("category_id") not in set(kinds)]
        boxless = [note.get("id") for note in annotations if not _is_box(note.get("bbox"), note.get("area"))]
        bare = [note.get("id") for note in annotations if masks and not note.get("segmentation")]
        maskless = (
            [
                note.get("id")
                for note in annotations
                if masks
                and note["image_id"] in sizes
                and not _is_mask(note["segmentation"], *sizes[note["image_id"]][1:])
            ]
            if not bare
            else []
        )
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it readable.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    for what, ids in (("categories", kinds), ("categories", names), ("images", [image["id"] for image in images])):
        twice = [each for each, count in Counter(ids).items() if count > 1]
        if twice:
            raise UserError(
                f"{path} lists two {what} as {twice[0]!r}{_more(twice)}; give each a name and id of its own."
            )
    for wrong, problem in (
        (strays, "is of an image that is not listed"),
        (unnamed, "is of a category that is not listed"),
        (boxless, "has no box of four numbers and an area, finite and none of width, height and area below 0"),
        (maskless, "has a segmentation that is neither polygons of three or more points nor runs of its image's size"),
    ):
        if wrong:
            raise UserError(f"{path}: annotation {wrong[0]} {problem}{_more(wrong)}; mend it.")
    empty = [name for name, *size in sizes.values() if not (_finite(size) and min(size) >= 1)]
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
    listed = list(sizes.values())
    for name, width, height in listed[:: max(1, len(listed) // _LOOKED_AT)]:
        size = _picture_size(folder / name)
        if size != (width, height):
            raise UserError(
                f"{folder / name} has {size[0]} x {size[1]} pixels and {path.name} lists {width} x {height}; get the "
                "images that the annotations are of."
            )


def _finite(numbers: Any) -> bool:
    """Whether something is a list of finite numbers."""
    try:
        return isinstance(numbers, (list, tuple)) and math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False


def _is_box(box: Any, area: Any) -> bool:
    return _finite(box) and len(box) == 4 and min(box[2:]) >= 0 and _finite([area]) and area >= 0


def _is_mask(segmentation: Any, width: int, height: int) -> bool:
    """Whether a segmentation is polygons ``[[x1, y1, ...], ...]`` or runs ``{"size": [h, w], "counts": ...}``."""
    if isinstance(segmentation, dict):
        counts: Any = segmentation.get("counts")
        whole = isinstance(counts, str) or (_finite(counts) and min(counts) >= 0 and sum(counts) == width * height)
        return bool(counts) and whole and segmentation.get("size") == [height, width]
    return isinstance(segmentation, list) and all(
        _finite(polygon) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation
    )


def _check_maps(root: Path, dataset: Any, kind: Any, classes: Sequence[str]) -> None:
    images, maps = root / dataset.data_prefix.img_path, root / dataset.data_prefix.seg_map_path
    suffixes = [_suffix(dataset, kind, name) for name in ("img_suffix", "seg_map_suffix")]
    for folder, suffix in zip((images, maps), suffixes, strict=True):
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}; give the folder that holds {folder.relative_to(root)}.")
        if not any(name.endswith(suffix) for name in _visible(folder)):
            hint = "; its labels are made from gtFine by cityscapesscripts' createTrainIdLabelImgs"
            made = hint if "TrainIds" in suffix else "; unpack the data set there"
            raise UserError(f"{folder} has no files *{suffix}{made}.")
    names = _visible(images)
    others = [name for name in names if is_image(name) and not name.endswith(suffixes[0])]
    if others:
        console.print(
            f"{images}: {len(others)} images do not end in {suffixes[0]} and are left out, the first {others[0]}.",
            markup=False,
            soft_wrap=True,
        )
    pairs = [
        (images / name, maps / f"{name.removesuffix(suffixes[0])}{suffixes[1]}")
        for name in names
        if name.endswith(suffixes[0])
    ]
    absent = [each for _, each in pairs if not each.is_file()]
    if absent:
        raise UserError(f"There is no semantic map {absent[0]} of an image{_more(absent)}; unpack all annotations.")
    reduced = bool(dataset.get("reduce_zero_label", "ADE20K" in kind.__name__))
    for image, path in pairs:
        size, map_size = _picture_size(image), _map_size(path)
        if size != map_size:
            raise UserError(
                f"{path} has {map_size[0]} x {map_size[1]} pixels and its image {size[0]} x {size[1]}; get both again."
            )
    for _, path in pairs[:: max(1, len(pairs) // _LOOKED_AT)]:
        values = np.unique(_opened(path, np.asarray))
        highest = max((int(value) for value in values if value != _IGNORED), default=0)
        if highest >= len(classes) + int(reduced) or values.min() < 0:
            raise UserError(
                f"{path} has the label {highest if values.min() >= 0 else values.min()}, and the config knows "
                f"{len(classes)} classes{' beside 0 for not annotated' if reduced else ', from 0'}; use annotations "
                "that the config is for."
            )


def _visible(folder: Path) -> list[str]:
    """Files below a folder, relative to it, but hidden ones, sorted."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        above = Path(place).relative_to(folder)
        found += [(above / name).as_posix() for name in files if not is_hidden(name)]
    return sorted(found)


def _opened(path: Path, look: Callable[[Image.Image], Result]) -> Result:
    """What is seen in an image file."""
    try:
        with Image.open(path) as opened:
            return look(opened)
    except READ_ERRORS as error:
        raise UserError(f"{path} cannot be read as an image ({error}); get it again.") from error


def _picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as OpenCV reads it, turned by its EXIF data."""

    def look(image: Image.Image) -> tuple[int, int]:
        check_range_of(image)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size[::-1] if turned else image.size

    return _opened(path, look)


def _map_size(path: Path) -> tuple[int, int]:
    """Width and height of a semantic map.

    Raises:
        UserError: it has other pixels than class indices.
    """
    mode, size = _opened(path, lambda image: (image.mode, image.size))
    if mode not in _MAP_MODES:
        raise UserError(
            f"{path} has {len(ImageMode.getmode(mode).bands)} channels of {ImageMode.getmode(mode).basetype} values "
            f"({mode}); a semantic map has one whole number a pixel, the index of its class: a grey or palette PNG."
        )
    return size


def _suffix(dataset: Any, kind: Any, name: str) -> str:
    """A file suffix of a data set: the config's, else the default of its class."""
    for each in kind.__mro__:
        parameter = inspect.signature(each.__init__).parameters.get(name)
        if name in dataset or parameter is not None:
            return str(dataset.get(name, parameter.default if parameter is not None else ""))
    return ""


def _more(names: Sequence[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
