"""Suppression of boxes, through mmcv's Python, against loops over boxes in Python's floats."""

from __future__ import annotations

import mmcv.ops
import numpy as np
import pytest
import torch
from torch import Tensor

#: Also where a compiled mmcv is installed, whose operators do not take float64.
pytestmark = pytest.mark.usefixtures("our_operators")

Box = list[float]


def overlap(a: Box, b: Box, offset: int = 0) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    whole = sum(areas) - width * height
    return width * height / whole if whole else 0.0


def greedy(boxes: list[Box], scores: list[float], threshold: float, offset: int = 0) -> list[int]:
    kept: list[int] = []
    for candidate in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(overlap(boxes[candidate], boxes[better], offset) <= threshold for better in kept):
            kept.append(candidate)
    return kept


def some_boxes(count: int, seed: int, *, ties: bool = False) -> tuple[Tensor, Tensor]:
    """Boxes that overlap a lot, some partly outside the image, and an empty one; scores from 0.05."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 40 - 8
    size = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 30 + 2
    boxes = torch.cat([corner, corner + size], dim=1)
    if count > 3:
        boxes[3, 2:] = boxes[3, :2]
    scores = torch.rand(count, generator=generator, dtype=torch.float64) * 0.95 + 0.05
    return boxes, (scores * 5).round() / 5 if ties else scores


@pytest.mark.parametrize("count", [0, 1, 2, 60])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("ties", [False, True])
def test_nms(count: int, offset: int, ties: bool) -> None:
    boxes, scores = some_boxes(count, seed=count, ties=ties)
    for threshold in (0.2, 0.5, 0.9):
        dets, kept = mmcv.ops.nms(boxes, scores, threshold, offset=offset)
        assert kept.tolist() == greedy(boxes.tolist(), scores.tolist(), threshold, offset)
        assert torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], dim=1))


def test_nms_drops_low_scores_and_keeps_the_best_few() -> None:
    boxes, scores = some_boxes(50, seed=5)
    high = [i for i in range(50) if scores[i] > 0.4]
    expected = [high[i] for i in greedy(boxes[high].tolist(), scores[high].tolist(), 0.5)][:4]
    assert mmcv.ops.nms(boxes, scores, 0.5, score_threshold=0.4, max_num=4)[1].tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_nms_in_other_precisions_compares_exactly(dtype: torch.dtype) -> None:
    boxes, scores = (tensor.to(dtype) for tensor in some_boxes(60, seed=2))
    kept = mmcv.ops.nms(boxes, scores, 0.5)[1].tolist()
    assert kept == greedy(boxes.float().tolist(), scores.float().tolist(), 0.5)


def test_nms_takes_arrays() -> None:
    boxes, scores = some_boxes(20, seed=3)
    dets, kept = mmcv.ops.nms(boxes.numpy(), scores.numpy(), 0.5)
    assert isinstance(dets, np.ndarray)
    assert kept.tolist() == greedy(boxes.tolist(), scores.tolist(), 0.5)


@pytest.mark.parametrize("split_thr", [10000, 10])
def test_batched_nms_keeps_classes_apart(split_thr: int) -> None:
    boxes, scores = some_boxes(60, seed=4)
    classes = torch.arange(60) % 3
    settings = {"type": "nms", "iou_threshold": 0.5, "split_thr": split_thr}
    dets, kept = mmcv.ops.batched_nms(boxes, scores, classes, settings)
    expected = {}
    for number in range(3):
        (of_class,) = torch.where(classes == number)
        of_boxes, of_scores = boxes[of_class].tolist(), scores[of_class].tolist()
        expected.update({int(of_class[i]): of_scores[i] for i in greedy(of_boxes, of_scores, 0.5)})
    assert dict(zip(kept.tolist(), dets[:, 4].tolist(), strict=True)) == pytest.approx(expected, abs=1e-12)
    assert (dets[:-1, 4] >= dets[1:, 4]).all()
    assert torch.equal(dets[:, :4], boxes[kept])


def test_class_agnostic_nms_lets_classes_suppress_each_other() -> None:
    boxes, scores = some_boxes(40, seed=6)
    settings = {"type": "nms", "iou_threshold": 0.3}
    kept = mmcv.ops.batched_nms(boxes, scores, torch.arange(40) % 3, settings, class_agnostic=True)[1]
    assert kept.tolist() == greedy(boxes.tolist(), scores.tolist(), 0.3)
