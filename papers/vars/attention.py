"""Attention as sparse reconstruction: self-attention, VARS-S, VARS-D and VARS-SD, equation by equation.

Shi et al., "Visual Attention Emerges from Recurrent Sparse Reconstruction", ICML 2022, arXiv 2204.10962. Attention is
what a recurrent network comes to rest at: a code u with which templates P reconstruct the input v from few of them,

    E(u) = 1/2 ||v - P u||^2 + lambda ||u||_1                                                             (objective)
    u_0 = S_lambda(P^T v),   u_{t+1} = S_{lambda s}(u_t - s (G u_t - P^T v)),   G = P^T P                  (dynamics)
    out = P u_T                                                                                      (reconstruction)

with the soft threshold S and a step size s; for ``s <= 1 / ||G||`` the objective never rises. The attentions differ in
their templates: learned and convolutional (VARS-S), random features of the input (VARS-D), or the latter with learned
ones beside them (VARS-SD). In VARS-D and VARS-SD learned weights K turn the lateral connections G into K G K.
Self-attention is the case of one step from zero without sparsity.

This module is the definition: plain torch that autograd differentiates, for every device and precision. It is what is
exported and traced. Training takes the forms of :mod:`papers.vars.fast`, which tests hold to these functions.

Axes of tensors, in this order:

    B  images        h  heads of d = C / h channels        N  tokens; on a grid they are H * W, row by row
    C  channels      J  templates of a channel             m  templates of a head
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.sparse_coding import soft_threshold

Grid = tuple[int, int]
Shrinkage = Literal["soft", "gelu"]
SHRINKAGES: tuple[Shrinkage, ...] = ("soft", "gelu")


class Dynamics(NamedTuple):
    """Which dynamics.

    Attributes:
        steps: T.
        shrinkage: see :func:`shrink`.
        from_zero: whether u_0 is zero instead of ``S_lambda(P^T v)``.
    """

    steps: int
    shrinkage: Shrinkage = "soft"
    from_zero: bool = False


class Trajectory(NamedTuple):
    """The dynamics, step by step.

    Attributes:
        codes: (T + 1, B, ...): the code ``u`` after 0 to T steps, 0 being the initial one.
        objective: (T + 1, B, ...): the objective of each code, per image and head (VARS-S: per image and channel).
    """

    codes: Tensor
    objective: Tensor


def shrink(x: Tensor, threshold: Tensor | float, shrinkage: Shrinkage = "soft") -> Tensor:
    """``S_threshold(x)``: shrink ``x`` towards zero.

    ``soft`` is the publication's threshold, ``sign(x) max(|x| - threshold, 0)``; ``gelu`` the form released for
    VARS-D and VARS-SD, ``sign(x) GELU(|x| - threshold)``, which is smooth but leaves values below the threshold
    non-zero. ``threshold`` is not negative, a number or broadcasts against ``x``.
    """
    if shrinkage == "gelu":
        return F.gelu(x.abs() - threshold) * x.sign()
    return soft_threshold(x, threshold)


def codes(
    drive: Tensor, lateral: Callable[[Tensor], Tensor], step: Tensor | float, sparsity: Tensor | float,
    dynamics: Dynamics,
) -> Iterator[Tensor]:  # fmt: skip
    """u_0, ..., u_T: the dynamics of every VARS.

    Args:
        drive: ``P^T v``.
        lateral: ``G u`` of a code u, of the drive's shape.
        step: s, broadcasts against the drive.
        sparsity: lambda.
        dynamics: which.
    """
    code = torch.zeros_like(drive) if dynamics.from_zero else shrink(drive, sparsity, dynamics.shrinkage)
    yield code
    for _ in range(dynamics.steps):
        code = shrink(code - step * (lateral(code) - drive), sparsity * step, dynamics.shrinkage)
        yield code


# -- Templates that depend on the input: self-attention, VARS-D, VARS-SD -----------------------------------------------


def random_features(x: Tensor, projection: Tensor) -> Tensor:
    """Positive random features, ``phi(x) = exp(W^T x - ||x||^2 / 2) / sqrt(m)``: (..., N, d) -> (..., N, m).

    With W (..., d, m) standard normal, ``E[phi(q)^T phi(k)] = exp(q^T k)``: attention's kernel (Choromanski et al.,
    "Rethinking Attention with Performers", ICLR 2021, lemma 1).
    """
    scale = projection.shape[-1] ** -0.5
    return torch.exp(x @ projection - 0.5 * x.square().sum(dim=-1, keepdim=True)) * scale


def features(q: Tensor, projection: Tensor) -> Tensor:
    """Templates P (B, h, N, m): random features of the unit vectors of q (B, h, N, d); W is (h, d, m)."""
    return random_features(F.normalize(q, dim=-1), projection)


def unit(templates: Tensor) -> Tensor:
    """Templates (..., N, m), each of unit norm over the tokens."""
    return templates / templates.square().sum(dim=-2, keepdim=True).sqrt()


def beside(dynamic: Tensor, static: Tensor) -> Tensor:
    """Templates (B, h, N, m) of each image, then those that are the same for all, (h, N, k): (B, h, N, m + k)."""
    return torch.cat([dynamic, static.expand(dynamic.shape[0], -1, -1, -1)], dim=-1)


def step_size(templates: Tensor, scale: Tensor | float) -> Tensor:
    """``s = scale / (max_i sum_j |P^T P|_ij + 1)``, (..., 1, 1): a bound of ``||P^T P||``, taken without gradient.

    The dynamics descend while the learned scale is at most 1 and K the identity.
    """
    gram = templates.mT @ templates
    return scale / (gram.detach().abs().sum(dim=-1).amax(dim=-1)[..., None, None] + 1)


def codes_of(
    templates: Tensor, v: Tensor, weights: Tensor, step: Tensor | float, sparsity: Tensor | float, dynamics: Dynamics
) -> Iterator[Tensor]:
    """The codes u_t (B, h, m, d) of v (B, h, N, d) in templates P (B, h, N, m), with K (m, m)."""
    lateral = weights @ (templates.mT @ templates) @ weights
    return codes(templates.mT @ v, lambda code: lateral @ code, step, sparsity, dynamics)


def reconstruct(
    templates: Tensor, v: Tensor, weights: Tensor, step: Tensor | float, sparsity: Tensor | float, dynamics: Dynamics
) -> Tensor:
    """``P u_T``, (B, h, N, d); arguments as of :func:`codes_of`."""
    *_, code = codes_of(templates, v, weights, step, sparsity, dynamics)
    return templates @ code


def self_attention(q: Tensor, v: Tensor, projection: Tensor) -> Tensor:
    """Self-attention with k = q, as VARS of one step from zero, step size 1, no sparsity and K the identity.

    Then u_1 = P^T v, and ``P P^T v`` with rows of ``P P^T`` summing to 1 is kernelised self-attention, which tends to
    softmax attention as the number of random features grows. Unlike VARS's, templates have their own norms.

    Args:
        q, v: (B, h, N, d).
        projection: W, (h, d, m).
    """
    templates, one_step = features(q, projection), Dynamics(steps=1, from_zero=True)
    *_, code = codes(templates.mT @ v, lambda u: templates.mT @ (templates @ u), 1.0, 0.0, one_step)
    return (templates @ code) / (templates @ templates.sum(dim=-2).unsqueeze(-1))


def vars_d(
    q: Tensor, v: Tensor, projection: Tensor, weights: Tensor, scale: Tensor, sparsity: Tensor, dynamics: Dynamics
) -> Tensor:
    """VARS-D, (B, h, N, d): templates are random features of the input.

    Args:
        q, v: (B, h, N, d); q is k, too.
        projection: W, (h, d, m), standard normal, not learned.
        weights: K, (m, m), learned, the identity at first.
        scale: of the step size, (1,), learned.
        sparsity: lambda, (1,).
        dynamics: which.
    """
    templates = unit(features(q, projection))
    return reconstruct(templates, v, weights, step_size(templates, scale), sparsity, dynamics)


def vars_sd(
    q: Tensor, v: Tensor, projection: Tensor, kernel: Tensor, weights: Tensor, scale: Tensor, sparsity: Tensor,
    dynamics: Dynamics,
) -> Tensor:  # fmt: skip
    """VARS-SD, (B, h, N, d): VARS-D with learned templates ``kernel`` (h, N, k) beside the dynamic ones."""
    templates = beside(unit(features(q, projection)), unit(kernel))
    return reconstruct(templates, v, weights, step_size(templates, scale), sparsity, dynamics)


# -- Convolutional templates: VARS-S -----------------------------------------------------------------------------------


class Convolutions:
    """The templates of VARS-S: circular convolution of each channel's map with kernels k_1 .. k_J, given by spectra.

        (P^T v)_j = F^-1[k^_j v^],    P u = F^-1[sum_j conj(k^_j) u^_j],    G u = F^-1[k^ sum_j conj(k^_j) u^_j]

    A hat marks spectra of ``torch.fft.rfft2`` with ``norm="ortho"``; products are per frequency.

    Args:
        kernel: k^, complex, (C, J, H, W // 2 + 1).
        grid: (H, W).
    """

    def __init__(self, kernel: Tensor, grid: Grid) -> None:
        self.kernel, self.grid = kernel, grid

    def spectra(self, maps: Tensor) -> Tensor:
        """Spectra (..., H, W // 2 + 1) of real maps (..., H, W)."""
        return torch.fft.rfft2(maps, norm="ortho")

    def maps(self, spectra: Tensor) -> Tensor:
        """Real maps of spectra."""
        return torch.fft.irfft2(spectra, s=self.grid, norm="ortho")

    def drive(self, v: Tensor) -> Tensor:
        """``P^T v``, (B, C, J, H, W), of maps v (B, C, H, W)."""
        return self.maps(self.kernel * self.spectra(v).unsqueeze(2))

    def analysis(self, code: Tensor) -> Tensor:
        """The spectrum of ``P u``, (B, C, H, W // 2 + 1)."""
        return (self.kernel.conj() * self.spectra(code)).sum(dim=2)

    def lateral(self, code: Tensor) -> Tensor:
        """``G u``, (B, C, J, H, W)."""
        return self.maps(self.kernel * self.analysis(code).unsqueeze(2))

    def codes(self, v: Tensor, bound: Tensor, sparsity: float, dynamics: Dynamics) -> Iterator[Tensor]:
        """The codes u_t, (B, C, J, H, W), with a step size of 1 / L for a bound L (C,) of G's eigenvalues."""
        return codes(self.drive(v), self.lateral, 1 / bound[:, None, None, None], sparsity, dynamics)


def to_maps(x: Tensor, grid: Grid) -> Tensor:
    """Tokens (B, N, C) as maps (B, C, H, W)."""
    return x.mT.unflatten(-1, grid)


def vars_s(
    v: Tensor, kernel: Tensor, readout: Tensor, bound: Tensor, sparsity: float, dynamics: Dynamics, grid: Grid
) -> Tensor:
    """VARS-S, (B, N, C): every channel is reconstructed by itself; the reconstruction passes a learned filter k2.

    Args:
        v: (B, N, C).
        kernel: k^ of k_1 .. k_J, complex, (C, J, H, W // 2 + 1).
        readout: k2^, complex, (C, H, W // 2 + 1).
        bound: L, (C,); the step size is 1 / L.
        sparsity: lambda.
        dynamics: which.
        grid: (H, W).
    """
    templates = Convolutions(kernel, grid)
    *_, code = templates.codes(to_maps(v, grid), bound, sparsity, dynamics)
    reconstruction = templates.maps(templates.analysis(code))
    return templates.maps(readout * templates.spectra(reconstruction)).flatten(-2).mT


# -- What can be said of a code ----------------------------------------------------------------------------------------


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
