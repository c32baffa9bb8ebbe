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

from collections.abc import Callable, Iterator
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


#: What a shrinkage does to ``|x| - threshold``, and the product of its derivative there with a gradient.
_ACTIVATIONS: dict[Shrinkage, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "soft": (F.relu, lambda gradient, x: torch.ops.aten.threshold_backward(gradient, x, 0)),
    "gelu": (F.gelu, torch.ops.aten.gelu_backward),
}


def transition_matrix(gram: Tensor, step: Tensor) -> Tensor:
    """``I - s G``, (n, m, m), of G (m, n, m): row, problem, column; not differentiable."""
    result = gram.new_empty(gram.shape[1], len(gram), len(gram))
    torch.mul(gram.detach().transpose(0, 1), -step.detach(), out=result).diagonal(dim1=-2, dim2=-1).add_(1)
    return result


def iterate(
    transition: Tensor, drive: Tensor, step: Tensor, sparsity: Tensor, steps: int, shrinkage: Shrinkage, from_zero: bool
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

    Yields:
        What was shrunk to u_t, and u_t, each (n, m, d), for t from 0 to T.
    """
    # u - s (G u - d) = (I - s G) u + s d, with matrix and vector formed once.
    source, threshold = step * drive, sparsity * step
    activation, _ = _ACTIVATIONS[shrinkage]

    def shrunk(x: Tensor, threshold: Tensor) -> Tensor:
        return activation(x.abs().sub_(threshold)).mul_(x.sign())

    state, code = drive, torch.zeros_like(drive) if from_zero else shrunk(drive, sparsity)
    yield state, code
    for _ in range(steps):
        state = torch.baddbmm(source, transition, code)
        code = shrunk(state, threshold)
        yield state, code


class _FinalCode(torch.autograd.Function):
    """u_T of :func:`iterate`, with a backward pass that keeps two tensors a step and makes few passes over them."""

    @staticmethod
    def forward(
        ctx: Any, gram: Tensor, drive: Tensor, step: Tensor, sparsity: Tensor, steps: int, shrinkage: Shrinkage,
        from_zero: bool,
    ) -> Tensor:  # fmt: skip
        transition = transition_matrix(gram, step)
        states, codes = zip(*iterate(transition, drive, step, sparsity, steps, shrinkage, from_zero), strict=True)
        ctx.save_for_backward(gram, drive, step, sparsity, transition, *codes[:-1], *states[1:])
        ctx.shrinkage, ctx.from_zero = shrinkage, from_zero
        return codes[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gram, drive, step, sparsity, transition, *rest = ctx.saved_tensors
        steps = len(rest) // 2
        codes, states = rest[:steps], rest[steps:]
        _, derivative = _ACTIVATIONS[ctx.shrinkage]

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a.reshape(len(a), 1, -1) @ b.reshape(len(b), -1, 1)).view(-1, 1, 1)

        def unshrunk(gradient: Tensor, x: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
            """The gradients of what was shrunk and of the threshold, the latter (n, 1, 1)."""
            gradient = derivative(gradient, x.abs().sub_(threshold))
            return gradient, dot(gradient, x.sign()).neg_()

        threshold = sparsity * step
        d_transition, d_source = torch.zeros_like(transition), torch.zeros_like(drive)
        d_threshold = drive.new_zeros(len(drive), 1, 1)
        for code, state in zip(reversed(codes), reversed(states), strict=True):
            gradient, along_threshold = unshrunk(gradient.contiguous(), state, threshold)
            d_threshold += along_threshold
            d_source += gradient
            d_transition.baddbmm_(gradient, code.transpose(1, 2))
            gradient = transition.transpose(1, 2) @ gradient
        d_drive, d_sparsity = step * d_source, (d_threshold * step).sum()
        if not ctx.from_zero:
            gradient, along_threshold = unshrunk(gradient.contiguous(), drive, sparsity)
            d_drive += gradient
            d_sparsity += along_threshold.sum()
        # The transition is I - s G.
        d_gram = torch.mul(d_transition.transpose(0, 1), -step.transpose(0, 1), out=torch.empty_like(gram))
        along_gram = (d_transition * gram.transpose(0, 1)).sum(dim=(1, 2), keepdim=True)
        d_step = dot(d_source, drive) - along_gram + sparsity * d_threshold
        return d_gram, d_drive, d_step.sum_to_size(step.shape), d_sparsity.expand_as(sparsity), None, None, None


def final_code(
    gram: Tensor, drive: Tensor, step: Tensor, sparsity: Tensor, steps: int, shrinkage: Shrinkage, from_zero: bool
) -> Tensor:
    """The last u_t of :func:`iterate`, (n, m, d), of G (m, n, m); differentiable (once) in the first four arguments."""
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
