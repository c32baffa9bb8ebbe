"""The dynamics of VARS-D and VARS-SD in few passes over memory, and their gradient, written out.

Codes are rows here, (n, d, m) for n problems of d channels and m templates, for which products are faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from common.sparse_coding import soft_threshold
from papers.vars.attention import Dynamics, Shrinkage
from papers.vars.fast.lateral import Lateral, dot


def _shrink_into(out: Tensor | None, x: Tensor, threshold: Tensor, shrinkage: Shrinkage) -> Tensor:
    """:func:`papers.vars.attention.shrink` in few passes, without gradient; ``out`` may be ``x``."""
    if shrinkage == "gelu":
        sign = x.sign()
        size = (x.abs_() if out is x else x.abs()).sub_(threshold)
        return torch.mul(torch.ops.aten.gelu_(size), sign, out=out)
    # A number takes one pass, but reading it would wait for another device.
    if threshold.numel() == 1 and x.device.type == "cpu":
        return torch.ops.aten.softshrink.out(
            x, max(float(threshold), 0), out=torch.empty_like(x) if out is None else out
        )
    return soft_threshold(x, threshold, out)


def _unshrink_into(
    out: Tensor, gradient: Tensor, x: Tensor, code: Tensor, threshold: Tensor, shrinkage: Shrinkage
) -> Tensor:
    """The gradient of ``x``, given that of ``code``, to which ``x`` was shrunk."""
    if shrinkage == "gelu":
        return torch.ops.aten.gelu_backward.grad_input(gradient, x.abs().sub_(threshold), grad_input=out)
    # It passes where the code is not zero.
    return torch.ops.aten.softshrink_backward.grad_input(gradient, code, 0, grad_input=out)


def code_unit(step: Tensor, shrinkage: Shrinkage) -> Tensor | float:
    """The unit c in which the dynamics count codes: the step for soft shrinkage, which commutes with it."""
    return step if shrinkage == "soft" else 1.0


def iterate(
    lateral: Lateral, drive: Tensor, sparsity: Tensor, dynamics: Dynamics, keep: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The dynamics of n problems with m templates and d channels each, a row a code; without gradient.

    With ``u - s (X u - d) = (I - s X) u + s d`` and codes ``u = c w`` in units of c, see :func:`code_unit`,

        w_0 = S_lambda(d) / c,   w_{t+1} = S_{lambda s / c}((I - s X) w_t + (s / c) d).

    Args:
        lateral: X and s.
        drive: v^T P, (n, d, m).
        sparsity: lambda, (1,).
        dynamics: which.
        keep: (T, n, d, m) for w_0 to w_{T-1}, if these are to be kept.

    Yields:
        What was shrunk to w_t, and w_t, each (n, d, m), for t from 0 to T. Where nothing is kept, the former holds the
        latter from t = 1 on.
    """
    steps, shrinkage, from_zero = dynamics
    soft, step = shrinkage == "soft", lateral.step
    source, threshold = (drive, sparsity) if soft else (step * drive, sparsity * step)
    places = [None] * (steps + 1) if keep is None else [*keep, None]
    if from_zero:
        code = torch.zeros_like(drive) if places[0] is None else places[0].zero_()
    else:
        code = _shrink_into(places[0], drive, sparsity, shrinkage)
        if soft:
            code /= step
    yield drive, code
    for t, place in enumerate(places[1:]):
        state = lateral.forward(code, t).add_(source)
        code = _shrink_into(state if keep is None else place, state, threshold, shrinkage)
        yield state, code


class Descent(NamedTuple):
    """What is left of the dynamics for their gradient."""

    drive: Tensor  # (n, d, m)
    codes: Tensor  # w_0 to w_{T-1}, (n, T, d, m): the steps of a problem one below the other
    last: Tensor  # w_T, (n, d, m)
    states: tuple[Tensor, ...]  # what was shrunk to w_1 to w_T, unless w_t itself shows it


def descend(lateral: Lateral, drive: Tensor, sparsity: Tensor, dynamics: Dynamics) -> Descent:
    """:func:`iterate` to the end, and what :func:`differentiate` needs of it."""
    n, d, m = drive.shape
    codes, states = drive.new_empty(n, dynamics.steps, d, m), []
    for state, code in iterate(lateral, drive, sparsity, dynamics, codes.transpose(0, 1)):  # noqa: B007 (the last)
        if dynamics.shrinkage != "soft":
            states.append(state)
    return Descent(drive, codes, code, tuple(states[1:]))


def differentiate(
    gradient: Tensor, lateral: Lateral, descent: Descent, sparsity: Tensor, dynamics: Dynamics
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of X (in its form), d, s and lambda, from that of u_T; ``lateral`` is fresh."""
    (drive, codes, last, states), step = descent, lateral.step
    steps, shrinkage, from_zero = dynamics
    soft, unit = shrinkage == "soft", code_unit(step, shrinkage)
    threshold = sparsity * step / unit
    d_unit = dot(gradient, last)
    gradient = gradient * unit
    gradients, signs = torch.empty_like(codes), torch.empty_like(codes)
    reached = [*codes.unbind(1)[1:], last]
    for t in range(steps - 1, -1, -1):
        here, state = gradients[:, t], reached[t] if soft else states[t]
        _unshrink_into(here, gradient, state, reached[t], threshold, shrinkage)
        torch.sign(state, out=signs[:, t])
        gradient = lateral.backward(here, t)
    d_source, d_threshold = gradients.sum(dim=1), dot(gradients, signs).neg_()
    d_connections, d_step = lateral.gradients(codes, gradients)
    if soft:
        d_drive, d_sparsity = d_source, d_threshold.sum()
        d_step += d_unit
    else:
        d_drive, d_sparsity = step * d_source, (d_threshold * step).sum()
        d_step += dot(d_source, drive) + sparsity * d_threshold
    if not from_zero:
        if soft:
            d_step -= dot(gradient, codes[:, 0]) / step
            gradient /= step
        gradient = _unshrink_into(torch.empty_like(drive), gradient, drive, codes[:, 0], sparsity, shrinkage)
        d_sparsity = d_sparsity - dot(gradient, drive.sign()).sum()
        d_drive = gradient.add_(d_drive)
    return d_connections, d_drive, d_step, d_sparsity.expand_as(sparsity)
