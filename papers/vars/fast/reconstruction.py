"""Sparse reconstruction of values from templates, ``P u_T``, with its backward pass written out.

The backward pass of the whole meets each large tensor few times: of P (N, m), autograd would form one gradient for each
of its uses, and add them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from papers.vars.attention import Dynamics
from papers.vars.fast.descent import Descent, code_unit, descend, differentiate, iterate
from papers.vars.fast.lateral import Lateral
from papers.vars.precision import plain_backward


def step_size(row_sums: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor | None]:
    """The step size s and, where it follows from the templates, ``s / scale``.

    Args:
        row_sums: ``sum_j |P^T P|_ij``, (n, m).
        scale: the learned factor, (1,), of ``1 / (max_i sum_j |P^T P|_ij + 1)``; or s itself, a number. Not 0, which
            would be no dynamics: codes are counted in units of s, and I - s X takes the place of X.
    """
    if isinstance(scale, float):
        return row_sums.new_full((1, 1, 1), scale), None
    inverse = (row_sums.amax(dim=-1)[:, None, None] + 1).reciprocal_()
    return scale * inverse, inverse


class _Reconstruction(torch.autograd.Function):
    """:func:`reconstruct` with gradient."""

    @staticmethod
    def forward(
        ctx: Any, templates: Tensor, value: Tensor, static: Tensor | None, weights: Tensor, scale: Tensor | float,
        sparsity: Tensor, dynamics: Dynamics, form: type[Lateral],
    ) -> Tensor:  # fmt: skip
        connections, row_sums, parts = form.connect(templates, static, weights)
        step, inverse = step_size(row_sums, scale)
        drive = value.mT @ templates
        lateral = form(connections, step, form.memory(drive, value.shape[1], dynamics.steps))
        drive, codes, last, states = descend(lateral, drive, sparsity, dynamics)
        code = last * code_unit(step, dynamics.shrinkage)
        ctx.save_for_backward(
            templates, value, static, weights, sparsity, step, inverse, lateral.kept, drive, codes, last, *states,
            *parts,
        )  # fmt: skip
        ctx.dynamics, ctx.form, ctx.states = dynamics, form, len(states)
        return templates @ code.mT

    @staticmethod
    @plain_backward
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        templates, value, static, weights, sparsity, step, inverse, kept, *rest = ctx.saved_tensors
        drive, codes, last, *rest = rest
        states, parts = tuple(rest[: ctx.states]), tuple(rest[ctx.states :])
        lateral = ctx.form.restored(parts, step, kept)
        descent, code = Descent(drive, codes, last, states), last * code_unit(step, ctx.dynamics.shrinkage)
        d_connections, d_drive, d_step, d_sparsity = differentiate(
            gradient.mT @ templates, lateral, descent, sparsity, ctx.dynamics
        )
        # Of the two products in which P stands alone, v^T P and P u, the gradients of P are one product.
        d_templates = torch.cat([value, gradient], dim=-1) @ torch.cat([d_drive, code], dim=-2)
        d_value = templates @ d_drive.mT
        d_static, d_weights = ctx.form.disconnect(d_connections, parts, templates, static, weights, d_templates)
        d_scale = None if inverse is None else (d_step * inverse).sum().view(1)
        return d_templates, d_value, d_static, d_weights, d_scale, d_sparsity, None, None


def reconstruct(
    templates: Tensor,
    value: Tensor,
    static: Tensor | None,
    weights: Tensor,
    scale: Tensor | float,
    sparsity: Tensor,
    dynamics: Dynamics,
    form: type[Lateral],
) -> Tensor:
    """``P u_T``, (n, N, d), after the dynamics of :func:`papers.vars.fast.descent.iterate`; differentiable (once).

    Args:
        templates: P, (n, N, m).
        value: v, (n, N, d).
        static: the last columns of P where they are the same for all images of a head, (h, N, k).
        weights: K, (m, m).
        scale: of the step size, see :func:`step_size`.
        sparsity: lambda, (1,).
        dynamics: which.
        form: in which the lateral connections are computed.
    """
    if torch.is_grad_enabled():
        return _Reconstruction.apply(templates, value, static, weights, scale, sparsity, dynamics, form)
    connections, row_sums, _ = form.connect(templates, static, weights)
    step, _ = step_size(row_sums, scale)
    lateral = form(connections, step)
    for _, code in iterate(lateral, value.mT @ templates, sparsity, dynamics):  # noqa: B007 (the last)
        pass
    return templates @ (code * code_unit(step, dynamics.shrinkage)).mT
