"""Overlap of boxes ``x1, y1, x2, y2``."""

from __future__ import annotations

import torch
from torch import Tensor

from downstream.operators.precision import widen, widened

IOU = 0  # mmcv's number for intersection over union; 1 is intersection over the first box


@widened
def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Write the overlaps of boxes into ``ious``.

    Args:
        bboxes1: ``(M, 4)``.
        bboxes2: ``(N, 4)``.
        ious: receives ``(M, N)``, or ``(M,)`` if aligned.
        mode: 0: intersection over union, 1: over the area of the first box.
        aligned: whether each box of one set meets its counterpart alone; M = N.
        offset: 1 if a box includes its last pixel, else 0.
    """
    first, second = widen(bboxes1), widen(bboxes2)
    if not aligned:
        first = first[:, None]
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2]) + offset
    common = sides.clamp_min(0).prod(dim=-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(dim=-1)
    if mode == IOU:
        area = area + (second[..., 2:] - second[..., :2] + offset).prod(dim=-1) - common
    ious.copy_(common / area)
