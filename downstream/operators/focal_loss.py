"""Focal loss (Lin et al., arXiv 1708.02002, equation 5), of independent sigmoids or of a softmax.

Targets are class numbers ``(N,)``; with sigmoids, the number of classes stands for background. Weights, if any, are one
a class, by the target's class; background weighs 1.
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


@widened
def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write ``-alpha (1 - p)^gamma log(p)`` of the target's probability into ``output``, ``(N,)``.

    Args:
        input: probabilities, ``(N, C)``.
        target: ``(N,)``; where it is negative, the loss is 0.
        weight: ``(C,)``, or empty.
        output: receives the losses.
        gamma: the focus; 0 is cross-entropy.
        alpha: factor.
    """
    right, factor = _of_target(input, target, weight, alpha)
    output.copy_(-factor * (1 - right) ** gamma * right.log().clamp_min(LEAST_LOG))


@widened
def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivatives of `softmax_focal_loss_forward` by the logits into ``grad_input``, ``(N, C)``.

    ``buff``, ``(N,)``, receives the derivatives by the logarithm of the target's probability.
    """
    right, factor = _of_target(input, target, weight, alpha)
    log = right.log().clamp_min(LEAST_LOG)
    wrong = 1 - right
    # At probability 1 and gamma < 1 the power is infinite, its product with the logarithm 0.
    slope = torch.where(wrong > 0, gamma * wrong ** (gamma - 1) * right * log, 0) if gamma else 0
    buff.copy_(factor * (slope - wrong**gamma))
    one_hot = target[:, None] == torch.arange(input.shape[1], device=input.device)
    grad_input.copy_(widen(buff)[:, None] * (one_hot.to(widen(input)) - widen(input)))


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


def _of_target(input: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return the probabilities of the targets, and the factors of their losses (0 where there is no target)."""
    known = target.clamp_min(0)
    right = widen(input).gather(1, known[:, None])[:, 0]
    factor = alpha * (target >= 0).to(right)
    return right, factor * widen(weight)[known] if weight.numel() else factor
