"""Greedy non-maximum suppression.

Boxes are ``x1, y1, x2, y2`` in pixels. With ``offset=1`` a box includes its last pixel: one pixel wider and higher.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import nms as greedy_nms

from downstream.operators.precision import widen, widened


@widened
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppress greedily boxes whose overlap with a better one exceeds a threshold.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        iou_threshold: in [0, 1].
        offset: 0 or 1.

    Returns:
        Indices of the boxes that stay, best first.
    """
    return greedy_nms(_outer(widen(boxes), offset), widen(scores), iou_threshold)


def _outer(boxes: Tensor, offset: int) -> Tensor:
    """Return the boxes' outer borders: with ``offset`` 1 the far corner is the last pixel's far corner."""
    return boxes + boxes.new_tensor([0, 0, offset, offset]) if offset else boxes
