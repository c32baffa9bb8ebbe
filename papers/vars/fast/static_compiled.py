"""VARS-S by compiled loops on a CPU, from v to the filtered reconstruction; differentiable once.

Equations: papers/vars/attention.py. The same in torch: static.py. The loops: static.c.
"""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.native import call, library, plain
from papers.vars.attention import Grid
from papers.vars.precision import plain_backward

SOURCE = Path(__file__).with_name("static.c")

_TABLES = ("cos_h", "sin_h", "cos_w", "cos_w_back", "sin_w")
_TENSORS = ("kernel", "filter", "bound", "v", "x", "gradient", "d_v", "d_kernel", "d_filter")


class _Problem(ctypes.Structure):
    """``Problem`` of static.c."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("height", "width", "maps", "steps", "images", "channels")),
        *((name, ctypes.c_int) for name in ("next", "failed")),
        ("sparsity", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in (*_TABLES, *_TENSORS)),
    )


def serves(v: Tensor) -> bool:
    """Whether :func:`reconstruct` can take ``v``: float32 on a CPU, where C could be compiled."""
    return plain(v) and library(SOURCE) is not None


@lru_cache(maxsize=64)
def _tables(grid: Grid) -> tuple[Tensor, ...]:
    """The tables of a problem: cos_h, sin_h, cos_w, cos_w_back and sin_w of static.c."""
    (cos_h, sin_h), (cos_w, sin_w) = map(_waves, grid)
    twice = torch.tensor([k > 0 and 2 * k != grid[1] for k in range(len(cos_w))])
    cos_w = torch.where(twice[:, None], 2**0.5, 1.0) * cos_w
    rows, columns = ((cos_h, -sin_h), (cos_w, cos_w.T, -(2**0.5) * sin_w))
    return *(_halved(x, grid[0]) for x in rows), *(_halved(x, grid[1]) for x in columns)


def _waves(n: int) -> tuple[Tensor, Tensor]:
    """Cosines of the sums and sines of the differences of n numbers, of a unitary transform."""
    j, k = torch.arange(n // 2 + 1, dtype=torch.float64), torch.arange(1, (n - 1) // 2 + 1, dtype=torch.float64)
    angle, root = 2 * math.pi / n, n**0.5
    return (angle * j.outer(j)).cos() / root, (angle * k.outer(k)).sin() / root


def _halved(waves: Tensor, n: int) -> Tensor:
    """A table for ``waves`` of static.c: for even n one half of the even rows and of the odd rows says all."""
    if n % 2 == 0:
        many, few = (len(waves) + 1) // 2, len(waves) // 2
        waves = torch.cat([waves[::2, :many].flatten(), waves[1::2, :few].flatten()])
    return waves.float().contiguous()


class _Reconstruction(torch.autograd.Function):
    """:func:`reconstruct`."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, kernel: Tensor, filter_: Tensor, bound: Tensor, grid: Grid, steps: int, sparsity: float
    ) -> Tensor:
        ctx.save_for_backward(v, kernel, filter_, bound)
        ctx.settings = grid, steps, sparsity
        x = torch.empty_like(v)
        _call("reconstruct", *ctx.settings, v=v, kernel=kernel, filter=filter_, bound=bound, x=x)
        return x

    @staticmethod
    @plain_backward
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        v, kernel, filter_, bound = ctx.saved_tensors
        d_v, d_kernel, d_filter = torch.empty_like(v), torch.empty_like(kernel), torch.empty_like(filter_)
        _call(
            "differentiate", *ctx.settings, v=v, kernel=kernel, filter=filter_, bound=bound,
            gradient=gradient.contiguous(), d_v=d_v, d_kernel=d_kernel, d_filter=d_filter,
        )  # fmt: skip
        return d_v, d_kernel, d_filter, None, None, None, None


def _call(name: str, grid: Grid, steps: int, sparsity: float, **tensors: Tensor) -> None:
    """Call a function of static.c with all that it needs of a ``Problem``."""
    images, _, channels = tensors["v"].shape
    pointers = dict(zip(_TABLES, _tables(grid), strict=True)) | tensors
    problem = _Problem(
        *grid, tensors["kernel"].shape[1], steps, images, channels, sparsity=sparsity,
        **{key: tensor.data_ptr() for key, tensor in pointers.items()},
    )  # fmt: skip
    call(SOURCE, name, problem, f"the sparse reconstruction of {channels} channels")


def reconstruct(
    v: Tensor, kernel: Tensor, filter_: Tensor, bound: Tensor, grid: Grid, steps: int, sparsity: float
) -> Tensor:
    """The filtered reconstruction of v after the dynamics of VARS-S with soft shrinkage, (B, N, C).

    Args:
        v: (B, N, C), N = H W; float32 on a CPU, as all others.
        kernel: spectra of k_1 .. k_J, real and imaginary part last, (C, J, 1, H, W // 2 + 1, 2).
        filter_: that of k2, (C, 1, 1, H, W // 2 + 1, 2).
        bound: L, (C,); has no gradient.
        grid: (H, W).
        steps: T.
        sparsity: lambda.
    """
    tensors = (tensor.contiguous() for tensor in (v, kernel, filter_, bound))
    return _Reconstruction.apply(*tensors, tuple(grid), steps, float(sparsity))
