"""Pooling of regions, through mmcv's Python, against loops over bins and samples in float64."""

from __future__ import annotations

import math

import mmcv.ops
import pytest
import torch
from torch import Tensor

#: Also where a compiled mmcv is installed, whose operators do not take float64.
pytestmark = pytest.mark.usefixtures("our_operators")

SCALE = 0.25  # features against image


def value_at(plane: Tensor, y: float, x: float) -> float:
    """Bilinear value; up to a pixel outside it is the border's, further out 0."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = float(plane[top, left]) * (left + 1 - x) + float(plane[top, right]) * (x - left)
    lower = float(plane[bottom, left]) * (left + 1 - x) + float(plane[bottom, right]) * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def align(
    features: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    ratio: int,
    mode: str,
    aligned: bool,
) -> Tensor:
    """RoIAlign, bin by bin and sample by sample."""
    out = torch.zeros(len(rois), features.shape[1], *size, dtype=torch.float64)
    for k, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * SCALE - (0.5 if aligned else 0.0) for corner in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        bin_h, bin_w = height / size[0], width / size[1]
        count_h, count_w = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
        for c, plane in enumerate(features[int(image)]):
            for i in range(size[0]):
                for j in range(size[1]):
                    values = [
                        value_at(
                            plane,
                            y1 + (i + (s + 0.5) / count_h) * bin_h,
                            x1 + (j + (t + 0.5) / count_w) * bin_w,
                        )
                        for s in range(count_h)
                        for t in range(count_w)
                    ]
                    out[k, c, i, j] = max(values) if mode == "max" else sum(values) / max(len(values), 1)
    return out


def some_features() -> Tensor:
    return torch.randn(2, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


#: Inside, on both images; across the border; wholly outside; smaller than a pixel of the features.
ROIS = torch.tensor(
    [
        [0, 3.1, 4.2, 30.7, 22.9],
        [1, 0.0, 0.0, 36.0, 28.0],
        [1, -9.3, -7.1, 12.2, 40.8],
        [0, 60.0, 50.0, 80.0, 70.0],
        [1, 10.2, 11.1, 11.3, 12.4],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_roi_align(mode: str, aligned: bool, ratio: int) -> None:
    features = some_features().requires_grad_()
    pooled = mmcv.ops.RoIAlign((3, 2), SCALE, ratio, mode, aligned)(features, ROIS)
    torch.testing.assert_close(pooled, align(features.detach(), ROIS, (3, 2), ratio, mode, aligned))
    assert torch.autograd.gradcheck(
        lambda x: mmcv.ops.roi_align(x, ROIS, (3, 2), SCALE, ratio, mode, aligned), features, fast_mode=True
    )


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_of_nothing(mode: str) -> None:
    features = some_features().requires_grad_()
    pooled = mmcv.ops.roi_align(features, ROIS[:0], 7, SCALE, 0, mode, True)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert not features.grad.any()


def test_roi_align_by_the_maximum_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mmcv.ops.roi_align(some_features(), ROIS, (3, 2), SCALE, 2, "max", True)
    monkeypatch.setattr("downstream.operators.bilinear.MOST_VALUES", 1)
    assert torch.equal(whole, mmcv.ops.roi_align(some_features(), ROIS, (3, 2), SCALE, 2, "max", True))
