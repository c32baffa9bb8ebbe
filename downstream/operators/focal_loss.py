"""Focal loss (Lin et al., arXiv 1708.02002, equation 5) of independent sigmoids.

Targets are class numbers ``(N,)``; the number of classes stands for background. Weights, if any, are one a class, by
the target's class; background weighs 1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from downstream.operators.precision import widen, widened

#: Where mmcv cuts logarithms off: that of the smallest normal float32.
LEAST_LOG = math.log(torch.finfo(torch.float32).tiny)


@widened
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write ``-alpha_t (1 - p_t)^gamma log(p_t)`` of each class into ``output``, ``(N, C)``.

    Args:
        input: logits, ``(N, C)``.
        target: ``(N,)``, 0 to C.
        weight: ``(C,)``, or empty.
        output: receives the losses.
        gamma: the focus; 0 is cross-entropy.
        alpha: weight of a class against its absence, in [0, 1].
    """
    towards, factor, _ = _signed(input, target, weight, alpha)
    output.copy_(-factor * torch.sigmoid(-towards) ** gamma * F.logsigmoid(towards).clamp_min(LEAST_LOG))


@widened
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivatives of `sigmoid_focal_loss_forward` by the logits into ``grad_input``, ``(N, C)``."""
    towards, factor, sign = _signed(input, target, weight, alpha)
    wrong = torch.sigmoid(-towards)
    log = F.logsigmoid(towards).clamp_min(LEAST_LOG)
    grad_input.copy_(-sign * factor * wrong**gamma * (wrong - gamma * (1 - wrong) * log))


def _signed(input: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits of the truth (class present or absent), the factors of the losses, and the logits' signs."""
    logits = widen(input)
    classes = logits.shape[1]
    present = target[:, None] == torch.arange(classes, device=logits.device)
    sign = torch.where(present, 1.0, -1.0).to(logits.dtype)
    factor = torch.where(present, alpha, 1 - alpha).to(logits.dtype)
    if weight.numel():
        factor = factor * torch.cat([widen(weight), weight.new_ones(1)])[target][:, None]
    return sign * logits, factor, sign
