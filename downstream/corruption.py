"""Detection and segmentation under corruption: the corruptions of ImageNet-C in the pipelines of mmdet and mmseg.

Michaelis et al., "Benchmarking Robustness in Object Detection: Autonomous Driving when Winter is Coming", 2019, arXiv
1907.07484, define over the 15 corruptions c and 5 severities s of ImageNet-C

    mPC = mean over c and s of P_{c,s}         mean performance under corruption
    rPC = mPC / P_clean                        relative performance under corruption, here in per cent

with P the data set's own measure (box AP, mask AP, mIoU). Zhou et al. (FAN) print mPC for COCO-C and Cityscapes-C; the
corruptions in their scripts differ (:data:`SETS`). Images are corrupted at their own size, before any resizing, with
the parameters that ImageNet-C has for 224 pixels whatever their size is, as both do.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import TRANSFORMS

from common.errors import UserError, nearest
from common.robustness.corruptions import CORRUPTIONS, EXTRA, SEVERITIES, corrupt

#: Which corruptions and severities a mean is over. ``benchmark``: Michaelis et al. ``fan_detection`` and
#: ``fan_segmentation``: detection/tools/coco_c_test_all.sh and segmentation/tools/test_city_c.py of FAN's release at
#: ee1b7df, 16 corruptions, and all 19 at severities 1 to 3.
SETS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "benchmark": (CORRUPTIONS, SEVERITIES),
    "fan_detection": (
        (*(name for name in CORRUPTIONS if name not in ("zoom_blur", "elastic_transform", "pixelate")), *EXTRA),
        SEVERITIES,
    ),
    "fan_segmentation": ((*CORRUPTIONS, *EXTRA), SEVERITIES[:3]),
}


@TRANSFORMS.register_module()
class CorruptImage:
    """A transform that corrupts ``results["img"]``, (H, W, 3) uint8 in BGR, and leaves boxes and masks alone.

    What happens to an image depends on its file's name, the corruption and the severity only.

    Args:
        name: one of ``common.robustness.corruptions.CORRUPTIONS`` or ``EXTRA``.
        severity: 1 (mildest) to 5.

    Raises:
        UserError: an unknown name or severity.
    """

    def __init__(self, name: str, severity: int) -> None:
        if name not in (*CORRUPTIONS, *EXTRA):
            raise UserError(f"There is no corruption {name!r}.{nearest(name, (*CORRUPTIONS, *EXTRA))}")
        if severity not in SEVERITIES:
            raise UserError(f"severity is {severity}; it is one of {', '.join(map(str, SEVERITIES))}.")
        self.name, self.severity = name, severity

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Corrupt one image."""
        seed = zlib.crc32(Path(results["img_path"]).name.encode())
        rgb = torch.from_numpy(np.ascontiguousarray(results["img"][..., ::-1].transpose(2, 0, 1)))[None]
        corrupted = corrupt(rgb, self.name, self.severity, seeds=[seed], scale="imagenet")[0]
        results["img"] = np.ascontiguousarray(corrupted.numpy().transpose(1, 2, 0)[..., ::-1])
        return results

    def __repr__(self) -> str:
        """The arguments, as mmengine prints transforms."""
        return f"CorruptImage(name={self.name!r}, severity={self.severity})"


def corrupt_pipeline(pipeline: list[dict[str, Any]], name: str, severity: int) -> list[dict[str, Any]]:
    """``pipeline`` with the corruption after the step that loads the image.

    Raises:
        UserError: no step loads an image.
    """
    for position, step in enumerate(pipeline):
        if step["type"] == "LoadImageFromFile":
            corruption = {"type": "CorruptImage", "name": name, "severity": severity}
            return [*pipeline[: position + 1], corruption, *pipeline[position + 1 :]]
    raise UserError("The test pipeline has no LoadImageFromFile, after which images could be corrupted.")


def cells(corruptions: str) -> Iterator[tuple[str, int]]:
    """Every corruption of a set of :data:`SETS` with every severity."""
    names, severities = SETS[corruptions]
    for name in names:
        for severity in severities:
            yield name, severity


def mean_performance(by_cell: Mapping[str, float], corruptions: str) -> float:
    """Return mPC from performances by cell, ``{"fog/3": 20.1, ...}``.

    Raises:
        UserError: a cell is missing.
    """
    missing = [f"{name}/{severity}" for name, severity in cells(corruptions) if f"{name}/{severity}" not in by_cell]
    if missing:
        raise UserError(
            f"mPC needs every corruption and severity; {missing[0]} is missing (and {len(missing) - 1} more)."
        )
    return float(np.mean([by_cell[f"{name}/{severity}"] for name, severity in cells(corruptions)]))


def relative_performance(mean: float, clean: float) -> float:
    """Return rPC in per cent, from mPC and the performance on clean images.

    Raises:
        UserError: the clean performance is 0, where rPC is not defined.
    """
    if clean <= 0:
        raise UserError(f"rPC divides by the performance on clean images, which is {clean}; train the model first.")
    return 100.0 * mean / clean
