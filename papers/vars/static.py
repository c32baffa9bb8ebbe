"""VARS-S: attention as sparse reconstruction from learned, convolutional templates.

Every channel c of v is a map of H x W tokens and is reconstructed from J maps by circular convolution with learned
kernels k_1 .. k_J, which are parametrised by their spectra (a hat marks spectra; products are per frequency):

    d_j = F^-1[k^_j v^]                                                     drive
    u_0 = S_lambda(d),  u_{t+1} = S_{lambda / L}(u_t - (G u_t - d) / L)     dynamics, T steps
    (G u)_i = F^-1[k^_i sum_j conj(k^_j) u^_j]                              lateral connections
    out = F^-1[k2^ sum_j conj(k^_j) u^_j]                                   reconstruction, then a learned filter k2

with L a running estimate of the largest eigenvalue of G, ``max_f sum_j |k^_j(f)|^2``.

How it is computed. The dynamics are carried out for ``L u``, whose threshold is lambda itself. Per frequency G has
rank one, so a step is ``u^_i += k^_i (v^ - sum_j conj(k^_j) u^_j / L)`` between one transform of the J maps and one
inverse; the last step needs no inverse of J maps at all. Tokens stay in the (B, N, C) layout in which they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from common.errors import UserError
from papers.rvt.model import TokenBatchNorm
from papers.vars.fourier import FourierTransform
from papers.vars.kernelized import Grid, refuse_masks
from papers.vars.sparse import SHRINKAGES, Shrinkage, Trajectory, objective, shrink, token_energy


class VARSStatic(nn.Module):
    """VARS-S: sparse reconstruction from learned convolutional templates: (B, N, C) -> (B, N, C).

    Equations: the module's docstring. The output passes a batch norm and a projection, as released. Kernels are
    normalised at construction. ``L`` is refreshed by :meth:`on_optimizer_step`, which the training loop calls.

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
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.norm = TokenBatchNorm(dim)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)
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

    def _kernels(self) -> tuple[Tensor, Tensor]:
        """Real and signed imaginary part of the kernels' spectra, to multiply spectra (B, 2, H, W', J, C) with.

        The product with a spectrum s is ``real * s + imag * flip(s)``: (H, W', J, C) and (2, H, W', J, C).
        """
        real, imag = self.kernel.squeeze(2).permute(4, 2, 3, 1, 0).contiguous().unbind(0)
        return real, torch.stack([-imag, imag])

    def _synthesize(self, kernels: tuple[Tensor, Tensor], s: Tensor, onto: Tensor | None = None) -> Tensor:
        """J spectra ``k^_j s``, added to the spectra ``onto``; s is (B, 2, H, W', C)."""
        real, imag = kernels
        s = s.unsqueeze(-2)
        onto = real * s if onto is None else torch.addcmul(onto, real, s)
        return torch.addcmul(onto, imag, s.flip(1))

    def _analyze(self, kernels: tuple[Tensor, Tensor], s: Tensor) -> Tensor:
        """``sum_j conj(k^_j) s_j``, (B, 2, H, W', C), of J spectra."""
        real, imag = kernels
        return (real * s).sum(dim=-2) + (imag * s).sum(dim=-2).flip(1)

    def _transform(self, x: Tensor) -> Tensor:
        """Spectra (B, 2, H, W', J, C) of J maps (B, N, J, C)."""
        return self.fourier(x.flatten(2)).unflatten(-1, (self.num_maps, -1))

    def _inverse(self, s: Tensor) -> Tensor:
        """J maps (B, N, J, C) of spectra (B, 2, H, W', J, C)."""
        return self.fourier.inverse(s.flatten(-2)).unflatten(-1, (self.num_maps, -1))

    def _shrink_scaled(self, x: Tensor) -> Tensor:
        """``L S_{lambda / L}(x / L)``, which for the soft threshold is ``S_lambda(x)``."""
        if self.shrinkage == "soft":
            return shrink(x, self.sparsity, "soft")
        return self.L * shrink(x / self.L, self.sparsity / self.L, self.shrinkage)

    def _dynamics(self, v: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, for the code after 0 to ``steps`` steps, ``L u`` (B, N, J, C) and ``sum_j conj(k^_j) u^_j``."""
        kernels = self._kernels()
        target = self.fourier(v)
        scaled = self.L * shrink(self._inverse(self._synthesize(kernels, target)), self.sparsity, self.shrinkage)
        for step in range(steps + 1):
            spectra = self._transform(scaled)
            analysis = self._analyze(kernels, spectra) / self.L
            yield scaled, analysis
            if step < steps:
                spectra = self._synthesize(kernels, target - analysis, onto=spectra)
                scaled = self._shrink_scaled(self._inverse(spectra))

    def trajectory(self, x: Tensor, steps: int | None = None) -> Trajectory:
        """The dynamics on tokens ``x`` (B, N, C), for ``steps`` steps (None: as many as forward does).

        Returns:
            Codes (T + 1, B, C, J, N) and objectives (T + 1, B, C).
        """

        def by_channel(maps: Tensor) -> Tensor:
            return maps.permute(0, 3, 2, 1)

        v = self._input(x)
        kernels = self._kernels()
        drive = by_channel(self._inverse(self._synthesize(kernels, self.fourier(v))))
        energy = v.square().sum(dim=1)
        codes, objectives = [], []
        for scaled, analysis in self._dynamics(v, self.steps if steps is None else steps):
            code = by_channel(scaled / self.L)
            gram_code = by_channel(self._inverse(self._synthesize(kernels, analysis)))
            codes.append(code)
            objectives.append(objective(code, gram_code, drive, energy, self.sparsity))
        return Trajectory(torch.stack(codes), torch.stack(objectives))

    def _reconstruct(self, v: Tensor) -> Tensor:
        """The reconstruction of v, (B, N, C)."""
        *_, (_, analysis) = self._dynamics(v, self.steps)
        return self.fourier.inverse(analysis)

    def attention_map(self, x: Tensor) -> Tensor:
        """The share of the reconstruction's energy on each token: (B, N, C) -> (B, 1, N), summing to 1."""
        return token_energy(self._reconstruct(self._input(x))).unsqueeze(1)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; ``x`` has shape (B, N, C). Masks are refused."""
        refuse_masks(attn_mask, is_causal)
        v = self._input(x)
        with torch.autocast(x.device.type, enabled=False):
            spectrum = self.fourier(self._reconstruct(v))
            real, imag = self.kernel2[:, 0, 0].permute(3, 1, 2, 0).unbind(0)
            x = self.fourier.inverse(real * spectrum + torch.stack([-imag, imag]) * spectrum.flip(1))
        return self.proj_drop(self.proj(self.norm(x)))
