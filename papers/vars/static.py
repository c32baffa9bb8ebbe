"""The module of VARS-S: sparse reconstruction from learned, convolutional templates.

Equations: papers/vars/attention.py, :func:`papers.vars.attention.vars_s`. Names of parameters are the released ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from common.errors import UserError
from common.linear import Linear
from papers.rvt.layers import TokenBatchNorm
from papers.vars import fast
from papers.vars.attention import (
    SHRINKAGES,
    Convolutions,
    Dynamics,
    Grid,
    Shrinkage,
    Trajectory,
    objective,
    to_maps,
    token_energy,
    vars_s,
)
from papers.vars.fast import static as fast_static
from papers.vars.fast.fourier import FourierTransform
from papers.vars.kernelized import refuse_masks
from papers.vars.precision import without_autocast


@register_notrace_module
class VARSStatic(nn.Module):
    """VARS-S: sparse reconstruction from learned convolutional templates: (B, N, C) -> (B, N, C).

    Equations: :func:`papers.vars.attention.vars_s`. The output passes a batch norm and a projection, as released.
    Kernels are normalised at construction. ``L`` is refreshed by :meth:`on_optimizer_step`, which the training loop
    calls.

    Args:
        dim: C.
        num_heads: accepted for uniformity; every channel is a group of its own.
        qkv_bias: whether the projection to v has a bias.
        proj_bias: whether the output projection has one.
        attn_drop: must be 0; there is no attention map to drop.
        proj_drop: dropout of the output.
        grid: (H, W), the grid of tokens; templates are tied to it.
        num_prefix_tokens: must be 0; a class token has no place on the grid.
        num_maps: J.
        steps: T.
        sparsity: lambda.
        shrinkage: ``soft`` (published and released) or ``gelu``.
        lipschitz: what L estimates: ``exact``: the largest eigenvalue of the lateral connections; ``released``: that of
            their spectra's real part, which is between half of it and all of it, so that steps are up to twice as
            long (the objective still falls, as it does for any step below 2 / L).
        refresh_every: optimizer steps between updates of L.
        momentum: weight of the new value in an update of L.
    """

    #: State that a released file may lack.
    derived: ClassVar[tuple[str, ...]] = ("L", "kernel_norm")

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        *,
        grid: Grid,
        num_prefix_tokens: int = 0,
        num_maps: int = 5,
        steps: int = 3,
        sparsity: float = 3.5,
        shrinkage: Shrinkage = "soft",
        lipschitz: Literal["released", "exact"] = "released",
        refresh_every: int = 100,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if attn_drop > 0:
            raise UserError("VARS never forms an attention map; use attn_drop_rate=0 (proj_drop_rate works).")
        if num_prefix_tokens:
            raise UserError("VARS-S convolves over the grid of tokens, where a class token has no place; leave it out.")
        if shrinkage not in SHRINKAGES:
            raise UserError(f"shrinkage is {shrinkage!r}; it can be {' or '.join(SHRINKAGES)}.")
        height, width = grid
        self.grid, self.num_maps = (height, width), num_maps
        self.steps, self.sparsity, self.shrinkage = steps, sparsity, shrinkage
        self.bound = lipschitz
        self.refresh_every, self.momentum = refresh_every, momentum
        self.fourier = FourierTransform((height, width))
        half = width // 2 + 1
        # Spectra of k and k2 with real and imaginary part last: (channel, map, 1, H, W // 2 + 1, 2), as released.
        self.kernel = nn.Parameter(torch.randn(dim, num_maps, 1, height, half, 2) * 0.06)
        self.kernel2 = nn.Parameter(torch.randn(dim, 1, 1, height, half, 2) * 0.02)
        # Frozen parameters, not buffers: the release counts them among the parameters. kernel_norm is not used.
        self.L = nn.Parameter(torch.ones(dim), requires_grad=False)
        self.kernel_norm = nn.Parameter(torch.ones(()), requires_grad=False)
        self.normalize_kernels()
        self.recompute_derived()
        self.v = Linear(dim, dim, bias=qkv_bias)
        self.norm = TokenBatchNorm(dim)
        self.proj = Linear(dim, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)

    @torch.no_grad()
    def _kernel_norms(self) -> Tensor:
        """Norm of each kernel, ``sqrt(2 / (H W) sum_f |k^|^2)``: (C, J)."""
        return self.kernel.square().sum(dim=(2, 3, 4, 5)).mul(2 / (self.grid[0] * self.grid[1])).sqrt()

    @torch.no_grad()
    def normalize_kernels(self) -> None:
        """Give every kernel unit norm; done once, at construction."""
        self.kernel.div_(self._kernel_norms()[:, :, None, None, None, None])

    @torch.no_grad()
    def lipschitz(self) -> Tensor:
        """The step's bound of every channel, (C,): see the argument ``lipschitz`` of the class.

        At each frequency ``k^ k^^H`` has rank one, with eigenvalue ``sum_j |k^_j|^2``; its real part has rank two, with
        the eigenvalues of the 2x2 Gram matrix of ``Re k^`` and ``Im k^``.
        """
        real, imag = self.kernel.squeeze(2).unbind(-1)
        real_norm, imag_norm = real.square().sum(dim=1), imag.square().sum(dim=1)
        if self.bound == "exact":
            eigenvalue = real_norm + imag_norm
        else:
            product = (real * imag).sum(dim=1)
            half_gap = 0.5 * (real_norm - imag_norm)
            eigenvalue = 0.5 * (real_norm + imag_norm) + torch.hypot(half_gap, product)
        return eigenvalue.amax(dim=(-2, -1))

    @torch.no_grad()
    def update_lipschitz(self, momentum: float) -> None:
        """Move ``L`` towards :meth:`lipschitz`; ``momentum`` 1 sets it."""
        self.L.lerp_(self.lipschitz().to(self.L.dtype), momentum)

    def on_optimizer_step(self, step: int) -> None:
        """Refresh ``L``, every ``refresh_every`` optimizer steps; ``step`` counts them from 0."""
        if step % self.refresh_every == 0:
            self.update_lipschitz(self.momentum)

    @torch.no_grad()
    def recompute_derived(self) -> None:
        """Set ``L`` and ``kernel_norm`` from the kernels."""
        self.update_lipschitz(1.0)
        self.kernel_norm.copy_(self._kernel_norms().mean())

    def _input(self, x: Tensor) -> Tensor:
        """v, (B, N, C), in float32 at least: half precision has too few bits for the transforms."""
        height, width = self.grid
        if x.shape[1] != height * width:
            raise UserError(
                f"VARS-S has learned templates of {height}x{width} tokens and got {x.shape[1]} tokens; build the "
                f"model with img_size=<the size you use>."
            )
        v = self.v(x)
        return v.float() if v.dtype in (torch.float16, torch.bfloat16) else v

    def _spectra(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """k^ (C, J, H, W // 2 + 1) and k2^ (C, H, W // 2 + 1) as complex numbers with parts of this precision."""
        kernel, readout = (torch.view_as_complex(k.to(dtype).squeeze(2)) for k in (self.kernel, self.kernel2))
        return kernel, readout.squeeze(1)

    def _codes(self, v: Tensor, steps: int) -> tuple[Convolutions, Iterator[Tensor]]:
        """The templates, and the codes (B, C, J, H, W) of maps v (B, C, H, W) after 0 to ``steps`` steps."""
        templates = Convolutions(self._spectra(v.dtype)[0], self.grid)
        return templates, templates.codes(v, self.L.to(v.dtype), self.sparsity, Dynamics(steps, self.shrinkage))

    def trajectory(self, x: Tensor, steps: int | None = None) -> Trajectory:
        """The dynamics on tokens ``x`` (B, N, C), for ``steps`` steps (None: as many as forward does).

        Returns:
            Codes (T + 1, B, C, J, N) and objectives (T + 1, B, C).
        """
        v = to_maps(self._input(x), self.grid)
        templates, found = self._codes(v, self.steps if steps is None else steps)
        codes = list(found)
        lateral = torch.stack([templates.lateral(code) for code in codes])
        code, gram_code, drive = (part.flatten(-2) for part in (torch.stack(codes), lateral, templates.drive(v)))
        energy = v.square().sum(dim=(-2, -1))
        return Trajectory(code, objective(code, gram_code, drive, energy, self.sparsity))

    def _reconstruct(self, v: Tensor) -> Tensor:
        """The reconstruction of v, filtered with k2, (B, N, C)."""
        if self.shrinkage == "soft" and fast.allowed():
            settings = self.steps, self.sparsity, self.fourier
            return fast_static.reconstruct(v, self.kernel, self.kernel2, self.L, *settings)
        dynamics = Dynamics(self.steps, self.shrinkage)
        return vars_s(v, *self._spectra(v.dtype), self.L.to(v.dtype), self.sparsity, dynamics, self.grid)

    def attention_map(self, x: Tensor) -> Tensor:
        """The share of the reconstruction's energy on each token: (B, N, C) -> (B, 1, N), summing to 1."""
        templates, (*_, code) = self._codes(to_maps(self._input(x), self.grid), self.steps)
        return token_energy(templates.maps(templates.analysis(code)).flatten(-2).mT).unsqueeze(1)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; ``x`` has shape (B, N, C). Masks are refused."""
        refuse_masks(attn_mask, is_causal)
        v = self._input(x)
        with without_autocast(x):
            x = self._reconstruct(v)
        return self.proj_drop(self.proj(self.norm(x.to(self.proj.weight.dtype))))
