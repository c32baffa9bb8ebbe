from __future__ import annotations

import pytest

from common.training.cost import Machine, gpu_hours, passes
from common.training.hooks import ExtraPass, Hook


def test_the_estimate_is_the_stated_arithmetic(recipe) -> None:
    chosen = recipe("plain")  # 3 epochs, batches of 8
    machine = Machine("slow", peak=1000.0, utilisation=0.5)
    hours = gpu_hours(chosen, 10.0, images=20, machine=machine)  # 16 images an epoch
    assert hours == pytest.approx(3 * 16 * 10 * 2 * 3 / 500 / 3600)
    assert gpu_hours(chosen, 10.0, images=20, machine=machine, hooks=[ExtraPass(abs)]) == pytest.approx(2 * hours)
    assert gpu_hours(recipe("plain", "epoch_images=8"), 10.0, machine=machine) == pytest.approx(hours / 2)


def test_passes() -> None:
    assert passes([Hook()]) == 1
    assert passes([ExtraPass(abs, "discarded")]) == pytest.approx(4 / 3)
    two_views = Hook()
    two_views.copies = 2
    assert passes([two_views, ExtraPass(abs)]) == 4
