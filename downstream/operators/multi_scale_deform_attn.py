"""Multi-scale deformable attention (Zhu et al., Deformable DETR, arXiv 2010.04159, equation 3).

mmcv calls these operators on GPUs; on CPUs it has this arithmetic in torch itself. It is done level by level here, so
that only one level's samples are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from downstream.operators.precision import widen, widened


@widened
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weigh samples of feature maps.

    Args:
        value: ``(N, keys, heads, channels)``; the levels' pixels one after the other.
        value_spatial_shapes: ``(levels, 2)``; height and width of each.
        value_level_start_index: ``(levels,)``; first key of each.
        sampling_locations: ``(N, queries, heads, levels, points, 2)``; x and y, 0 to 1 across the feature map.
        attention_weights: ``(N, queries, heads, levels, points)``.
        im2col_step: images at once; all of them here.

    Returns:
        ``(N, queries, heads * channels)``.
    """
    batch, _, heads, channels = value.shape
    total = widen(value).new_zeros(batch, sampling_locations.shape[1], heads * channels)
    for level, keys, shape in _levels(value_spatial_shapes):
        total += _attend(
            widen(value[:, keys]),
            widen(sampling_locations[:, :, :, level]),
            widen(attention_weights[:, :, :, level]),
            shape,
        )
    return total.to(value.dtype)


@widened
def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the gradients of `ms_deform_attn_forward` to the three tensors ``grad_*``."""
    for level, keys, shape in _levels(value_spatial_shapes):
        with torch.enable_grad():
            wanted = [
                widen(tensor).detach().requires_grad_()
                for tensor in (
                    value[:, keys],
                    sampling_locations[:, :, :, level],
                    attention_weights[:, :, :, level],
                )
            ]
            attended = _attend(wanted[0], wanted[1], wanted[2], shape)
        gradients = torch.autograd.grad(attended, wanted, widen(grad_output))
        grad_value[:, keys] += gradients[0]
        grad_sampling_loc[:, :, :, level] += gradients[1]
        grad_attn_weight[:, :, :, level] += gradients[2]


def _levels(shapes: Tensor) -> Iterator[tuple[int, slice, tuple[int, int]]]:
    """Yield each level's number, keys, and height and width."""
    start = 0
    for level, (height, width) in enumerate(shapes.tolist()):
        yield level, slice(start, start + height * width), (height, width)
        start += height * width


def _attend(value: Tensor, locations: Tensor, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    """Attend to one level: ``(N, keys, heads, channels)`` to ``(N, queries, heads * channels)``."""
    batch, _, heads, channels = value.shape
    maps = value.permute(0, 2, 3, 1).reshape(batch * heads, channels, *shape)
    grid = locations.transpose(1, 2).flatten(0, 1) * 2 - 1
    samples = F.grid_sample(maps, grid, align_corners=False)  # (N * heads, channels, queries, points)
    attended = (samples * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(dim=3)
    return attended.view(batch, heads * channels, -1).transpose(1, 2)
