"""Multiply-adds of operators that fvcore does not know, or knows only in some shapes.

Conventions: a product of matrices (m, k) and (k, n) is m k n multiply-adds, in each form that PyTorch has for it. A
complex multiply-add is four real ones. A complex fast Fourier transform of n points is 5 n log2(n) real operations
(the convention of FFTW's benchmarks, www.fftw.org/speed), that is 5/2 n log2(n) multiply-adds; a real transform is
half of that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fvcore.nn.jit_handles import conv_flop_count, get_shape

#: Takes the traced inputs and outputs of a call, gives its multiply-adds.
Handler = Callable[[Sequence[Any], Sequence[Any]], Any]

#: Operators that only move, view, index or compare: nothing to count. Added to fvcore's own list.
# fmt: off
NO_ARITHMETIC = tuple(f"aten::{name}" for name in (
    "_conj", "conj", "resolve_conj", "real", "imag", "complex", "view_as_complex", "view_as_real",
    "view_as", "expand_as", "reshape_as", "unflatten", "broadcast_to", "movedim", "swapaxes", "alias", "clone",
    "flip", "repeat", "repeat_interleave", "tile", "pad", "im2col", "unfold", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "index_select", "take_along_dim", "scatter", "where", "masked_fill_", "tril", "triu",
    "meshgrid", "empty_like", "ones_like", "lift_fresh", "max_pool2d", "fft_fftshift", "fft_ifftshift",
))
# fmt: on


def _shape(value: Any) -> list[int]:
    shape = get_shape(value)
    if shape is None:
        raise ValueError(f"the trace has no shape for {value.debugName()}")
    return shape


def _factor(value: Any) -> int:
    """4 for complex numbers, else 1."""
    return 4 if (value.type().scalarType() or "").startswith("Complex") else 1


def _product(first: int, second: int) -> Handler:
    """A matrix product whose operands are the inputs ``first`` and ``second``, batched and broadcast or not."""

    def count(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        # One product for each entry of the result (before addbmm's sum over the batch) and each of the k terms.
        left, right = _shape(inputs[first]), _shape(inputs[second])
        rows = left[-2] if len(left) > 1 else 1
        columns = right[-1] if len(right) > 1 else 1
        batch = _broadcast(left[:-2], right[:-2])
        return math.prod(batch) * rows * columns * left[-1] * _factor(outputs[0])

    return count


def _broadcast(one: Sequence[int], other: Sequence[int]) -> list[int]:
    axes = max(len(one), len(other))
    pairs = zip([1] * (axes - len(one)) + [*one], [1] * (axes - len(other)) + [*other], strict=True)
    return [b if a == 1 else a for a, b in pairs]


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """scaled_dot_product_attention as two explicit products: q k^T, and the map times v. A mask saves nothing."""
    *batch, queries, width = _shape(inputs[0])
    keys = _shape(inputs[1])[-2]
    return math.prod(batch) * queries * keys * (width + _shape(outputs[0])[-1])


def _einsum(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Pairs of operands in the order in which PyTorch contracts them: its path where it has one, else left to right."""
    shapes = [_shape(value) for value in inputs[1].node().inputs()]
    terms, kept = _einsum_terms(inputs[0].toIValue(), shapes)
    path = _constant(inputs[2]) if len(inputs) > 2 else None
    total = 0
    while len(terms) > 1:
        pair = sorted(path[:2]) if path else [0, 1]
        path = path[2:] if path else None
        one, other = terms.pop(pair[1]), terms.pop(pair[0])
        sizes = {axis: max(one.get(axis, 1), other.get(axis, 1)) for axis in {*one, *other}}
        total += math.prod(sizes.values())
        needed = kept.union(*terms)
        product = {axis: size for axis, size in sizes.items() if axis in needed}
        if path:
            terms.append(product)  # a path counts on the product being last
        else:
            terms.insert(0, product)
    return total * _factor(outputs[0])


def _einsum_terms(equation: str, shapes: list[list[int]]) -> tuple[list[dict[Any, int]], set[Any]]:
    """The size of each axis of each operand, and the axes of the result. Axes of an ellipsis are negative numbers."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms: list[dict[Any, int]] = []
    for term, shape in zip(left.split(","), shapes, strict=True):
        head, dots, tail = term.partition("...")
        hidden = len(shape) - len(head) - len(tail) if dots else 0
        axes = [*head, *range(-hidden, 0), *tail]
        terms.append(dict(zip(axes, shape, strict=True)))
    everything = [axis for term in terms for axis in term]
    if arrow:
        kept = {axis for axis in everything if (axis in right if isinstance(axis, str) else "..." in right)}
    else:
        letters = left.replace("...", "").replace(",", "")
        kept = {axis for axis in everything if isinstance(axis, int) or letters.count(axis) == 1}
    return terms, kept


def _fft(axes: str, real_input: bool, real: bool) -> Handler:
    """Fast Fourier transforms over ``one``, ``two`` or ``all`` axes; ``real`` if one side of it is real."""

    def count(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
        shape = list(_shape(outputs[0]))
        dims = _constant(inputs[2])
        if dims is None:
            dims = {"one": [-1], "two": [-2, -1], "all": list(range(-len(shape), 0))}[axes]
        dims = [dims] if isinstance(dims, int) else dims
        if real_input:
            # The output holds n // 2 + 1 of n frequencies; n is the input's length unless the call pads or crops.
            length, half = _shape(inputs[0])[dims[-1]], shape[dims[-1]]
            shape[dims[-1]] = length if length // 2 + 1 == half else 2 * (half - 1)
        points = math.prod(shape[dim] for dim in dims)
        operations = 5 * math.prod(shape) * math.log2(points) if points > 1 else 0
        return Counter({"fft": round(operations / 2 / (2 if real else 1))})

    return count


def _constant(value: Any) -> Any:
    """The value of a traced constant, number or list; None for an absent argument."""
    node = value.node()
    if node.kind() == "prim::ListConstruct":
        return [item.toIValue() for item in node.inputs()]
    return value.toIValue()


def _convolution(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """Convolution with padding given as a word; the other forms are fvcore's."""
    count = conv_flop_count(_shape(inputs[0]), _shape(inputs[1]), _shape(outputs[0]))
    return Counter({"conv": count})


def _deformable(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """The convolution's products, and four multiply-adds for each bilinear sample."""
    batch, _, *places = _shape(outputs[0])
    channels, weight = _shape(inputs[0])[1], _shape(inputs[1])
    samples = batch * channels * math.prod(weight[2:]) * math.prod(places)
    return batch * math.prod(weight) * math.prod(places) + 4 * samples


def _recurrent(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """LSTM, GRU and plain recurrent layers: each weight matrix acts once on each element of the sequence."""
    steps = math.prod(_shape(inputs[0])[:2])
    weights = (_shape(value) for value in inputs[2].node().inputs())
    return steps * sum(math.prod(shape) for shape in weights if len(shape) == 2)


HANDLERS: dict[str, Handler] = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::matmul": _product(0, 1),
    "aten::mm": _product(0, 1),
    "aten::bmm": _product(0, 1),
    "aten::mv": _product(0, 1),
    "aten::dot": _product(0, 1),
    "aten::addmm": _product(1, 2),
    "aten::addmv": _product(1, 2),
    "aten::baddbmm": _product(1, 2),
    "aten::addbmm": _product(1, 2),
    "aten::einsum": _einsum,
    "aten::_convolution_mode": _convolution,
    "torchvision::deform_conv2d": _deformable,
    **{f"aten::{name}": _recurrent for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    **{
        f"aten::fft_{prefix}fft{suffix}": _fft(axes, real_input=prefix == "r", real="r" in prefix)
        for prefix in ("", "i", "r", "ir")
        for suffix, axes in (("", "one"), ("2", "two"), ("n", "all"))
    },
}
