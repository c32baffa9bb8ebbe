"""Filters: known answers on waves, and the benchmark of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from common.errors import UserError
from common.robustness.frequency import RADII, conditions, high_pass, low_pass, without_high, without_low


def wave(height: int, width: int, down: int, across: int) -> Tensor:
    """A cosine with so many cycles over an image (1, height, width)."""
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    return torch.cos(2 * math.pi * (down * y + across * x))[None]


@pytest.mark.parametrize(("down", "across"), [(3, 0), (0, 3), (2, 2), (0, 5), (4, 3)])
def test_a_wave_passes_one_of_the_filters(down: int, across: int) -> None:
    images = wave(20, 20, down, across)
    radius = math.hypot(down, across) / 10  # ten cycles are the highest frequency
    torch.testing.assert_close(low_pass(images, radius + 0.01), images, atol=1e-5, rtol=0)
    assert low_pass(images, radius - 0.01).abs().max() < 1e-5
    torch.testing.assert_close(high_pass(images, radius - 0.01), images, atol=1e-5, rtol=0)


def test_a_radius_is_the_same_frequency_on_images_that_are_not_square_or_odd() -> None:
    for height, width in ((20, 40), (15, 21)):
        images = wave(height, width, 0, 4)
        frequency = 4 / (width / 2)
        torch.testing.assert_close(low_pass(images, frequency + 0.01), images, atol=1e-5, rtol=0)
        assert low_pass(images, frequency - 0.01).abs().max() < 1e-5


def test_the_ends_are_the_mean_and_the_image() -> None:
    images = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(low_pass(images, 0), images.mean(dim=(-2, -1), keepdim=True).expand_as(images))
    torch.testing.assert_close(low_pass(images, 1.5), images)
    torch.testing.assert_close(without_high(images, 1.5), images)
    torch.testing.assert_close(without_low(images, 0), images)
    assert (without_low(images, 1.5) - images.mean(dim=(-2, -1), keepdim=True)).abs().max() < 1e-5
    for radius in RADII:
        for changed in (without_high(images, radius), without_low(images, radius)):
            assert changed.min() >= 0
            assert changed.max() <= 1


def test_conditions_are_named_by_their_metrics() -> None:
    images = torch.rand(2, 3, 8, 8)
    filters = conditions((0.25, 0.5))
    assert list(filters) == [f"{kind}_pass_top1/{r}" for kind in ("low", "high") for r in (0.25, 0.5)]
    assert torch.equal(filters["low_pass_top1/0.5"](images, range(2), None), without_high(images, 0.5))
    with pytest.raises(UserError, match="at least 0"):
        low_pass(images, -1)
