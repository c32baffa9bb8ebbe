"""Small data sets with the layouts of the real ones, and a model that knows their answers.

A picture of class ``k`` is one flat colour, which spells the three digits of ``k``; ``ColourModel`` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.data.preprocessing import Preprocessing
from common.robustness.benchmarks.classes import imagenet_wnids, subset
from common.robustness.corruptions import CORRUPTIONS, SEVERITIES

#: Preprocessing under which flat colours stay what they are.
PLAIN = Preprocessing(size=16, crop=1.0, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))


def colour(index: int) -> tuple[int, int, int]:
    """The colour that spells a class: a level of each channel for each of its three digits."""
    return 12 + 25 * (index // 100), 12 + 25 * (index // 10 % 10), 12 + 25 * (index % 10)


class ColourModel(nn.Module):
    """Logits by how near the mean colour of an image is to the colour of each class."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        palette = torch.tensor([colour(index) for index in range(classes)]) / 255
        self.palette = nn.Parameter(palette)

    def forward(self, images: Tensor) -> Tensor:
        distance = images.float().mean((2, 3))[:, None] - self.palette
        return -300 * distance.square().sum(2)


def write_picture(path: Path, index: int, size: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), colour(index), np.uint8)).save(path, format="png", compress_level=1)


def class_folders(root: Path, wnids: Iterable[str], shown: dict[str, int] | None = None) -> Path:
    """One picture in each class folder; ``shown`` overrides which class a folder's picture shows."""
    index = {wnid: i for i, wnid in enumerate(imagenet_wnids())}
    for wnid in wnids:
        write_picture(root / wnid / "picture.png", (shown or {}).get(wnid, index[wnid]))
    return root


def imagenet_family(root: Path) -> dict[str, Path]:
    """ImageNet and its robustness variants with their layouts, by the name of the option that takes each.

    ImageNet has a picture in each class, its training set and ImageNet-Sketch the same ones; ImageNet-C has two
    pictures in each cell.
    """
    wnids = imagenet_wnids()
    class_folders(root / "imagenet/val", wnids)
    (root / "imagenet/train").symlink_to(root / "imagenet/val")
    (root / "sketch").symlink_to(root / "imagenet/val")
    for name in ("imagenet-a", "imagenet-r"):
        class_folders(root / name, subset(name))
    cell = root / "cell"
    for wnid in wnids:
        (cell / wnid).mkdir(parents=True)
    class_folders(cell, wnids[:2])
    for name in CORRUPTIONS:
        (root / "imagenet-c" / name).mkdir(parents=True)
        for severity in SEVERITIES:
            (root / "imagenet-c" / name / str(severity)).symlink_to(cell)
    return {
        "imagenet-sketch": root / "sketch",
        **{name: root / name for name in ("imagenet", "imagenet-a", "imagenet-c", "imagenet-r")},
    }
