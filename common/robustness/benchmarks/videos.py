"""The perturbation sequences of ImageNet-P: short MP4 videos, read as 8-bit tensors."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.folders import left_out, scan
from common.data.pixels import UnreadableImage
from common.errors import UserError


class Videos(Dataset):
    """The sequences below a folder, in the order of their paths.

    Read with OpenCV, as in the original evaluation.

    Args:
        root: class folders with ``*.mp4``.

    Attributes:
        left_out: what of the folder is not read, in words; empty where there is nothing.
    """

    def __init__(self, root: Path) -> None:
        found = scan(root, (".mp4",))
        self.paths = sorted(root / path for path, _ in found.files)
        self.left_out = left_out(found)
        self.rows = np.arange(len(self.paths))
        if not self.paths:
            raise UserError(f"{root} has no sequences; expected {root}/CLASS/*.mp4.")
        _opencv()

    def names(self) -> list[str]:
        """File names in the order of rows."""
        return [self.paths[row].name for row in self.rows]

    def keep(self, limit: int | None) -> str:
        """Keep ``limit`` sequences of a fixed random order; returns the choice in words."""
        if limit is None or limit >= len(self.rows):
            return ""
        chosen = np.sort(np.random.default_rng(0).permutation(len(self.paths))[:limit])
        self.rows = chosen
        return f"{limit} sequences of a fixed random order"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[int, Tensor, int] | UnreadableImage:
        """``(position, uint8 (T, 3, H, W), 0)``; sequences need no label."""
        capture = _opencv().VideoCapture(str(self.paths[self.rows[position]]))
        frames = []
        while True:
            read, frame = capture.read()
            if not read:
                break
            frames.append(torch.from_numpy(frame[:, :, ::-1].copy()).permute(2, 0, 1))
        capture.release()
        if len(frames) < 2:
            return UnreadableImage(str(self.paths[self.rows[position]]), "it has no two frames that can be decoded")
        return position, torch.stack(frames), 0


def _opencv() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError:
        raise UserError("ImageNet-P is stored as videos; install OpenCV: pip install opencv-python-headless.") from None
