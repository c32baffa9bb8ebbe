"""Image sets that are read one picture at a time, as 8-bit tensors, by several loader processes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.data.folders import ImageFiles
from common.data.pixels import READ_ERRORS, UnreadableImage, read_image
from common.errors import UserError

#: Sources of Hugging Face, which are read as a folder is.
LIBRARY = "hfds/"
#: Sources that can only be read from front to end, so that nothing could be resumed or divided exactly.
STREAMS = ("hfids/", "tfds/", "wds/")


class Pictures(Dataset):
    """Labelled pictures of a folder, a tar file or a Hugging Face data set, each with its row.

    Args:
        root: folder or tar file, or ``hfds/NAME``.
        classes: folder name to label; pictures in other folders are left out.
        transform: PIL image to uint8 ``(3, H, W)``.
        border: pixels to cut off at each side first.

    Attributes:
        left_out: what of the folder is not read, in words; empty where there is nothing.
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
        self.left_out = ""
        if self.root.startswith(LIBRARY) and not Path(self.root).exists():
            try:
                self.reader: Any = timm.data.create_dataset(self.root, split="validation").reader
            except Exception as error:  # of what downloads, which has errors of its own (network, proxy)
                reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
                raise UserError(
                    f"{self.root} cannot be opened ({type(error).__name__}: {reason}): check its name, the network and "
                    "the proxy in the environment, or fetch it beforehand."
                ) from None
        else:
            self.reader = files = ImageFiles(self.root, classes)
            self.left_out = files.left_out
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
        digest = hashlib.sha256(os.fsencode("\n".join(self.names()))).hexdigest()[:12]
        return f"{limit} images of a fixed random order, names {digest}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[int, Tensor, int] | UnreadableImage:
        """``(position, uint8 (3, H, W), label)``."""
        row = int(self.rows[position])
        try:
            file, label = self.reader[row]
            picture = read_image(file)
        except READ_ERRORS as error:
            return UnreadableImage(str(self.reader.filename(row, absolute=True)), str(error) or type(error).__name__)
        if self.border:
            width, height = picture.size
            picture = picture.crop((self.border, self.border, width - self.border, height - self.border))
        if self._labels is not None:
            label = self._labels[row]
        return position, self.transform(picture), int(label)


def collate(
    samples: Sequence[tuple[int, Tensor, int] | UnreadableImage],
) -> tuple[Tensor, Tensor, Tensor] | UnreadableImage:
    """``(positions (B,), images (B, ...), labels (B,))``, or the first sample that could not be read.

    An exception would come out of a loader process with that process's traceback in its text.
    """
    good = []
    for sample in samples:
        if isinstance(sample, UnreadableImage):
            return sample
        good.append(sample)
    positions, images, labels = zip(*good, strict=True)
    return torch.tensor(positions), torch.stack(images), torch.tensor(labels)
