"""Layers with operators of their own, through mmcv's Python, against loops over taps and points in float64."""

from __future__ import annotations

import math

import mmcv.ops
import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from torch import Tensor

#: Also where a compiled mmcv is installed, whose operators do not take float64.
pytestmark = pytest.mark.usefixtures("our_operators")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value_at(plane: Tensor, y: float, x: float) -> float:
    """Bilinear value among zeros."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += float(plane[row, column]) * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


# Deformable convolution

#: stride, padding, dilation, groups, deformable groups
WINDOWS = [(1, 1, 1, 1, 1), (2, 0, 1, 2, 1), (1, 2, 2, 1, 2), ((2, 1), (1, 2), (1, 2), 2, 2)]


def deform(
    features: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, window: tuple, bias: Tensor | None = None
) -> Tensor:
    """Deformable convolution, output pixel by output pixel and tap by tap."""
    (sy, sx), (py, px), (dy, dx) = ((axis, axis) if isinstance(axis, int) else axis for axis in window[:3])
    groups, offset_groups = window[3:]
    batch, channels = features.shape[:2]
    out_channels, in_group, kh, kw = weight.shape
    out = torch.zeros(batch, out_channels, *offset.shape[2:], dtype=torch.float64)
    for n in range(batch):
        for o in range(out_channels):
            for i in range(out.shape[2]):
                for j in range(out.shape[3]):
                    total = float(bias[o]) if bias is not None else 0.0
                    for c in range(in_group):
                        channel = o // (out_channels // groups) * in_group + c
                        first = channel // (channels // offset_groups) * kh * kw
                        for tap in range(kh * kw):
                            move = offset[n, 2 * (first + tap) : 2 * (first + tap) + 2, i, j].tolist()
                            y = i * sy - py + tap // kw * dy + move[0]
                            x = j * sx - px + tap % kw * dx + move[1]
                            factor = 1.0 if mask is None else float(mask[n, first + tap, i, j])
                            value = value_at(features[n, channel], y, x)
                            total += float(weight[o, c, tap // kw, tap % kw]) * value * factor
                    out[n, o, i, j] = total
    return out


def operands(window: tuple, kernel: tuple[int, int] = (3, 2)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, offsets, masks and weights that fit a window."""
    stride, padding, dilation, groups, offset_groups = window
    features, weight = randn(2, 4, 5, 6), randn(4, 4 // groups, *kernel, seed=1)
    size = torch.nn.functional.conv2d(features, weight, None, stride, padding, dilation, groups).shape[2:]
    taps = offset_groups * kernel[0] * kernel[1]
    return features, randn(2, 2 * taps, *size, seed=2) * 1.5, randn(2, taps, *size, seed=3), weight


@pytest.mark.parametrize("window", WINDOWS)
def test_deform_conv(window: tuple) -> None:
    features, offset, _, weight = operands(window)
    expected = deform(features, offset, None, weight, window)
    torch.testing.assert_close(mmcv.ops.deform_conv2d(features, offset, weight, *window), expected)
    torch.testing.assert_close(mmcv.ops.deform_conv2d(features, offset, weight, *window, False, 1), expected)
    inputs = [tensor.requires_grad_() for tensor in (features, offset, weight)]
    assert torch.autograd.gradcheck(lambda *x: mmcv.ops.deform_conv2d(*x, *window), inputs, fast_mode=True)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_modulated_deform_conv(window: tuple, with_bias: bool) -> None:
    features, offset, mask, weight = operands(window)
    bias = randn(4, seed=4) if with_bias else None
    expected = deform(features, offset, mask, weight, window, bias)
    actual = mmcv.ops.modulated_deform_conv2d(features, offset, mask, weight, bias, *window)
    torch.testing.assert_close(actual, expected)
    inputs = [tensor.requires_grad_() for tensor in (features, offset, mask, weight, bias) if tensor is not None]
    assert torch.autograd.gradcheck(
        lambda *x: mmcv.ops.modulated_deform_conv2d(*x, *([] if with_bias else [None]), *window), inputs, fast_mode=True
    )


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_deform_conv_gives_each_gradient_alone(needed: tuple[int, ...]) -> None:
    window = WINDOWS[1]
    features, offset, _, weight = operands(window)

    def gradients(wanted: tuple[int, ...]) -> list[Tensor | None]:
        tensors = [t.clone().requires_grad_(i in wanted) for i, t in enumerate((features, offset, weight))]
        mmcv.ops.deform_conv2d(*tensors, *window).square().sum().backward()
        return [tensor.grad for tensor in tensors]

    whole = gradients((0, 1, 2))
    for index, gradient in enumerate(gradients(needed)):
        assert (gradient is not None) == (index in needed)
        assert gradient is None or torch.equal(gradient, whole[index])


def test_deform_conv_backward_twice_with_other_gradients() -> None:
    features, offset, _, weight = operands(WINDOWS[0])
    weight.requires_grad_()
    out = mmcv.ops.deform_conv2d(features.requires_grad_(), offset, weight, *WINDOWS[0])
    (once,) = torch.autograd.grad(out.sum(), weight, retain_graph=True)
    (twice,) = torch.autograd.grad(2 * out.sum(), weight)
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("modulated", [False, True])
def test_deform_conv_gradient_of_offsets_that_start_at_zero(modulated: bool) -> None:
    """Samples at whole pixels: the derivative is the one from the right; in the padding it is 0, as mmcv has it."""
    window = (1, 1, 1, 1, 1)
    features, offset, mask, weight = operands(window, kernel=(3, 3))
    mask = mask.abs()

    def total(moved: Tensor) -> Tensor:
        if modulated:
            return mmcv.ops.modulated_deform_conv2d(features, moved, mask, weight, None, *window).sum()
        return mmcv.ops.deform_conv2d(features, moved, weight, *window).sum()

    zero = torch.zeros_like(offset).requires_grad_()
    (gradient,) = torch.autograd.grad(total(zero), zero)
    height, width = offset.shape[2:]
    generator = torch.Generator().manual_seed(5)
    for _ in range(60):
        n, c, i, j = (int(torch.randint(size, (), generator=generator)) for size in offset.shape)
        y, x = i - 1 + c // 2 // 3, j - 1 + c // 2 % 3
        step = torch.zeros_like(offset)
        step[n, c, i, j] = 1e-6
        expected = 0.0 if min(y, x) < 0 else float(total(step) - total(torch.zeros_like(offset))) / 1e-6
        assert float(gradient[n, c, i, j]) == pytest.approx(expected, abs=1e-6)
    inner = gradient.view(2, 3, 3, 2, height, width)
    assert not inner[:, 0, :, :, 0].any()
    assert not inner[:, :, 0, :, :, 0].any()
    assert inner[:, 1, 1].any()


@pytest.mark.parametrize("kind", ["DCN", "DCNv2"])
def test_deform_conv_with_zero_offsets_is_a_convolution(kind: str) -> None:
    layer = mmcv.cnn.build_conv_layer({"type": kind, "deform_groups": 2}, 4, 6, 3, stride=2, padding=1, bias=False)
    features = randn(3, 4, 8, 7).float()
    expected = torch.nn.functional.conv2d(features, layer.weight, None, 2, 1)
    torch.testing.assert_close(layer(features), expected * (0.5 if kind == "DCNv2" else 1.0))


# Multi-scale deformable attention

SHAPES = torch.tensor([[4, 5], [2, 3]])


def attention_operands(channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations (some outside) and weights: 2 images, 4 queries, 2 heads, 2 levels, 3 points."""
    locations = (
        torch.rand(2, 4, 2, 2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2
    )
    weights = randn(2, 4, 2, 6, seed=2).softmax(-1).view(2, 4, 2, 2, 3)
    return randn(2, 26, 2, channels), locations, weights


def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    starts = torch.tensor([0, 20])
    return MultiScaleDeformableAttnFunction.apply(value, SHAPES, starts, locations, weights, 64)


def test_multi_scale_deformable_attention() -> None:
    value, locations, weights = attention_operands()
    attended = attend(value, locations, weights)
    expected = torch.zeros(2, 4, 2, 3, dtype=torch.float64)
    for n, q, head, level, point in torch.cartesian_prod(*(torch.arange(size) for size in (2, 4, 2, 2, 3))).tolist():
        height, width = SHAPES[level].tolist()
        x, y = locations[n, q, head, level, point].tolist()
        for c in range(3):
            plane = value[n, [slice(0, 20), slice(20, 26)][level], head, c].view(height, width)
            sampled = value_at(plane, y * height - 0.5, x * width - 0.5)
            expected[n, q, head, c] += float(weights[n, q, head, level, point]) * sampled
    torch.testing.assert_close(attended, expected.flatten(2))
    torch.testing.assert_close(attended, multi_scale_deformable_attn_pytorch(value, SHAPES, locations, weights))
    inputs = [tensor.requires_grad_() for tensor in attention_operands()]
    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)


# CARAFE


def test_carafe() -> None:
    size, groups, scale = 3, 2, 2
    features, kernels = randn(2, 4, 3, 5), randn(2, groups * size**2, 6, 10, seed=1)
    expected = torch.zeros(2, 4, 6, 10, dtype=torch.float64)
    for n, c, i, j, a, b in torch.cartesian_prod(
        *(torch.arange(length) for length in (*expected.shape, size, size))
    ).tolist():
        y, x = i // scale + a - size // 2, j // scale + b - size // 2
        if 0 <= y < 3 and 0 <= x < 5:
            expected[n, c, i, j] += features[n, c, y, x] * kernels[n, c // 2 * size**2 + a * size + b, i, j]
    torch.testing.assert_close(mmcv.ops.carafe(features, kernels, size, groups, scale), expected)
    torch.testing.assert_close(mmcv.ops.carafe_naive(features, kernels, size, groups, scale), expected)
    assert torch.autograd.gradcheck(
        lambda x, k: mmcv.ops.carafe(x, k, size, groups, scale),
        (features.requires_grad_(), kernels.requires_grad_()),
        fast_mode=True,
    )


# PSANet's masks


@pytest.mark.parametrize("kind", ["collect", "distribute"])
@pytest.mark.parametrize("mask", [(3, 5), (7, 9)])
def test_psa_mask(kind: str, mask: tuple[int, int]) -> None:
    height, width = 4, 5
    maps = randn(2, mask[0] * mask[1], height, width)
    expected = torch.zeros(2, height, width, height, width, dtype=torch.float64)
    for y, x, a, b in torch.cartesian_prod(*(torch.arange(size) for size in (height, width, *mask))).tolist():
        other_y, other_x = y + a - mask[0] // 2, x + b - mask[1] // 2
        if 0 <= other_y < height and 0 <= other_x < width:
            place = (other_y, other_x, y, x) if kind == "collect" else (y, x, other_y, other_x)
            expected[(slice(None), *place)] = maps[:, a * mask[1] + b, y, x]
    layer = mmcv.ops.PSAMask(kind, mask)
    torch.testing.assert_close(layer(maps), expected.view(2, -1, height, width))
    assert torch.autograd.gradcheck(layer, maps.requires_grad_(), fast_mode=True)


# Masked convolution


@pytest.mark.parametrize("chosen", [0.0, 0.4, 1.0])
def test_masked_conv(chosen: float) -> None:
    layer = mmcv.ops.MaskedConv2d(3, 4, (3, 5), padding=(1, 2)).double()
    features = randn(1, 3, 6, 7)
    mask = (torch.rand(1, 6, 7, generator=torch.Generator().manual_seed(1)) < chosen).double()
    whole = torch.nn.functional.conv2d(features, layer.weight, layer.bias, padding=(1, 2))
    torch.testing.assert_close(layer(features, mask), whole * mask)


# Point sampling, which mmcv has in torch itself


def test_point_sample() -> None:
    features = randn(2, 3, 4, 6)
    points = torch.rand(2, 9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.1
    sampled = mmcv.ops.point_sample(features, points)
    for n, c, p in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(9)).tolist():
        x, y = points[n, p].tolist()
        assert float(sampled[n, c, p]) == pytest.approx(value_at(features[n, c], y * 4 - 0.5, x * 6 - 0.5))
    assert torch.autograd.gradcheck(mmcv.ops.point_sample, (features.requires_grad_(), points), fast_mode=True)
