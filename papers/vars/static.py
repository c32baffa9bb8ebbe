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
inverse; the last step needs no inverse of J maps at all. Tokens stay in the (B, N, C) layout in which they come. On a
CPU with a C compiler it is computed by static_compiled.py; here it is written for every device and precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.linear import Linear
from papers.rvt.layers import TokenBatchNorm
from papers.vars import static_compiled
from papers.vars.fourier import FourierTransform
from papers.vars.kernelized import Grid, refuse_masks
from papers.vars.precision import plain_backward, without_autocast
from papers.vars.sparse import SHRINKAGES, Shrinkage, Trajectory, objective, shrink, token_energy

Kernels = tuple[Tensor, Tensor]
"""Spectra k^_1 .. k^_J in two parts, real (J, 1, 1, H, W', c) and, with the sign that it has in the product with the
real and with the imaginary part of a spectrum, imaginary (J, 1, 2, H, W', c): ``k^ s = real * s + imag * flip(s)``."""


def synthesize(kernels: Kernels, s: Tensor, onto: Tensor | None = None) -> Tensor:
    """J spectra ``k^_j s``, (J, B, 2, H, W', c), added to the spectra ``onto``; s is (B, 2, H, W', c)."""
    real, imag = kernels
    onto = real * s if onto is None else torch.addcmul(onto, real, s)
    return onto.addcmul_(imag, s.flip(1))


def analyze(kernels: Kernels, s: Tensor) -> Tensor:
    """``sum_j conj(k^_j) s_j``, (B, 2, H, W', c), of J spectra (J, B, 2, H, W', c)."""
    real, imag = kernels
    direct, crossed = real[0] * s[0], imag[0] * s[0]
    for real_j, imag_j, s_j in zip(real[1:], imag[1:], s[1:], strict=True):
        direct.addcmul_(real_j, s_j)
        crossed.addcmul_(imag_j, s_j)
    return direct.add_(crossed.flip(1))


class _SoftAnalysis(torch.autograd.Function):
    """``sum_j conj(k^_j) u^_j`` after the dynamics with soft shrinkage, differentiable (once) in v^ and the kernels.

    What autograd would do, without its temporaries of J spectra each: sums over maps and over images are accumulated.
    """

    @staticmethod
    def forward(
        ctx: Any, target: Tensor, real: Tensor, imag: Tensor, drive: Tensor, bound: Tensor, sparsity: float,
        steps: int, fourier: FourierTransform,
    ) -> Tensor:  # fmt: skip
        kernels, maps = (real, imag), len(real)
        scaled = bound * F.softshrink(drive, sparsity)
        spectra, residuals, codes = [], [], []
        for step in range(steps + 1):
            codes.append(scaled)
            spectra.append(fourier(scaled.flatten(0, 1)).unflatten(0, (maps, -1)))
            analysis = analyze(kernels, spectra[-1]).div_(bound)
            if step < steps:
                residuals.append(target - analysis)
                change = synthesize(kernels, residuals[-1], onto=spectra[-1])
                scaled = F.softshrink(fourier.inverse(change.flatten(0, 1)).unflatten(0, (maps, -1)), sparsity)
        ctx.save_for_backward(target, real, imag, bound, *spectra, *residuals, *codes)
        ctx.steps, ctx.fourier = steps, fourier
        return analysis

    @staticmethod
    @plain_backward
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        target, real, imag, bound, *rest = ctx.saved_tensors
        steps, fourier, kernels, maps = ctx.steps, ctx.fourier, (real, imag), len(real)
        spectra, residuals, codes = rest[: steps + 1], rest[steps + 1 : 2 * steps + 1], rest[2 * steps + 1 :]
        # Images are summed over at the end: products that are added to are one pass, sums would be two more each time.
        direct, crossed = torch.zeros_like(spectra[0]), torch.zeros_like(spectra[0])

        def accumulate(s: Tensor, factor: Tensor) -> None:
            """Add the gradient of the kernels, ``s_j conj(factor)`` for every image, in parts."""
            direct.addcmul_(s, factor)
            crossed.addcmul_(s, factor.flip(1))

        d_target, d_spectra = torch.zeros_like(target), None
        for step in range(steps, -1, -1):
            gradient = gradient / bound
            accumulate(spectra[step], gradient)
            d_spectra = synthesize(kernels, gradient, onto=d_spectra)
            d_scaled = fourier.adjoint(d_spectra.flatten(0, 1)).unflatten(0, (maps, -1))
            # Zero where the code is. (As fast as any pass over memory; masked_fill_ is not.)
            d_scaled = torch.ops.aten.softshrink_backward(d_scaled, codes[step], 0)
            if step == 0:  # the first code is L S(d) rather than S(...)
                d_scaled *= bound
            d_spectra = fourier.inverse_adjoint(d_scaled.flatten(0, 1)).unflatten(0, (maps, -1))
            accumulate(d_spectra, residuals[step - 1] if step else target)
            gradient = analyze(kernels, d_spectra)
            d_target += gradient
            gradient = gradient.neg_()
        d_real, d_imag = direct.sum(dim=(1, 2), keepdim=True), crossed.sum(dim=1, keepdim=True)
        return d_target, d_real, d_imag, None, None, None, None, None


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

    #: Values of v that are carried through the dynamics together on a CPU, as a multiple of so many channels.
    values_per_group: ClassVar[int] = 100_000
    channels_per_group: ClassVar[int] = 32
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

    def _group_size(self, v: Tensor) -> int:
        images, tokens, channels = v.shape
        if v.device.type != "cpu" or torch.jit.is_tracing():
            return channels
        multiple = self.values_per_group // max(1, images * tokens * self.channels_per_group)
        return self.channels_per_group * max(1, multiple)

    def _groups(self, v: Tensor) -> Iterator[tuple[Tensor, Kernels, Tensor]]:
        """Split v and the parameters into groups of channels: v (B, N, c), kernels, L (c,).

        Channels do not interact, and all that the dynamics need of a group stays in the processor's cache, which is
        worth a factor on a CPU; other devices take all channels at once.
        """
        size = self._group_size(v)
        kernels, bounds = self.kernel.to(v.dtype).split(size), self.L.to(v.dtype).split(size)
        for part, kernel, bound in zip(v.split(size, -1), kernels, bounds, strict=True):
            # (c, J, 1, H, W', 2) to (2, J, 1, 1, H, W', c)
            real, imag = kernel.permute(5, 1, 2, 3, 4, 0).unsqueeze(2).contiguous().unbind(0)
            yield part.contiguous(), (real, torch.cat([-imag, imag], dim=2)), bound

    def _transform(self, x: Tensor) -> Tensor:
        """Spectra (J, B, 2, H, W', c) of J maps (J, B, N, c)."""
        return self.fourier(x.flatten(0, 1)).unflatten(0, (self.num_maps, -1))

    def _inverse(self, s: Tensor) -> Tensor:
        """J maps (J, B, N, c) of spectra (J, B, 2, H, W', c)."""
        return self.fourier.inverse(s.flatten(0, 1)).unflatten(0, (self.num_maps, -1))

    def _dynamics(
        self, target: Tensor, drive: Tensor, kernels: Kernels, bound: Tensor, steps: int
    ) -> Iterator[Kernels]:
        """Yield, for the code after 0 to ``steps`` steps, ``L u`` (J, B, N, c) and ``sum_j conj(k^_j) u^_j``.

        ``target`` is the spectrum of v, ``drive`` d (J, B, N, c).
        """
        scaled = bound * shrink(drive, self.sparsity, self.shrinkage)
        for step in range(steps + 1):
            spectra = self._transform(scaled)
            analysis = analyze(kernels, spectra) / bound
            yield scaled, analysis
            if step < steps:
                scaled = self._inverse(synthesize(kernels, target - analysis, onto=spectra))
                if self.shrinkage == "soft":  # L S_{lambda / L}(x / L) = S_lambda(x)
                    scaled = shrink(scaled, self.sparsity, "soft")
                else:
                    scaled = bound * shrink(scaled / bound, self.sparsity / bound, self.shrinkage)

    def trajectory(self, x: Tensor, steps: int | None = None) -> Trajectory:
        """The dynamics on tokens ``x`` (B, N, C), for ``steps`` steps (None: as many as forward does).

        Returns:
            Codes (T + 1, B, C, J, N) and objectives (T + 1, B, C).
        """
        steps = self.steps if steps is None else steps
        groups = [self._trajectory(*group, steps) for group in self._groups(self._input(x))]
        return Trajectory(*(torch.cat(part, dim=2) for part in zip(*groups, strict=True)))

    def _trajectory(self, v: Tensor, kernels: Kernels, bound: Tensor, steps: int) -> Trajectory:
        def by_channel(maps: Tensor) -> Tensor:
            return maps.permute(1, 3, 0, 2)

        target = self.fourier(v)
        drive = self._inverse(synthesize(kernels, target))
        energy = v.square().sum(dim=1)
        codes, objectives = [], []
        for scaled, analysis in self._dynamics(target, drive, kernels, bound, steps):
            code = by_channel(scaled / bound)
            gram_code = by_channel(self._inverse(synthesize(kernels, analysis)))
            codes.append(code)
            objectives.append(objective(code, gram_code, by_channel(drive), energy, self.sparsity))
        return Trajectory(torch.stack(codes), torch.stack(objectives))

    def _spectrum(self, v: Tensor) -> Tensor:
        """The spectrum of the reconstruction of v, (B, 2, H, W', C), with what no real map has."""
        found = []
        for part, kernels, bound in self._groups(v):
            target = self.fourier(part)
            # The backward pass of soft shrinkage is written out and starts from the spectra.
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.shrinkage != "soft"):
                drive = self._inverse(synthesize(kernels, target))
            found.append(self._analysis(target, kernels, drive, bound))
        return torch.cat(found, dim=-1)

    def _analysis(self, target: Tensor, kernels: Kernels, drive: Tensor, bound: Tensor) -> Tensor:
        """``sum_j conj(k^_j) u^_j``, (B, 2, H, W', c), after the last step."""
        if torch.is_grad_enabled() and self.shrinkage == "soft":
            return _SoftAnalysis.apply(target, *kernels, drive, bound, self.sparsity, self.steps, self.fourier)
        *_, (_, analysis) = self._dynamics(target, drive, kernels, bound, self.steps)
        return analysis

    def _reconstruct(self, v: Tensor) -> Tensor:
        """The reconstruction of v, filtered with k2, (B, N, C)."""
        if static_compiled.serves(v, self.shrinkage):
            parameters = (part.to(v.dtype) for part in (self.kernel, self.kernel2, self.L))
            return static_compiled.reconstruct(v, *parameters, self.grid, self.steps, self.sparsity)
        spectrum = self.fourier.real_part(self._spectrum(v))
        real, imag = self.kernel2[:, 0, 0].to(v.dtype).permute(3, 1, 2, 0).unbind(0)
        return self.fourier.inverse(real * spectrum + torch.stack([-imag, imag]) * spectrum.flip(1))

    def attention_map(self, x: Tensor) -> Tensor:
        """The share of the reconstruction's energy on each token: (B, N, C) -> (B, 1, N), summing to 1."""
        return token_energy(self.fourier.inverse(self._spectrum(self._input(x)))).unsqueeze(1)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; ``x`` has shape (B, N, C). Masks are refused."""
        refuse_masks(attn_mask, is_causal)
        v = self._input(x)
        with without_autocast(x):
            x = self._reconstruct(v)
        return self.proj_drop(self.proj(self.norm(x.to(self.proj.weight.dtype))))
