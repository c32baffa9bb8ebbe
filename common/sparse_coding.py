"""Sparse coding: the LASSO, its iterative solvers, and the step that unrolled networks and recurrent attention share.

A dictionary ``P`` (a column an atom) gives signals ``v`` (a column a signal) the codes ``u`` (a column a code) that
minimise

    F(u) = 1/2 ||v - P u||^2 + lambda ||u||_1                                                                (LASSO)
    u <- S_{lambda s}(u - s P^T (P u - v)) = S_{lambda s}((I - s P^T P) u + s P^T v)                          (ISTA)

with the soft threshold ``S_a(x) = sign(x) max(|x| - a, 0)`` and a step size ``s``. For ``s <= 1 / L``, with L the
largest eigenvalue of ``P^T P``, F never rises and ``F(u_k) - F* <= L ||u_0 - u*||^2 / (2 k)``; FISTA, which steps from
an extrapolated code, has ``F(u_k) - F* <= 2 L ||u_0 - u*||^2 / (k + 1)^2`` (A. Beck and M. Teboulle, "A Fast Iterative
Shrinkage-Thresholding Algorithm for Linear Inverse Problems", SIAM J. Imaging Sci. 2, 2009, theorems 3.1 and 4.4).

Whatever a learned network makes of ISTA (LISTA's matrices), its layer is the right form: a shrunk affine map of the
code, :func:`shrunk_affine`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from common.errors import UserError


def soft_threshold(x: Tensor, threshold: Tensor | float, out: Tensor | None = None) -> Tensor:
    """``sign(x) max(|x| - threshold, 0)``, the proximal map of ``threshold ||x||_1``.

    Args:
        x: any shape.
        threshold: non-negative; a number or a tensor that broadcasts against ``x``.
        out: where to write the result (without gradient).
    """
    # x less its clipped self: two passes over memory.
    clipped = x.clamp(-threshold, threshold)  # type: ignore[arg-type]  # both numbers or both tensors
    return torch.sub(x, clipped, out=out)


def shrunk_affine(source: Tensor, transition: Tensor, code: Tensor, threshold: Tensor | float) -> tuple[Tensor, Tensor]:
    """One step: ``state = code @ transition^T + source`` and the shrunk state, both returned.

    Codes are rows here, for which products are faster. With ``source = s v^T P``, ``transition = I - s P^T P`` and
    ``threshold = lambda s`` it is a step of ISTA.

    Args:
        source: (d, m), or (n, d, m) for n problems; d signals each.
        transition: (m, m) or (n, m, m).
        code: as ``source``.
        threshold: broadcasts against ``source``.
    """
    state = (code @ transition.mT).add_(source)  # faster than baddbmm
    return state, soft_threshold(state, threshold)


def lipschitz(dictionary: Tensor) -> float:
    """L, the largest eigenvalue of ``P^T P`` of a dictionary (N, m), which bounds the step size by 1 / L."""
    return float(torch.linalg.matrix_norm(dictionary, ord=2)) ** 2


def lasso(dictionary: Tensor, signals: Tensor, codes: Tensor, sparsity: Tensor | float) -> Tensor:
    """F of each column: dictionary (..., N, m), signals (..., N, d), codes (..., m, d) -> (..., d)."""
    error = (signals - dictionary @ codes).square().sum(dim=-2)
    return 0.5 * error + sparsity * codes.abs().sum(dim=-2)


def duality_gap(dictionary: Tensor, signals: Tensor, codes: Tensor, sparsity: float) -> Tensor:
    """An upper bound of ``F(u) - F*`` for each column, from the residual scaled to a feasible point of the dual.

    The dual maximises ``1/2 ||v||^2 - 1/2 ||v - r||^2`` over ``||P^T r||_inf <= lambda``.
    """
    residual = signals - dictionary @ codes
    largest = (dictionary.mT @ residual).abs().amax(dim=-2, keepdim=True)
    feasible = residual * (sparsity / largest.clamp_min(sparsity))
    dual = 0.5 * (signals.square() - (signals - feasible).square()).sum(dim=-2)
    return lasso(dictionary, signals, codes, sparsity) - dual


def ista(
    dictionary: Tensor, signals: Tensor, sparsity: float, *, step: Tensor | float | None = None,
    start: Tensor | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """The codes after 1, 2, ... steps of ISTA, without end.

    Args:
        dictionary: P, (..., N, m).
        signals: v, (..., N, d).
        sparsity: lambda, positive.
        step: s; None: 1 / L. A tensor broadcasts against the codes.
        start: u_0, (..., m, d); None: zero, from where the first step takes one product with ``P^T`` only.
    """
    step = 1 / lipschitz(dictionary) if step is None else step
    code = start
    while True:
        code = _proximal_step(dictionary, signals, code, step, sparsity)
        yield code


def fista(
    dictionary: Tensor, signals: Tensor, sparsity: float, *, step: float | None = None, restart: bool = False
) -> Iterator[Tensor]:
    """The codes after 1, 2, ... steps of FISTA from zero, without end.

    Args:
        dictionary, signals, sparsity: as of :func:`ista`.
        step: s; None: 1 / L.
        restart: drop the momentum of a signal whenever it points uphill (B. O'Donoghue and E. Candes, "Adaptive
            Restart for Accelerated Gradient Schemes", Found. Comput. Math. 15, 2015), which is faster near the end.
    """
    step = 1 / lipschitz(dictionary) if step is None else step
    before = _proximal_step(dictionary, signals, None, step, sparsity)
    yield before
    extrapolated, momentum = before, torch.ones_like(before[..., :1, :])
    while True:
        code = _proximal_step(dictionary, signals, extrapolated, step, sparsity)
        yield code
        change = code - before
        if restart:
            uphill = ((extrapolated - code) * change).sum(dim=-2, keepdim=True) > 0
            momentum = torch.where(uphill, 1.0, momentum)
        following = (1 + torch.sqrt(1 + 4 * momentum.square())) / 2
        extrapolated = code + (momentum - 1) / following * change
        before, momentum = code, following


def solve(
    dictionary: Tensor, signals: Tensor, sparsity: float, *, tolerance: float = 1e-10, most_steps: int = 20_000
) -> Tensor:
    """Minimisers of the LASSO, (m, d), certified by the duality gap.

    Args:
        dictionary: P, (N, m).
        signals: v, (N, d), none of them zero.
        sparsity: lambda.
        tolerance: largest duality gap of a signal, as a share of its ``1/2 ||v||^2``.
        most_steps: of FISTA with restarts.

    Raises:
        UserError: the gap is larger after ``most_steps``.
    """
    scale = 0.5 * signals.square().sum(dim=-2)
    gap = math.inf
    for done, code in zip(count(1), fista(dictionary, signals, sparsity, restart=True), strict=False):
        if done % 20 == 0 or done == most_steps:
            gap = float((duality_gap(dictionary, signals, code, sparsity) / scale).max())
            if gap <= tolerance:
                return code
        if done == most_steps:
            break
    raise UserError(
        f"The LASSO is solved to {gap:.1e} only after {most_steps} steps; allow more steps, or a tolerance above "
        f"{tolerance:.1e}."
    )


def _proximal_step(
    dictionary: Tensor, signals: Tensor, code: Tensor | None, step: Tensor | float, sparsity: float
) -> Tensor:
    if code is None:
        return soft_threshold(step * (dictionary.mT @ signals), sparsity * step)
    downhill = dictionary.mT @ (signals - dictionary @ code)
    return soft_threshold(code + step * downhill, sparsity * step)
