"""Scenes of garments: planes that agree, data whose labels are numbers, and mean IoU."""

from __future__ import annotations

import pytest
import torch

from common.bench import scenes
from common.bench.scenes import Scenes, miou


@pytest.fixture(scope="module")
def some() -> Scenes:
    planes = scenes._drawn("test", 64 * scenes.SHARES, share=0)
    assert torch.equal(planes, scenes._drawn("test", 64 * scenes.SHARES, share=0))
    assert not torch.equal(planes, scenes._drawn("test", 64 * scenes.SHARES, share=1))
    return Scenes(planes[:, :1].expand(-1, 3, -1, -1), planes[:, 1], planes[:, 2])


def test_masks_order_and_classes_agree(some: Scenes) -> None:
    assert torch.equal(some.semantic > 0, some.order > 0)
    assert some.order.unique().tolist() == [0, 1, 2]
    assert (some.images[:, 0][some.order > 0] > 0).all(), "a garment is brighter than black"
    for semantic, order, classes in zip(some.semantic, some.order, some.classes(), strict=True):
        for place in order.unique()[1:]:
            assert len(semantic[order == place].unique()) == 1, "a garment is of one class"
        assert (1 + classes.nonzero()[:, 0]).tolist() == [label for label in semantic.unique().tolist() if label]


def test_the_largest_class_is_that_of_most_pixels() -> None:
    semantic = torch.zeros(1, 28, 28, dtype=torch.uint8)
    semantic[0, :3], semantic[0, 10:14] = 4, 7
    few = Scenes(torch.zeros(1, 3, 28, 28, dtype=torch.uint8), semantic, semantic)
    assert few.largest().tolist() == [6]
    assert few.classes().nonzero()[:, 1].tolist() == [3, 6]
    assert len(few[torch.tensor([0, 0])]) == 2


def test_mean_iou_has_known_answers() -> None:
    truth = torch.tensor([[[0, 0], [1, 1]]])
    assert miou(truth, truth) == 1
    assert miou(torch.zeros_like(truth), truth) == pytest.approx((0.5 + 0) / 2)
    assert miou(torch.tensor([[[0, 2], [1, 1]]]), truth) == pytest.approx((0.5 + 1 + 0) / 3)
    assert miou(torch.tensor([[[255, 0], [1, 1]]]), truth) == pytest.approx((0.5 + 1) / 2), "an open pixel is wrong"
