"""Deformable RoI pooling: the bins of RoIAlign, each moved by an offset (Dai et al., arXiv 1703.06211, section 2.2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from downstream.operators.bilinear import sample, samples_of_bins
from downstream.operators.precision import widen, widened


@widened
def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Pool each region by the mean of the samples in its moved bins.

    Args:
        input: features, ``(N, C, H, W)``.
        rois: ``(K, 5)``; index of the image, then ``x1, y1, x2, y2`` in pixels of the image.
        offset: ``(K, 2, pooled_height, pooled_width)``; x and y, relative to the region; or empty: none.
        output: receives ``(K, C, pooled_height, pooled_width)``.
        pooled_height: bins from top to bottom.
        pooled_width: bins from left to right.
        spatial_scale: size of the features relative to the image.
        sampling_ratio: samples a bin and axis; 0: one a feature pixel, rounded up.
        gamma: factor of the offsets.
    """
    features, moves = widen(input), widen(offset)
    for chosen, image, y, x, move in _samples(
        features, rois, pooled_height, pooled_width, spatial_scale, sampling_ratio, gamma
    ):
        output[chosen] = _pool(features, image, y, x, moves[chosen] if len(moves) else None, move).to(output.dtype)


@widened
def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add the gradients of `deform_roi_pool_forward` to ``grad_input`` and ``grad_offset``.

    Where a sample lies beside the feature map, the gradient with respect to its offset is that of the border's value,
    which no longer changes across the border. (mmcv's kernel extrapolates there, which is not what it pools.)
    """
    features, moves, grad = widen(input), widen(offset), widen(grad_output)
    for chosen, image, y, x, move in _samples(
        features, rois, pooled_height, pooled_width, spatial_scale, sampling_ratio, gamma
    ):
        with torch.enable_grad():
            wanted = [features.detach().requires_grad_()]
            if len(moves):
                wanted.append(moves[chosen].detach().requires_grad_())
            pooled = _pool(wanted[0], image, y, x, wanted[1] if len(moves) else None, move)
        gradients = torch.autograd.grad(pooled, wanted, grad[chosen])
        grad_input += gradients[0]
        if len(moves):
            grad_offset[chosen] += gradients[1].to(grad_offset.dtype)


def _samples(
    features: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float, sampling_ratio: int, gamma: float
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Yield regions with their images, samples before they are moved, and how far an offset of 1 moves them.

    Yields:
        Indices and images ``(k,)``, rows and columns ``(k, height, width, samples)``, moves ``(k, 2)`` in x and y.
    """
    regions = widen(rois).to(features)
    corners = regions[:, 1:] * spatial_scale - 0.5
    move = gamma * (corners[:, 2:] - corners[:, :2])
    for chosen, y, x in samples_of_bins(corners, height, width, sampling_ratio, features.shape[1]):
        if y.shape[3]:
            yield chosen, regions[chosen, 0].long(), y, x, move[chosen]


def _pool(features: Tensor, image: Tensor, y: Tensor, x: Tensor, offset: Tensor | None, move: Tensor) -> Tensor:
    """Return the means ``(k, C, height, width)`` of the samples; see `_samples`."""
    if offset is not None:
        moved = offset * move[:, :, None, None]
        x, y = x + moved[:, 0, :, :, None], y + moved[:, 1, :, :, None]
    return sample(features, image[:, None, None, None], y, x).mean(dim=3).movedim(3, 1)
