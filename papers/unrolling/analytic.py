"""ALISTA's analytic weights: as little coherence with the dictionary as possible, without data.

J. Liu, X. Chen, Z. Wang and W. Yin, "ALISTA: Analytic Weights Are As Good As Learned Weights in LISTA", ICLR 2019: the
columns of W have ``w_i^T p_i = 1`` with their own atom and should have small products with all others. The smallest
``max_{i != j} |w_i^T p_j|`` is the dictionary's generalised mutual coherence; as there, the Frobenius norm of ``W^T P``
is minimised in its place.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor


def weights(dictionary: Tensor) -> Tensor:
    """The minimiser W (N, m) of ``||W^T P||_F`` under ``w_i^T p_i = 1``, for a dictionary P (N, m).

    Each column is a least-norm problem of its own, so ``w_i`` is ``(P P^T)^+ p_i`` up to scale; a projected gradient
    method, as in the publication, is not needed.
    """
    exact = dictionary.double()
    unscaled = torch.linalg.pinv(exact @ exact.T, hermitian=True) @ exact
    return (unscaled / (unscaled * exact).sum(dim=0)).to(dictionary.dtype)


def coherence(weight: Tensor, dictionary: Tensor) -> float:
    """``max_{i != j} |w_i^T p_j|`` of W and P, both (N, m); with ``W = P`` the mutual coherence of unit atoms."""
    products = (weight.T @ dictionary).abs()
    return float(products.fill_diagonal_(0).max())


def least_coherence(dictionary: Tensor, atom: int) -> float:
    """The smallest ``max_{j != i} |w^T p_j|`` of any w with ``w^T p_i = 1``, i = ``atom``: a linear programme.

    The largest over all atoms is the generalised mutual coherence of the dictionary.
    """
    P = dictionary.double().numpy()
    others = np.delete(P, atom, axis=1).T
    bound = np.ones((len(others), 1))
    solution = linprog(
        c=np.append(np.zeros(len(P)), 1.0),
        A_ub=np.block([[others, -bound], [-others, -bound]]),
        b_ub=np.zeros(2 * len(others)),
        A_eq=np.append(P[:, atom], 0.0)[None],
        b_eq=[1.0],
        bounds=[(None, None)] * len(P) + [(0, None)],
        method="highs",
    )
    if not solution.success:
        raise RuntimeError(f"the linear programme of atom {atom} was not solved: {solution.message}")
    return float(solution.fun)
