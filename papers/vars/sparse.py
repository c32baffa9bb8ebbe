"""Sparse reconstruction: shrinkage, objective, trajectory; shared by all VARS modules.

The attractor dynamics of VARS (Shi et al., ICML 2022, arXiv 2204.10962) are iterative shrinkage-thresholding on the
LASSO

    E(u) = 1/2 ||v - P u||^2 + lambda ||u||_1                                                             (objective)
    u_0 = S_lambda(P^T v),    u_{t+1} = S_{lambda s}(u_t - s (P^T P u_t - P^T v))                         (dynamics)

with templates ``P`` (a column a template), input ``v``, code ``u``, step size ``s`` and soft threshold
``S_a(x) = sign(x) max(|x| - a, 0)``. The output is the reconstruction ``P u``. For ``s <= 1 / ||P^T P||`` the objective
never rises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Shrinkage = Literal["soft", "gelu"]
SHRINKAGES: tuple[Shrinkage, ...] = ("soft", "gelu")


class Trajectory(NamedTuple):
    """The dynamics, step by step.

    Attributes:
        codes: (T + 1, B, ...): the code ``u`` after 0 to T steps, 0 being the initial one.
        objective: (T + 1, B, ...): the objective of each code, per image and head (VARS-S: per image and channel).
    """

    codes: Tensor
    objective: Tensor


def shrink(x: Tensor, threshold: Tensor | float, shrinkage: Shrinkage) -> Tensor:
    """Shrink ``x`` towards zero.

    ``soft`` is the publication's threshold, ``sign(x) max(|x| - threshold, 0)``; ``gelu`` the form released for
    VARS-D and VARS-SD, ``sign(x) GELU(|x| - threshold)``, which is smooth but leaves values below the threshold
    non-zero. ``threshold`` is a number or broadcasts against ``x``.
    """
    if shrinkage == "gelu":
        return F.gelu(x.abs() - threshold) * x.sign()
    if isinstance(threshold, Tensor):
        return x.sign() * F.relu(x.abs() - threshold)
    return F.softshrink(x, threshold)


def _shrink_into(out: Tensor | None, x: Tensor, threshold: Tensor, shrinkage: Shrinkage) -> Tensor:
    """:func:`shrink` for thresholds that are not negative, in few passes and without gradient."""
    if shrinkage == "soft":
        return torch.sub(x, x.clamp(-threshold, threshold), out=out)
    return torch.mul(F.gelu(x.abs().sub_(threshold)), x.sign(), out=out)


def _unshrink_into(
    out: Tensor | None, gradient: Tensor, x: Tensor, code: Tensor, threshold: Tensor, shrinkage: Shrinkage
) -> Tensor:
    """The gradient of ``x``, given that of ``code``, to which ``x`` was shrunk."""
    out = torch.empty_like(gradient) if out is None else out
    if shrinkage == "soft":  # it passes where the code is not zero
        return torch.ops.aten.softshrink_backward.grad_input(gradient, code, 0, grad_input=out)
    return torch.ops.aten.gelu_backward.grad_input(gradient, x.abs().sub_(threshold), grad_input=out)


def transition_matrix(gram: Tensor, step: Tensor) -> Tensor:
    """``I - s G``, (n, m, m), of G (n, m, m); not differentiable."""
    result = gram.detach() * -step.detach()
    result.diagonal(dim1=-2, dim2=-1).add_(1)
    return result


def iterate(
    transition: Tensor,
    drive: Tensor,
    step: Tensor,
    sparsity: Tensor,
    steps: int,
    shrinkage: Shrinkage,
    from_zero: bool,
    keep: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The dynamics of n problems with m templates and d channels each.

    Args:
        transition: ``I - s G``, (n, m, m).
        drive: P^T v, (n, m, d).
        step: s, (n, 1, 1) or (1, 1, 1).
        sparsity: lambda, (1,).
        steps: T.
        shrinkage: see :func:`shrink`.
        from_zero: whether u_0 is zero instead of ``S_lambda(P^T v)``.
        keep: (T, n, m, d) for u_0 to u_{T-1}, if these are to be kept.

    Yields:
        What was shrunk to u_t, and u_t, each (n, m, d), for t from 0 to T.
    """
    # u - s (G u - d) = (I - s G) u + s d, with matrix and vector formed once.
    source, threshold = step * drive, sparsity * step
    places = [None] * (steps + 1) if keep is None else [*keep, None]
    if from_zero:
        state, code = drive, torch.zeros_like(drive) if places[0] is None else places[0].zero_()
    else:
        state, code = drive, _shrink_into(places[0], drive, sparsity, shrinkage)
    yield state, code
    for place in places[1:]:
        state = torch.baddbmm(source, transition, code)
        code = _shrink_into(place, state, threshold, shrinkage)
        yield state, code


class _FinalCode(torch.autograd.Function):
    """u_T of :func:`iterate`, with a backward pass that makes few passes over few tensors."""

    @staticmethod
    def forward(
        ctx: Any, gram: Tensor, drive: Tensor, step: Tensor, sparsity: Tensor, steps: int, shrinkage: Shrinkage,
        from_zero: bool,
    ) -> Tensor:  # fmt: skip
        transition = transition_matrix(gram, step)
        n, m, d = drive.shape
        # The steps of a problem beside each other, so that sums over steps are products of matrices.
        codes = drive.new_empty(n, m, steps, d)
        found = iterate(transition, drive, step, sparsity, steps, shrinkage, from_zero, codes.movedim(2, 0))
        states = []
        for state, code in found:  # noqa: B007 (the last)
            if shrinkage != "soft":
                states.append(state)
        ctx.save_for_backward(gram, drive, step, sparsity, transition, codes, code, *states[1:])
        ctx.shrinkage, ctx.from_zero = shrinkage, from_zero
        return code

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gram, drive, step, sparsity, transition, codes, last, *states = ctx.saved_tensors
        steps, soft = codes.shape[2], ctx.shrinkage == "soft"

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a.reshape(len(a), 1, -1) @ b.reshape(len(b), -1, 1)).view(-1, 1, 1)

        threshold = sparsity * step
        gradients, signs = torch.empty_like(codes), torch.empty_like(codes)
        reached = [*codes.unbind(2)[1:], last]
        for t in range(steps - 1, -1, -1):
            here, state = gradients[:, :, t], reached[t] if soft else states[t]
            _unshrink_into(here, gradient, state, reached[t], threshold, ctx.shrinkage)
            torch.sign(state, out=signs[:, :, t])
            gradient = transition.mT @ here
        d_source, d_threshold = gradients.sum(dim=2), dot(gradients, signs).neg_()
        d_transition = gradients.flatten(2) @ codes.flatten(2).mT
        d_drive, d_sparsity = step * d_source, (d_threshold * step).sum()
        if not ctx.from_zero:
            gradient = _unshrink_into(None, gradient, drive, codes[:, :, 0], sparsity, ctx.shrinkage)
            d_drive += gradient
            d_sparsity -= dot(gradient, drive.sign()).sum()
        # The transition is I - s G.
        d_step = dot(d_source, drive) - dot(d_transition, gram) + sparsity * d_threshold
        d_gram = d_transition.mul_(-step)
        return d_gram, d_drive, d_step.sum_to_size(step.shape), d_sparsity.expand_as(sparsity), None, None, None


def final_code(
    gram: Tensor, drive: Tensor, step: Tensor, sparsity: Tensor, steps: int, shrinkage: Shrinkage, from_zero: bool
) -> Tensor:
    """The last u_t of :func:`iterate`, (n, m, d), of G (n, m, m); differentiable (once) in the first four arguments."""
    if torch.is_grad_enabled():
        return _FinalCode.apply(gram, drive, step, sparsity, steps, shrinkage, from_zero)
    transition = transition_matrix(gram, step)
    for _, code in iterate(transition, drive, step, sparsity, steps, shrinkage, from_zero):  # noqa: B007
        pass
    return code


def objective(code: Tensor, gram_code: Tensor, drive: Tensor, energy: Tensor, sparsity: Tensor | float) -> Tensor:
    """``1/2 u^T G u - u^T d + 1/2 ||v||^2 + lambda ||u||_1`` over the last two dimensions.

    It is the objective of the module's docstring where ``G = P^T P`` and ``d = P^T v``, and remains what the dynamics
    minimise where ``G`` is another symmetric matrix (learned lateral connections).

    Args:
        code: u, (..., m, d).
        gram_code: G u, the shape of ``code``.
        drive: P^T v, the shape of ``code``.
        energy: ||v||^2, (...).
        sparsity: lambda.
    """
    quadratic = (code * (0.5 * gram_code - drive)).sum(dim=(-2, -1))
    return quadratic + 0.5 * energy + sparsity * code.abs().sum(dim=(-2, -1))


def token_energy(x: Tensor) -> Tensor:
    """The share of squared norm that each token holds: (..., N, d) -> (..., N), non-negative, summing to 1."""
    energy = x.square().sum(dim=-1)
    return energy / energy.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(energy.dtype).tiny)
