"""CARAFE: upsampling whose kernels are predicted for each place (Wang et al., arXiv 1905.02188, equation 2).

The kernels (mmcv calls them masks) are ``(N, groups * kernel_size**2, s H, s W)`` for features ``(N, C, H, W)`` and the
factor s; the channels are divided into groups that have a kernel in common.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    padded, kernels = _grouped(widen(features), widen(masks), kernel_size, group_size, scale_factor)
    total = widen(output).new_zeros(output.shape)
    parts = _grouped_map(total, group_size, scale_factor)
    for tap, rows, columns in _taps(features, kernel_size):
        parts += padded[:, :, :, rows, None, columns, None] * kernels[:, :, tap, None]
    output.copy_(total)


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
    padded, kernels = _grouped(widen(features), widen(masks), kernel_size, group_size, scale_factor)
    grad = _grouped_map(widen(grad_output), group_size, scale_factor)
    grad_padded, grad_kernels = padded.new_zeros(padded.shape), kernels.new_zeros(kernels.shape)
    for tap, rows, columns in _taps(features, kernel_size):
        grad_padded[:, :, :, rows, columns] += (grad * kernels[:, :, tap, None]).sum(dim=(4, 6))
        grad_kernels[:, :, tap] = (grad * padded[:, :, :, rows, None, columns, None]).sum(dim=2)
    margin, (height, width) = kernel_size // 2, features.shape[2:]
    inner = grad_padded[:, :, :, margin : margin + height, margin : margin + width]
    grad_input += inner.reshape(grad_input.shape)
    grad_masks += grad_kernels.reshape(grad_masks.shape)


def _grouped_map(features: Tensor, groups: int, scale: int) -> Tensor:
    """View ``(N, C, s H, s W)`` as ``(N, groups, C / groups, H, s, W, s)``."""
    batch, channels, height, width = features.shape
    return features.view(batch, groups, channels // groups, height // scale, scale, width // scale, scale)


def _grouped(features: Tensor, masks: Tensor, size: int, groups: int, scale: int) -> tuple[Tensor, Tensor]:
    """Return features, padded, ``(N, groups, C / groups, ...)``, and kernels ``(N, groups, k^2, H, s, W, s)``."""
    padded = F.pad(features, [size // 2] * 4)
    padded = padded.view(len(features), groups, features.shape[1] // groups, *padded.shape[2:])
    return padded, _grouped_map(masks.contiguous(), groups, scale)


def _taps(features: Tensor, size: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield the number of each tap of the kernel, and the padded features' rows and columns that it sees."""
    height, width = features.shape[2:]
    for tap in range(size**2):
        row, column = divmod(tap, size)
        yield tap, slice(row, row + height), slice(column, column + width)
