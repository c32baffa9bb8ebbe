"""Deformable convolution (Dai et al., arXiv 1703.06211); version 2 has a mask as well (Zhu et al., arXiv 1811.11168).

The arithmetic is torchvision's. Offsets are ``(N, deformable groups * kernel height * kernel width * 2, H', W')``, rows
before columns, in pixels of the input; masks are ``(N, deformable groups * kernel height * kernel width, H', W')``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from downstream.operators.precision import widen, widened


class _Window(NamedTuple):
    """How the kernel moves, as torchvision's operator takes it."""

    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    deformable_groups: int


@widened
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Convolve with a kernel whose taps are moved by offsets.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(C', C / group, kH, kW)``.
        offset: see the module.
        output: receives ``(N, C', H', W')``.
        columns: memory that mmcv passes on to the backward operators.
        ones: as ``columns``; not needed.
        kW: width of the kernel; the next ones are its height, stride, padding and dilation.
        group: groups of the convolution.
        deformable_group: groups of input channels that have an offset in common.
        im2col_step: images at once, which torchvision chooses itself.
    """
    window = _Window(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_convolve(input, weight, offset, None, None, window))


@widened
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the gradients of `deform_conv_forward` to ``grad_input`` and ``grad_offset``.

    torchvision computes the weight's gradient along with them. It waits in ``columns``, where
    `deform_conv_backward_parameters`, which mmcv calls next, finds it.
    """
    window = _Window(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    gradients = _gradients(grad_output, input, weight, offset, None, window)
    grad_input += gradients.input
    grad_offset += gradients.offset
    columns.resize_(weight.shape).copy_(gradients.weight)


@widened
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add the gradient of `deform_conv_forward` with respect to the weight, times ``scale``, to ``grad_weight``."""
    if columns.shape != grad_weight.shape:  # only the weight needs a gradient
        window = _Window(dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
        columns = _gradients(grad_output, input, torch.zeros_like(grad_weight), offset, None, window).weight
    grad_weight += scale * columns


@widened
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Convolve with a kernel whose taps are moved by offsets and weighed by a mask.

    Arguments are those of `deform_conv_forward`; ``bias`` is ``(C',)``, and ``mask`` see the module.
    """
    window = _Window(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    output.copy_(_convolve(input, weight, offset, mask, bias if with_bias else None, window))


@widened
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add the gradients of `modulated_deform_conv_forward` to the tensors ``grad_*``."""
    window = _Window(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    gradients = _gradients(grad_output, input, weight, offset, mask, window)
    grad_input += gradients.input
    grad_weight += gradients.weight
    grad_offset += gradients.offset
    grad_mask += gradients.mask
    if with_bias:
        grad_bias += widen(grad_output).sum(dim=(0, 2, 3))


class _Gradients(NamedTuple):
    input: Tensor
    weight: Tensor
    offset: Tensor
    mask: Tensor


def _convolve(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, window: _Window
) -> Tensor:
    tensors = _operands(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*tensors, *window, mask is not None)


def _gradients(
    grad_output: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, window: _Window
) -> _Gradients:
    tensors = _operands(input, weight, offset, mask, None)
    gradients = torch.ops.torchvision._deform_conv2d_backward(
        widen(grad_output).contiguous(), *tensors, *window, mask is not None
    )
    outside = _outside(tensors[2], (weight.shape[2], weight.shape[3]), window)
    return _Gradients(gradients[0], gradients[1], gradients[2].masked_fill(outside, 0), gradients[3])


def _operands(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the tensors as torchvision's operator takes them, with stand-ins for those that are absent."""
    mask = input.new_zeros(len(input), 1) if mask is None else mask
    bias = input.new_zeros(weight.shape[0]) if bias is None else bias
    input, weight, offset, mask, bias = (widen(tensor).contiguous() for tensor in (input, weight, offset, mask, bias))
    return input, weight, offset, mask, bias


def _outside(offset: Tensor, kernel: tuple[int, int], window: _Window) -> Tensor:
    """Return whether each offset's tap is a whole pixel or more before the first row or column.

    Precisely one pixel before, the sample is 0; torchvision's gradient is the one-sided one towards the input, mmcv's
    is 0. It matters because offsets start at 0, which puts the taps in the padding at such places.
    """
    batch, _, height, width = offset.shape
    kernel_h, kernel_w = kernel
    taps = offset.view(batch, -1, kernel_h, kernel_w, 2, height, width)

    def line(size: int, step: int, start: int = 0) -> Tensor:
        return torch.arange(size, device=offset.device, dtype=offset.dtype) * step - start

    y = line(kernel_h, window.dilation_h)[:, None, None, None] + line(height, window.stride_h, window.pad_h)[:, None]
    x = line(kernel_w, window.dilation_w)[:, None, None] + line(width, window.stride_w, window.pad_w)
    outside = (taps[:, :, :, :, 0] + y <= -1) | (taps[:, :, :, :, 1] + x <= -1)
    return outside[:, :, :, :, None].expand_as(taps).reshape(offset.shape)
