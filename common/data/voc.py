"""PASCAL VOC's segmentation set as it is distributed: JPEG pictures, and PNG maps of class indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from common.data.pixels import READ_ERRORS, read_image
from common.errors import UserError

#: Pixels at the border of objects, and objects that are hard to tell, have this label.
VOID = 255
LAYOUT = "JPEGImages, SegmentationClass and ImageSets/Segmentation, as in VOCdevkit/VOC2012"


class VOCSegmentation(Dataset):
    """Pictures and semantic maps, both resized to a square.

    Args:
        root: the folder of one year, or one that contains it as ``VOC2012`` or ``VOCdevkit/VOC2012``.
        side: of the square, in pixels; pictures are resized bilinearly, maps to the nearest pixel.
        split: a list in ``ImageSets/Segmentation``.

    Raises:
        UserError: the folder is laid out otherwise, or the list is empty.
    """

    def __init__(self, root: Path, side: int = 512, split: str = "val") -> None:
        places = [root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"]
        self.folder = next((p for p in places if (p / "ImageSets" / "Segmentation" / f"{split}.txt").is_file()), root)
        listed = self.folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listed.is_file():
            raise UserError(f"{root} is not laid out as PASCAL VOC: there is no {split}.txt; expected {LAYOUT}.")
        self.names = listed.read_text().split()
        if not self.names:
            raise UserError(f"{listed} names no picture; get PASCAL VOC's development kit again.")
        self.side = side

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Picture (3, side, side) float in [0, 1] and map (side, side) uint8.

        Raises:
            UserError: a file is missing or damaged, or a map has no class indices.
        """
        name = self.names[position]
        picture = self._open(self.folder / "JPEGImages" / f"{name}.jpg", "RGB", Image.Resampling.BILINEAR)
        # Maps are palette images, whose pixels are class indices.
        place = self.folder / "SegmentationClass" / f"{name}.png"
        classes = self._open(place, None, Image.Resampling.NEAREST)
        if classes.ndim != 2:
            raise UserError(f"{place} is a picture in colours, not of class indices; get the set's own maps.")
        return torch.from_numpy(picture).permute(2, 0, 1).float() / 255, torch.from_numpy(classes)

    def _open(self, path: Path, mode: str | None, resampling: Image.Resampling) -> np.ndarray:
        try:
            if mode:
                return np.array(read_image(path, mode).resize((self.side, self.side), resampling))
            with Image.open(path) as opened:
                return np.array(opened.resize((self.side, self.side), resampling))
        except READ_ERRORS as error:
            raise UserError(f"{path} cannot be read ({error}); restore it and go on with --resume.") from None


def class_masks(classes: Tensor) -> Tensor:
    """A map (H, W) as one mask a class that is there, (classes, H, W) bool, without background and void."""
    present = [int(label) for label in classes.unique() if label not in (0, VOID)]
    return torch.stack([classes == label for label in present]) if present else torch.zeros(0, *classes.shape).bool()
