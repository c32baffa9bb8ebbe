"""Image sets that are read one picture at a time, as 8-bit tensors, by several loader processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError

#: Sources of Hugging Face, which are read as a folder is.
LIBRARY = "hfds/"
#: Sources that can only be read from front to end, so that nothing could be resumed or divided exactly.
STREAMS = ("hfids/", "tfds/", "wds/")


class Unreadable(NamedTuple):
    """In place of a picture that could not be read: its name and why."""

    name: str
    reason: str


class Pictures(Dataset):
    """Labelled pictures of a folder, a tar file or a Hugging Face data set, each with its row.

    Args:
        root: folder or tar file, or ``hfds/NAME``.
        classes: folder name to label; pictures in other folders are left out.
        transform: PIL image to uint8 ``(3, H, W)``.
        border: pixels to cut off at each side first.
    """

    def __init__(
        self,
        root: Path | str,
        classes: Mapping[str, int],
        transform: Callable[[Image.Image], Tensor],
        *,
        border: int = 0,
    ) -> None:
        self.root = str(root)
        self.transform = transform
        self.border = border
        if self.root.startswith(STREAMS):
            raise UserError(
                f"{self.root} is a stream, which cannot be resumed; give a folder, a tar file or hfds/NAME."
            )
        try:
            if self.root.startswith(LIBRARY):
                dataset = timm.data.create_dataset(self.root, split="validation")
            else:
                dataset = timm.data.create_dataset("", root=self.root, class_map=dict(classes), search_split=False)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"{self.root} has no images in the class folders ({error}).") from None
        self.reader = dataset.reader
        self.rows = np.arange(len(self.reader))
        self._labels: Mapping[int, int] | None = None

    def names(self) -> list[str]:
        """File names in the order of rows, without folders."""
        return [Path(self.reader.filename(int(row), basename=True)).name for row in self.rows]

    def relabel(self, labels: Mapping[int, int]) -> None:
        """Give the pictures at the positions ``labels`` other labels and leave out the others."""
        self._labels = {int(self.rows[position]): label for position, label in labels.items()}
        self.rows = np.array(sorted(self._labels), dtype=int)

    def keep(self, limit: int | None) -> str:
        """Keep ``limit`` pictures: the first of a fixed random order, so that they cover the classes.

        Returns:
            The choice in words, with a hash of the file names; empty where all are kept.
        """
        if limit is None or limit >= len(self.rows):
            return ""
        chosen = np.random.default_rng(0).permutation(len(self.rows))[:limit]
        self.rows = self.rows[np.sort(chosen)]
        digest = hashlib.sha256("\n".join(self.names()).encode()).hexdigest()[:12]
        return f"{limit} images of a fixed random order, names {digest}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[int, Tensor, int] | Unreadable:
        """``(position, uint8 (3, H, W), label)``."""
        row = int(self.rows[position])
        try:
            file, label = self.reader[row]
            with Image.open(file) as opened:
                opened.load()
            # Converting to the same mode would make a copy.
            picture = opened if opened.mode == "RGB" else opened.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return Unreadable(str(self.reader.filename(row, absolute=True)), str(error) or type(error).__name__)
        if self.border:
            width, height = picture.size
            picture = picture.crop((self.border, self.border, width - self.border, height - self.border))
        if self._labels is not None:
            label = self._labels[row]
        return position, self.transform(picture), int(label)


def collate(samples: Sequence[tuple[int, Tensor, int] | Unreadable]) -> tuple[Tensor, Tensor, Tensor] | Unreadable:
    """``(positions (B,), images (B, ...), labels (B,))``, or the first sample that could not be read.

    An exception would come out of a loader process with that process's traceback in its text.
    """
    good = []
    for sample in samples:
        if isinstance(sample, Unreadable):
            return sample
        good.append(sample)
    positions, images, labels = zip(*good, strict=True)
    return torch.tensor(positions), torch.stack(images), torch.tensor(labels)
