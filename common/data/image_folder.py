"""Image folders with ImageNet's layout, opened through timm, for evaluation.

Layout: ``FOLDER/CLASS/IMAGE``, or the same below ``FOLDER/val`` (``validation`` and so on, as timm looks for it); class
folders in sorted order are classes 0, 1, ..., which for ImageNet's WordNet ids is the usual numbering. Images come out
as uint8, resized and cropped; see `common.data.preprocessing`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import create_dataset
from timm.data.readers.img_extensions import get_img_extensions
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from common.data.preprocessing import Preprocessing
from common.errors import UserError

#: What Pillow raises on files that are no image, or half of one.
_UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError)


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """Images of a folder: item ``i`` is ``((3, size, size) uint8, class index)``.

    Unlike timm's own data set, which skips an unreadable image and gives the next one in its place, this one raises a
    ``UserError`` that names the file. Open one with `open_image_folder`.

    Attributes:
        folder: where the class folders are.
        classes: names of the class folders with their class index.
        preprocessing: how the images are read.
    """

    def __init__(self, samples: Any, folder: Path, preprocessing: Preprocessing):
        self.folder = folder
        self.preprocessing = preprocessing
        self.classes: dict[str, int] = samples.reader.class_to_idx
        self._samples = samples
        self._transform = preprocessing.transform()

    def __len__(self) -> int:
        return len(self._samples)

    def filename(self, index: int) -> str:
        """Path of an image below ``folder``."""
        return self._samples.filename(index)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            file, label = self._samples.reader[index]
            with file:
                image = Image.open(file).convert("RGB")
        except _UNREADABLE as error:
            path = self.folder / self.filename(index)
            raise UserError(f"{path} cannot be read as an image; replace or remove it.") from error
        return self._transform(image), label


def open_image_folder(
    folder: Path | str,
    preprocessing: Preprocessing,
    *,
    classes: int | None = None,
    class_index: Mapping[str, int] | None = None,
) -> ImageFolder:
    """Open a folder of images for evaluation.

    Args:
        folder: has class folders with images, itself or in its ``val``.
        preprocessing: how images become inputs; `Preprocessing.of` a model, or changed by ``dataclasses.replace``.
        classes: number of class folders that must be there, e.g. the model's number of classes.
        class_index: class index of each folder name, where the folders are a subset of the model's classes.

    Raises:
        UserError: the folder is missing, has another layout, no images, or not the expected classes.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; {_layout(folder)}.")
    try:
        samples = create_dataset("", root=str(folder), split="validation", class_map=dict(class_index or {}))
    except RuntimeError as error:  # timm's word for no images, or none of a known class
        raise UserError(
            f"{folder} holds no images ({_extensions()}) of the expected classes; {_layout(folder)}."
        ) from error
    root = Path(samples.reader.root)
    _check_layout(samples, root)
    _check_classes(root, classes, class_index)
    return ImageFolder(samples, root, preprocessing)


def batches(dataset: ImageFolder, batch_size: int = 64, workers: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield uint8 images (B, 3, size, size) and labels (B,), in the folder's order, read by worker processes.

    Args:
        dataset: what to read.
        batch_size: images a batch; the last one may have fewer.
        workers: processes that decode images; default one a processor, at most 8. 0 reads in this process.

    Raises:
        UserError: an image cannot be read; the batches before it have been yielded.
    """
    if workers is None:
        workers = min(8, os.cpu_count() or 1)
    loader = DataLoader(_Outcomes(dataset), batch_size, num_workers=workers, collate_fn=_collate)
    for batch in loader:
        if isinstance(batch, str):
            raise UserError(batch)
        yield batch


class _Outcomes(Dataset[Any]):
    """The data set, with an error's sentence in place of an exception, which a worker would turn into a traceback."""

    def __init__(self, dataset: ImageFolder):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | str:
        try:
            return self.dataset[index]
        except UserError as error:
            return str(error)


def _collate(items: list[tuple[Tensor, int] | str]) -> Any:
    sentences = [item for item in items if isinstance(item, str)]
    return sentences[0] if sentences else default_collate(items)


def _check_layout(samples: Any, root: Path) -> None:
    """Every image must be at CLASS/IMAGE: timm takes any depth, and would evaluate train and val as one."""
    for path, _ in samples.reader.samples:
        below = Path(path).relative_to(root)
        if len(below.parts) != 2:
            raise UserError(f"{root} has {below} where it should have CLASS/IMAGE; {_layout(root)}.")


def _check_classes(root: Path, expected: int | None, class_index: Mapping[str, int] | None) -> None:
    there = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    unknown = there - {*class_index} if class_index else set()
    if unknown:
        raise UserError(f"{root} has folders that are no class of the model: {_some(unknown)}.")
    empty = {name for name in there if not _has_image(root / name)}
    if empty:
        raise UserError(f"{root} has class folders without images, which would shift the classes: {_some(empty)}.")
    if expected is not None and len(there) != expected:
        raise UserError(f"{root} has {len(there)} class folders, but {expected} classes are expected.")


def _has_image(folder: Path) -> bool:
    known = get_img_extensions(as_set=True)
    return any(file.suffix.lower() in known for file in folder.iterdir())


def _layout(folder: Path) -> str:
    return f"expected {folder}/CLASS/IMAGE or {folder}/val/CLASS/IMAGE, e.g. {folder}/val/n01440764/an_image.JPEG"


def _extensions() -> str:
    return ", ".join(sorted(get_img_extensions()))


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
