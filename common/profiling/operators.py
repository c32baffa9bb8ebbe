"""Multiply-adds of PyTorch's operators by their shapes: torch's own formulas, and what papers count beside them.

A product of matrices (m, k) and (k, n) is m k n multiply-adds; PyTorch's formulas, which count a multiply-add as two
operations, give those of matrix products and convolutions. A complex multiply-add is four real ones. A complex fast
Fourier transform of n points is 5 n log2(n) real operations (the convention of FFTW's benchmarks, www.fftw.org/speed),
that is 5/2 n log2(n) multiply-adds; a real transform is half of that. Norms, pooling to a grid and resampling are
counted as papers get them from fvcore: five multiply-adds for each element of a norm (four without its own scale), two
for batch norm in eval mode, one for each pooled element, and as many for each resampled one as it has neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

#: Called as its operator is, with the result as ``out_val``; gives multiply-adds.
Formula: TypeAlias = Callable[..., float]


def _from_torch(name: str) -> Formula:
    formula = flop_registry[getattr(torch.ops.aten, name)]

    def count(*args: Any, out_val: Tensor, **kwargs: Any) -> float:
        return formula(*args, **kwargs, out_val=out_val) / 2 * (4 if out_val.is_complex() else 1)

    return count


def _with_vector(position: int) -> Formula:
    """Products with a vector: each element of the factor at ``position`` acts once."""

    def count(*args: Any, out_val: Tensor, **kwargs: Any) -> int:
        return args[position].numel() * (4 if out_val.is_complex() else 1)

    return count


def _attention(query: Tensor, key: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """scaled_dot_product_attention as two explicit products: q k^T, and the map times v. A mask saves nothing."""
    *batch, queries, width = query.shape
    return math.prod(batch) * queries * key.shape[-2] * (width + out_val.shape[-1])


def _recurrent(input: Tensor, hx: Any, params: Sequence[Tensor], *args: Any, out_val: Any, **kwargs: Any) -> int:
    """LSTM, GRU and plain recurrent layers: each weight matrix acts once on each element of the sequence."""
    return math.prod(input.shape[:2]) * sum(weight.numel() for weight in params if weight.ndim == 2)


def _fourier(self: Tensor, dim: Sequence[int], *args: Any, out_val: Tensor, **kwargs: Any) -> float:
    """A fast Fourier transform over the axes ``dim``; one between real and complex numbers is half of one."""
    # Of real numbers all points are stored, of their frequencies only half.
    real = next((side for side in (self, out_val) if not side.is_complex()), None)
    whole = out_val if real is None else real
    points = math.prod(whole.shape[axis] for axis in dim)
    return 2.5 * whole.numel() * math.log2(points) / (1 if real is None else 2)


def _norm(position: int) -> Formula:
    """A norm whose own scale, or None, is the argument at ``position``."""

    def count(input: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
        scale = args[position - 1] if len(args) >= position else None
        return input.numel() * (4 if scale is None else 5)

    return count


def _batch_norm(
    input: Tensor, weight: Tensor | None, bias: Any, mean: Any, var: Any, training: bool, *args: Any, out_val: Tensor
) -> float:
    if training:
        return _norm(1)(input, weight, out_val=out_val)
    return input.numel() * (1 if weight is None else 2)


def _for_each(multiply_adds: int) -> Formula:
    """So many multiply-adds for each element of the result."""
    return lambda *args, out_val, **kwargs: multiply_adds * out_val.numel()


#: ``{operator: (name under which it is counted, formula)}``.
FORMULAS: dict[str, tuple[str, Formula]] = {
    "convolution": ("conv", _from_torch("convolution")),
    **{name: ("matmul", _from_torch(name)) for name in ("mm", "addmm", "bmm", "baddbmm")},
    "addbmm": ("matmul", _from_torch("baddbmm")),
    **{name: ("matmul", _with_vector(position)) for name, position in (("mv", 0), ("dot", 0), ("addmv", 1))},
    "scaled_dot_product_attention": ("attention", _attention),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), ("recurrent", _recurrent)),
    **dict.fromkeys(("_fft_c2c", "_fft_r2c", "_fft_c2r"), ("fft", _fourier)),
    **{name: (name, _norm(at)) for name, at in (("layer_norm", 2), ("group_norm", 2), ("instance_norm", 1))},
    "batch_norm": ("batch_norm", _batch_norm),
    "adaptive_avg_pool2d": ("pooling", lambda self, *args, out_val: self.numel()),
    "upsample_nearest2d": ("resampling", _for_each(1)),
    **{name: ("resampling", _for_each(4)) for name in ("upsample_bilinear2d", "grid_sampler_2d")},
}

#: Operators that only move or create values: nothing to count.
# fmt: off
NO_ARITHMETIC = frozenset((
    "_to_copy", "_unsafe_view", "arange", "cat", "clone", "constant_pad_nd", "copy_", "empty", "fill_", "flip", "full",
    "gather", "im2col", "index", "lift_fresh", "new_zeros", "ones", "repeat", "roll", "scalar_tensor", "stack", "zeros",
    "zeros_like",
))
# fmt: on
