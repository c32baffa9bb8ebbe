"""Linear maps of tokens, on AMD's processors by oneDNN, and the GELU of maps in the same pass.

torch gives ``F.linear`` in float32 on a CPU to MKL, and convolutions to oneDNN. On AMD's processors oneDNN is the
faster one: twice with AVX-512, which MKL leaves unused there, and up to a fifth without it. Without gradient it is
called as it is. With gradient, and AVX-512, a linear map is computed as what it also is, a convolution with a kernel of
one pixel, for which tokens are laid out as pixels; without AVX-512, MKL is the faster one in the backward pass.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

from common.native import watched

#: From so many images on torch gives a convolution of one pixel to oneDNN, whatever the number of threads.
_IMAGES = 16
#: Below so many tokens an image, or multiply-adds in all, the layout costs more than it gains.
_TOKENS, _MULTIPLY_ADDS = 4, 2**20
#: Below so many multiply-adds MKL is the faster one without gradient, where there is no AVX-512.
_MULTIPLY_ADDS_AVX2 = 10**8


@cache
def _amd() -> bool:
    """Whether this is a processor of AMD's, on which oneDNN can be the faster library."""
    try:
        return torch.backends.mkldnn.is_available() and "AuthenticAMD" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False


@cache
def _avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _plain(x: Tensor, weight: Tensor) -> bool:
    """Whether ``x`` is mapped in float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _unwatched() -> bool:
    """Whether operators of oneDNN may be called by name: without gradient, and where nobody looks for torch's own."""
    return not torch.is_grad_enabled() and not watched()


def _multiply_adds(x: Tensor, weight: Tensor) -> int:
    return x.numel() // weight.shape[1] * weight.numel()


@lru_cache(maxsize=1024)
def _images(tokens: int) -> int | None:
    """Into how many images of equally many pixels to lay out so many tokens; None where there is no good number."""
    return next((n for n in range(_IMAGES, 4 * _IMAGES) if tokens % n == 0 and tokens >= n * _TOKENS), None)


def _by_convolution(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution of oneDNN is to map ``x``: float32 on a CPU where it gains, and enough of it."""
    if watched():  # a graph is for any number of images
        return False
    return _plain(x, weight) and _amd() and _avx512() and _multiply_adds(x, weight) >= _MULTIPLY_ADDS


def _by_inner_product(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is to map ``x`` without gradient."""
    if not _unwatched():
        return False
    least = _MULTIPLY_ADDS if _avx512() else _MULTIPLY_ADDS_AVX2
    return _plain(x, weight) and _amd() and _multiply_adds(x, weight) >= least


def activated(x: Tensor) -> Tensor:
    """The GELU of ``x``, in its memory where no gradient is asked for: ``x`` is not to be used any more."""
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """``x W^T + b``, as ``torch.nn.functional.linear`` gives it: (..., in) -> (..., out).

    Args:
        x: (..., in).
        weight: W, (out, in).
        bias: b, (out,).
        gelu: whether to return the GELU of it.
    """
    if _by_inner_product(x, weight):
        name, algorithm = ("gelu", "none") if gelu else ("none", "")  # "none": not by tanh
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    y = _torchs_linear(x, weight, bias)
    return activated(y) if gelu else y


def _torchs_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`linear` by operators that torch can differentiate."""
    if _by_convolution(x, weight):
        tokens = x.numel() // x.shape[-1]
        images = _images(tokens)
        if images is not None:
            # (images, in, pixels, 1), channels last in memory: the tokens as they lie.
            pixels = x.reshape(images, tokens // images, 1, x.shape[-1]).permute(0, 3, 1, 2)
            y = F.conv2d(pixels, weight[:, :, None, None], bias)
            return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))
    return F.linear(x, weight, bias)


def convolution_gelu(x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int) -> Tensor:
    """The GELU of a convolution with stride 1: (B, in, H, W) -> (B, out, H', W').

    Args:
        x: (B, in, H, W).
        weight: (out, in / groups, height, width).
        bias: (out,).
        padding: pixels on every side.
        groups: of channels.
    """
    if _plain(x, weight) and _unwatched() and torch.backends.mkldnn.is_available() and x.numel() > 0:
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, [padding] * 2, [1, 1], [1, 1], groups, "gelu", [], "none"
        )
    return activated(F.conv2d(x, weight, bias, padding=padding, groups=groups))


def left_linear(x: Tensor, weight: Tensor) -> Tensor:
    """``W X`` for each of n matrices X: (n, in, columns) -> (n, out, columns); W is (out, in)."""
    if _by_convolution(x, weight) and len(x) >= _IMAGES:
        return F.conv2d(x.unsqueeze(2), weight[:, :, None, None]).squeeze(2)
    # Not `weight @ x`, which copies x and the result to make one product of them.
    return torch.bmm(weight.expand(len(x), -1, -1), x)


@register_notrace_module  # symbolic tracing has no device, precision or size to choose by
class Linear(nn.Linear):
    """``torch.nn.Linear`` by :func:`linear`; same parameters, initialisation and state."""

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """(..., in_features) -> (..., out_features); the GELU of it on request."""
        return linear(x, self.weight, self.bias, gelu)
