"""VARS-S from v to the filtered reconstruction, with its gradient written out.

Equations: papers/vars/attention.py. The dynamics are carried out for ``L u``, whose threshold is lambda itself. Per
frequency G has rank one, so a step is ``u^_i += k^_i (v^ - sum_j conj(k^_j) u^_j / L)`` between one transform of the J
maps and one inverse; the last step needs no inverse of J maps at all. Tokens stay in the (B, N, C) layout in which they
come. On a CPU with a C compiler it is computed by static_compiled.py; here it is written for every device and
precision, for soft shrinkage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from papers.vars.fast import static_compiled
from papers.vars.fast.fourier import FourierTransform
from papers.vars.precision import plain_backward

#: Values of v that are carried through the dynamics together on a CPU, as a multiple of so many channels.
_VALUES, _CHANNELS = 100_000, 32

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
        steps: int, fourier: FourierTransform, keep: bool,
    ) -> Tensor:  # fmt: skip
        kernels, maps = (real, imag), len(real)
        scaled = bound * F.softshrink(drive, sparsity)
        spectra, residuals, codes = [], [], []
        for step in range(steps + 1):
            here = fourier(scaled.flatten(0, 1)).unflatten(0, (maps, -1))
            analysis = analyze(kernels, here).div_(bound)
            if keep:
                codes.append(scaled)
                spectra.append(here)
            if step < steps:
                residual = target - analysis
                if keep:
                    residuals.append(residual)
                change = synthesize(kernels, residual, onto=here)
                scaled = F.softshrink(fourier.inverse(change.flatten(0, 1)).unflatten(0, (maps, -1)), sparsity)
        if keep:
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
        return d_target, d_real, d_imag, None, None, None, None, None, None


def _groups(v: Tensor, kernel: Tensor, bound: Tensor) -> Iterator[tuple[Tensor, Kernels, Tensor]]:
    """Split v and the parameters into groups of channels: v (B, N, c), kernels, L (c,).

    Channels do not interact, and all that the dynamics need of a group stays in the processor's cache, which is worth a
    factor on a CPU; other devices take all channels at once.
    """
    images, tokens, size = v.shape
    if v.device.type == "cpu":
        size = _CHANNELS * max(1, _VALUES // max(1, images * tokens * _CHANNELS))
    for part, k, some in zip(v.split(size, -1), kernel.split(size), bound.split(size), strict=True):
        # (c, J, 1, H, W', 2) to (2, J, 1, 1, H, W', c)
        real, imag = k.permute(5, 1, 2, 3, 4, 0).unsqueeze(2).contiguous().unbind(0)
        yield part.contiguous(), (real, torch.cat([-imag, imag], dim=2)), some


def _analysis(
    v: Tensor, kernels: Kernels, bound: Tensor, steps: int, sparsity: float, fourier: FourierTransform
) -> Tensor:
    """``sum_j conj(k^_j) u^_j``, (B, 2, H, W', c), after the last step."""
    target, maps = fourier(v), len(kernels[0])
    with torch.no_grad():  # the backward pass is written out and starts from the spectra
        drive = fourier.inverse(synthesize(kernels, target).flatten(0, 1)).unflatten(0, (maps, -1))
    return _SoftAnalysis.apply(target, *kernels, drive, bound, sparsity, steps, fourier, torch.is_grad_enabled())


def reconstruct(
    v: Tensor, kernel: Tensor, filter_: Tensor, bound: Tensor, steps: int, sparsity: float, fourier: FourierTransform
) -> Tensor:
    """The filtered reconstruction of v after the dynamics of VARS-S with soft shrinkage, (B, N, C).

    It is differentiable once.

    Args:
        v: (B, N, C), N = H W.
        kernel: spectra of k_1 .. k_J, real and imaginary part last, (C, J, 1, H, W // 2 + 1, 2).
        filter_: that of k2, (C, 1, 1, H, W // 2 + 1, 2).
        bound: L, (C,); has no gradient.
        steps: T.
        sparsity: lambda.
        fourier: of the grid (H, W).
    """
    kernel, filter_, bound = (part.to(v.dtype) for part in (kernel, filter_, bound))
    if static_compiled.serves(v):
        return static_compiled.reconstruct(v, kernel, filter_, bound, fourier.grid, steps, sparsity)
    found = [_analysis(*group, steps, sparsity, fourier) for group in _groups(v, kernel, bound)]
    spectrum = fourier.real_part(torch.cat(found, dim=-1))
    real, imag = filter_[:, 0, 0].permute(3, 1, 2, 0).unbind(0)
    return fourier.inverse(real * spectrum + torch.stack([-imag, imag]) * spectrum.flip(1))
