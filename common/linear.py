"""Linear maps of tokens, on some CPUs by oneDNN.

torch gives ``F.linear`` in float32 on a CPU to MKL, and convolutions to oneDNN. On AMD's processors with AVX-512,
which MKL leaves unused there, oneDNN is twice as fast. A linear map is a convolution with a kernel of one pixel, so
tokens are laid out as pixels there. Elsewhere MKL is the faster one, above all in the backward pass.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: From so many images on torch gives a convolution of one pixel to oneDNN, whatever the number of threads.
_IMAGES = 16
#: Below so many tokens an image, or multiply-adds in all, the layout costs more than it gains.
_TOKENS, _MULTIPLY_ADDS = 4, 2**20


@cache
def _by_onednn() -> bool:
    """Whether this processor is one on which oneDNN is the faster library."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


@lru_cache(maxsize=1024)
def _images(tokens: int) -> int | None:
    """Into how many images of equally many pixels to lay out so many tokens; None where there is no good number."""
    return next((n for n in range(_IMAGES, 4 * _IMAGES) if tokens % n == 0 and tokens >= n * _TOKENS), None)


def _by_convolution(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is to map ``x``: float32 on a CPU, and enough of it."""
    return (
        x.device.type == "cpu"
        and _by_onednn()
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.numel() // weight.shape[1] * weight.numel() >= _MULTIPLY_ADDS
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b``, as ``torch.nn.functional.linear`` gives it: (..., in) -> (..., out).

    Args:
        x: (..., in).
        weight: W, (out, in).
        bias: b, (out,).
    """
    if _by_convolution(x, weight):
        tokens = x.numel() // x.shape[-1]
        images = _images(tokens)
        if images is not None:
            # (images, in, pixels, 1), channels last in memory: the tokens as they lie.
            pixels = x.reshape(images, tokens // images, 1, x.shape[-1]).permute(0, 3, 1, 2)
            y = F.conv2d(pixels, weight[:, :, None, None], bias)
            return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))
    return F.linear(x, weight, bias)


def left_linear(x: Tensor, weight: Tensor) -> Tensor:
    """``W X`` for each of n matrices X: (n, in, columns) -> (n, out, columns); W is (out, in)."""
    if _by_convolution(x, weight) and len(x) >= _IMAGES:
        return F.conv2d(x.unsqueeze(2), weight[:, :, None, None]).squeeze(2)
    # Not `weight @ x`, which copies x and the result to make one product of them.
    return torch.bmm(weight.expand(len(x), -1, -1), x)


class Linear(nn.Linear):
    """``torch.nn.Linear`` by :func:`linear`; same parameters, initialisation and state."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)
