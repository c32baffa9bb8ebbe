"""VARS-D and VARS-SD, from queries and values to the reconstruction, with their gradient written out.

Equations: papers/vars/attention.py. Factors of the features that are the same for all tokens, ``1 / sqrt(m)`` and
``exp(-||q||^2 / 2)``, cancel in the normalisation over tokens and are left out. On a CPU with a C compiler all of it is
computed by dynamic_compiled.py; here it is written for every device and precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from papers.vars.attention import Dynamics
from papers.vars.fast import dynamic_compiled
from papers.vars.fast import reconstruction as in_torch
from papers.vars.fast.lateral import fewer_operations
from papers.vars.precision import plain_backward


def _exponentials(q: Tensor, projection: Tensor, static: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """P of :class:`_Templates`, the unit vectors (h, B N, d) and the inverse norms (B, N, h, 1) of q."""
    (batch, tokens, heads, _), own = q.shape, projection.shape[-1]
    inverse = q.square().sum(dim=-1, keepdim=True).sqrt_().clamp_min_(1e-12).reciprocal_()
    unit = (q * inverse).permute(2, 0, 1, 3).flatten(1, 2)  # without a copy
    dynamic = (unit @ projection).exp_().unflatten(1, (batch, tokens))
    norm = dynamic.square().sum(dim=-2, keepdim=True).sqrt_()  # several times as fast as vector_norm
    if static is None:
        return dynamic.div_(norm), unit, inverse
    templates = q.new_empty(heads, batch, tokens, own + static.shape[-1])
    torch.div(dynamic, norm, out=templates[..., :own])
    templates[..., own:] = static.unsqueeze(1)
    return templates, unit, inverse


class _Templates(torch.autograd.Function):
    """P (h, B, N, m) of q (B, N, h, d): unit exponentials of the projected unit vectors, then static columns (h, N, k).

    One function, for the sake of fewer passes over tensors of P's size. ``projection`` (h, d, m - k) has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, projection: Tensor, static: Tensor | None) -> Tensor:
        templates, unit, inverse = _exponentials(q, projection, static)
        ctx.save_for_backward(unit, inverse, projection, templates)
        return templates

    @staticmethod
    @plain_backward
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        unit, inverse, projection, templates = ctx.saved_tensors
        own = projection.shape[-1]
        dynamic, d_static = templates[..., :own], None
        if ctx.needs_input_grad[2]:
            d_static = gradient[..., own:].sum(dim=1)
        # Like a softmax, a unit exponential is its own derivative's factor.
        product = gradient[..., :own] * dynamic
        product.addcmul_(dynamic, dynamic * product.sum(dim=-2, keepdim=True), value=-1)
        d_unit = product.flatten(1, 2) @ projection.mT
        d_unit.addcmul_(unit, (unit * d_unit).sum(dim=-1, keepdim=True), value=-1)
        d_q = d_unit.view(*templates.shape[:3], -1).permute(1, 2, 0, 3) * inverse
        return d_q, None, d_static


def reconstruct(
    qv: Tensor, projection: Tensor, static: Tensor | None, weights: Tensor, scale: Tensor | float, sparsity: Tensor,
    dynamics: Dynamics,
) -> Tensor:  # fmt: skip
    """The reconstruction P u_T of VARS-D and VARS-SD, (B, N, C); differentiable (once).

    Args:
        qv: q and v, (B, N, 2 C).
        projection: of each head, (h, d, m - k); has no gradient.
        static: templates of unit norm, (h, N, k), or None for k = 0.
        weights: K, (m, m).
        scale: of the step size, see :func:`papers.vars.fast.reconstruction.step_size`.
        sparsity: lambda, (1,).
        dynamics: which; at least one step.
    """
    (heads, channels, _), tokens = projection.shape, qv.shape[1]
    form = fewer_operations(tokens, len(weights), channels, dynamics.steps)
    if dynamic_compiled.serves(qv, weights):
        return dynamic_compiled.reconstruct(qv, projection, static, weights, scale, sparsity, dynamics, form)
    q, v = qv.unflatten(2, (2, heads, -1)).unbind(2)
    if torch.is_grad_enabled():
        templates = _Templates.apply(q, projection, static)
    else:
        templates = _exponentials(q, projection, static)[0]
    value = v.permute(2, 0, 1, 3).contiguous()
    x = in_torch.reconstruct(
        templates.flatten(0, 1), value.flatten(0, 1), static, weights, scale, sparsity, dynamics, form
    )
    return x.view_as(value).permute(1, 2, 0, 3).flatten(2)
