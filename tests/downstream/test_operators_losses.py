"""Focal losses, through mmcv's Python, against the publication's formula in float64."""

from __future__ import annotations

import math

import mmcv.ops
import pytest
import torch

#: Also where a compiled mmcv is installed, whose operators do not take float64.
pytestmark = pytest.mark.usefixtures("our_operators")

LOGITS = torch.tensor([[-3.0, 0.0, 2.5], [0.3, -0.2, 8.0], [-12.0, 1.0, 0.5], [4.0, -1.0, 0.1]], dtype=torch.float64)
WEIGHT = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_sigmoid_focal_loss(gamma: float, weight: torch.Tensor | None) -> None:
    alpha, targets = 0.3, torch.tensor([2, 3, 1, 0])  # 3: background
    losses = mmcv.ops.sigmoid_focal_loss(LOGITS, targets, gamma, alpha, weight, "none")
    for row, target in enumerate(targets.tolist()):
        factor = 1.0 if weight is None or target == 3 else float(weight[target])
        for column in range(3):
            p = 1 / (1 + math.exp(-float(LOGITS[row, column])))
            p, balance = (p, alpha) if column == target else (1 - p, 1 - alpha)
            assert float(losses[row, column]) == pytest.approx(-factor * balance * (1 - p) ** gamma * math.log(p))
    for reduction in ("none", "mean", "sum"):
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: mmcv.ops.sigmoid_focal_loss(x, targets, gamma, alpha, weight, r),
            LOGITS.clone().requires_grad_(),
            fast_mode=True,
        )


def test_sigmoid_focal_loss_of_hopeless_logits_is_finite() -> None:
    logits = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = mmcv.ops.sigmoid_focal_loss(logits, torch.tensor([0]), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_losses_of_nothing() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    losses = mmcv.ops.sigmoid_focal_loss(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum")
    losses.backward()
    assert losses.item() == 0
    assert logits.grad.shape == (0, 3)
