"""CARAFE: upsampling whose kernels are predicted for each place (Wang et al., arXiv 1905.02188, equation 2).

The kernels (mmcv calls them masks) are ``(N, groups * kernel_size**2, s H, s W)`` for features ``(N, C, H, W)`` and the
factor s; the channels are divided into groups that have a kernel in common.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from downstream.operators.precision import widen, widened


@widened
def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the upsampled features into ``output``, ``(N, C, s H, s W)``.

    ``rfeatures`` receives the features for the backward operator; ``routput`` and ``rmasks`` are not needed.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


@widened
def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradients of `carafe_forward` to ``grad_input`` and ``grad_masks``; the other ``r*`` are not needed."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, kernel_size, group_size, scale_factor)


@widened
def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Write the upsampled features into ``output``, ``(N, C, s H, s W)``."""
    spread, kernels = _spread(widen(features), kernel_size, group_size, scale_factor), _kernels(masks, group_size)
    total = spread.new_zeros(len(features), group_size, spread.shape[2], *output.shape[2:])
    for tap, rows, columns in _taps(output, kernel_size, scale_factor):
        total.addcmul_(spread[:, :, :, rows, columns], kernels[:, :, tap, None])
    output.copy_(total.view(output.shape))


@widened
def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradients of `carafe_naive_forward` to ``grad_input`` and ``grad_masks``."""
    spread, kernels = _spread(widen(features), kernel_size, group_size, scale_factor), _kernels(masks, group_size)
    grad = widen(grad_output).reshape(len(features), group_size, spread.shape[2], *grad_output.shape[2:])
    grad_spread, grad_kernels = torch.zeros_like(spread), torch.zeros_like(kernels)
    for tap, rows, columns in _taps(grad_output, kernel_size, scale_factor):
        grad_spread[:, :, :, rows, columns].addcmul_(grad, kernels[:, :, tap, None])
        grad_kernels[:, :, tap] = (grad * spread[:, :, :, rows, columns]).sum(dim=2)
    # Back from the spread and padded features: a pixel was spread over a square of the scale's size.
    batch, channels, height, width = features.shape
    margin = kernel_size // 2 * scale_factor
    inner = grad_spread[..., margin : margin + height * scale_factor, margin : margin + width * scale_factor]
    grad_input += inner.reshape(batch, channels, height, scale_factor, width, scale_factor).sum(dim=(3, 5))
    grad_masks += grad_kernels.view(grad_masks.shape)


def _spread(features: Tensor, size: int, groups: int, scale: int) -> Tensor:
    """Return features, padded by half a kernel and repeated ``scale`` times along both axes, in groups of channels."""
    padded = F.pad(features, [size // 2] * 4).repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    return padded.view(len(features), groups, -1, *padded.shape[2:])


def _kernels(masks: Tensor, groups: int) -> Tensor:
    """Return the kernels as ``(N, groups, kernel_size**2, s H, s W)``."""
    return widen(masks).reshape(len(masks), groups, -1, *masks.shape[2:])


def _taps(output: Tensor, size: int, scale: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield the number of each tap of the kernel, and the rows and columns of `_spread` that it sees."""
    height, width = output.shape[2:]
    for tap in range(size**2):
        row, column = (place * scale for place in divmod(tap, size))
        yield tap, slice(row, row + height), slice(column, column + width)
