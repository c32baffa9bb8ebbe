"""The pictures that PixMix mixes with: a folder of the user's, or fractals of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.pixels import READ_ERRORS
from common.errors import UserError
from papers.pixmix.fractals import fractals

#: In place of a folder: pictures of iterated function systems, and how many of them.
FRACTALS, COUNT = "fractals", 300
#: What pictures in a folder end with.
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class Pictures(Protocol):
    """A set of pictures."""

    def take(self, count: int, side: int, generator: np.random.Generator) -> Tensor:
        """Random crops of random pictures, (count, 3, side, side) uint8."""
        ...


class Generated:
    """Fractals of ``size`` pixels a side."""

    def __init__(self, size: int) -> None:
        self._pictures = torch.from_numpy(fractals(COUNT, size))

    def take(self, count: int, side: int, generator: np.random.Generator) -> Tensor:
        """See `Pictures`."""
        chosen = self._pictures[torch.from_numpy(generator.integers(0, len(self._pictures), count))]
        return torch.stack([_cropped(picture, side, generator) for picture in chosen])


class Folder:
    """The pictures of a folder and of those in it, their shorter side resized to ``size`` pixels.

    A picture stays in memory once it was read.

    Raises:
        UserError: there is no such folder, or no picture in it; when one is taken, that it cannot be read.
    """

    def __init__(self, folder: Path, size: int) -> None:
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder} of pictures to mix with; check method.pictures.")
        self.files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        if not self.files:
            raise UserError(f"{folder} has no pictures to mix with, files that end with {', '.join(ENDINGS)}.")
        self.size = size
        self._read: dict[int, Tensor] = {}

    def take(self, count: int, side: int, generator: np.random.Generator) -> Tensor:
        """See `Pictures`."""
        chosen = generator.integers(0, len(self.files), count).tolist()
        return torch.stack([_cropped(self._picture(number), side, generator) for number in chosen])

    def _picture(self, number: int) -> Tensor:
        if number not in self._read:
            path = self.files[number]
            try:
                with Image.open(path) as opened:
                    picture = opened.convert("RGB")
            except READ_ERRORS as error:
                raise UserError(f"The picture {path} cannot be read ({error}); mend it or remove it.") from None
            scale = self.size / min(picture.size)
            size = (max(self.size, round(picture.width * scale)), max(self.size, round(picture.height * scale)))
            resized = np.array(picture.resize(size, Image.Resampling.BILINEAR))
            self._read[number] = torch.from_numpy(resized).permute(2, 0, 1).contiguous()
        return self._read[number]


def load(pictures: str, size: int) -> Pictures:
    """The set of a recipe's ``method.pictures``.

    Args:
        pictures: a folder, or ``fractals``.
        size: to which pictures are resized before they are cropped, in pixels.

    Raises:
        UserError: it names nothing, or a folder without pictures.
    """
    if not pictures:
        raise UserError(
            "PixMix needs pictures to mix with: set method.pictures to a folder of them (the README links the released "
            f"set), or to {FRACTALS}, which are made here."
        )
    return Generated(size) if pictures == FRACTALS else Folder(Path(pictures), size)


def _cropped(picture: Tensor, side: int, generator: np.random.Generator) -> Tensor:
    """A random crop (3, side, side) of a picture (3, H, W) that is no smaller.

    Raises:
        UserError: it is.
    """
    room = [length - side for length in picture.shape[1:]]
    if min(room) < 0:
        raise UserError(
            f"Pictures of {min(picture.shape[1:])} pixels are too small for images of {side}; raise "
            "method.picture_size."
        )
    top, left = (int(generator.integers(0, free + 1)) for free in room)
    return picture[:, top : top + side, left : left + side]
