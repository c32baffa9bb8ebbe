"""Attacks of many steps: what a quick and a whole run attack, and that more steps fool more images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common import bench
from common.bench import long_attacks
from common.robustness.attacks import AutoAttack


def test_images_are_attacked_as_many_as_the_run_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyautoattack")
    monkeypatch.setattr(long_attacks, "AUTOATTACK", AutoAttack(epsilon=4 / 255, attacks=("apgd-ce",)))
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 10)).eval()
    found = bench.under_long_attacks(classifier, False, 3)
    assert tuple(found) == bench.LONG_ATTACKS
    assert found["pgd20_eps4_top1"].shape == (1, 500)
    assert found["autoattack_after_apgd_t"].shape == (1, 3)
    images = bench.test_set(False)
    clean = bench.correct(classifier, images.clean[:1], images.labels[:1])
    assert found["pgd20_eps4_top1"].sum() < clean.sum()
    quick = bench.under_long_attacks(classifier, True, 3)
    assert quick["autoattack_after_apgd_t"].shape == (1, 1)
