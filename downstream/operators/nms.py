"""Non-maximum suppression: greedy, soft, and with the suppressed boxes kept as groups.

Boxes are ``x1, y1, x2, y2`` in pixels. With ``offset=1`` a box includes its last pixel: one pixel wider and higher.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms as greedy_nms

from downstream.operators.precision import widen, widened

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2  # mmcv's numbers for the methods of soft NMS


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


@widened
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap a better one, and drop those that fall below a minimum.

    Bodla et al., Soft-NMS, ICCV 2017 (arXiv 1704.04503), equations 2 and 3.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        dets: ``(N, 5)``; the first rows receive the boxes and new scores that stay, best first.
        iou_threshold: overlap from which a score changes (not with the Gaussian method).
        sigma: of the Gaussian.
        min_score: boxes fall out below it; all but the very best, as with the compiled operator.
        method: 0 suppresses, 1 weighs by ``1 - iou``, 2 by ``exp(-iou**2 / sigma)``.
        offset: 0 or 1.

    Returns:
        Indices of the boxes that stay, in the order of ``dets``. Of equal scores the first box goes first.
    """
    # One box after the other, on few numbers each: NumPy's calls take less time than torch's.
    outer, left = _outer(widen(boxes), offset).cpu().numpy(), widen(scores).cpu().numpy().copy()
    alive = np.arange(len(left))
    kept, kept_scores = [], []
    while len(alive):
        best = left.argmax()
        kept.append(alive[best])
        kept_scores.append(left[best])
        stay = np.arange(len(alive)) != best
        overlap = _iou(outer[best], outer[stay])
        alive, left, outer = alive[stay], left[stay], outer[stay]
        if method == GAUSSIAN:
            left *= np.exp(-(overlap**2) / sigma)
        else:
            left[overlap >= iou_threshold] *= (1 - overlap[overlap >= iou_threshold]) if method == LINEAR else 0
        stay = left >= min_score
        if not stay.all():
            alive, left, outer = alive[stay], left[stay], outer[stay]
    order = torch.tensor(kept, dtype=torch.long, device=boxes.device)
    dets[: len(order), :4] = boxes[order]
    dets[: len(order), 4] = torch.tensor(kept_scores, dtype=dets.dtype)
    return order


@widened
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Suppress greedily, and keep each box together with those that it suppressed.

    Args:
        dets: ``(N, 5)``, boxes and scores.
        iou_threshold: overlap from which a box is suppressed; unlike `nms`, equality suppresses.

    Returns:
        Indices of one group after the other: the box that stays, then the others by descending score.
    """
    boxes = widen(dets)[:, :4].cpu().numpy()
    order = dets[:, 4].argsort(descending=True, stable=True).cpu().numpy()
    groups = []
    while len(order):
        best, rest = order[0], order[1:]
        matched = _iou(boxes[best], boxes[rest]) >= iou_threshold
        groups.append([int(best), *rest[matched].tolist()])
        order = rest[~matched]
    return groups


def _outer(boxes: Tensor, offset: int) -> Tensor:
    """Return the boxes' outer borders: with ``offset`` 1 the far corner is the last pixel's far corner."""
    return boxes + boxes.new_tensor([0, 0, offset, offset]) if offset else boxes


def _iou(box: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the overlap of one box, ``(4,)``, with others, ``(N, 4)``; that of two empty boxes is 0."""
    sides = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0)
    common = sides[:, 0] * sides[:, 1]
    lengths = others[:, 2:] - others[:, :2]
    union = (box[2] - box[0]) * (box[3] - box[1]) + lengths[:, 0] * lengths[:, 1] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union != 0)
