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

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
