"""RoIAlign: features of regions, pooled over bilinear samples (He et al., Mask R-CNN, arXiv 1703.06870, section 3).

Regions are ``(K, 5)``: index of the image in the batch, then ``x1, y1, x2, y2`` in pixels of the image. Pooling by the
mean is torchvision's; pooling by the maximum, which torchvision lacks, is written here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from downstream.operators.bilinear import neighbours, sample, samples_of_bins
from downstream.operators.precision import widen, widened

MAXIMUM = 0  # mmcv's number for pooling by the maximum; 1 is the mean


@widened
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool each region into ``aligned_height`` by ``aligned_width`` bins.

    Args:
        input: features, ``(N, C, H, W)``.
        rois: ``(K, 5)``.
        output: receives ``(K, C, aligned_height, aligned_width)``.
        argmax_y: with pooling by the maximum, receives the row of each bin's winning sample (a real number; -1 where
            a bin has no sample).
        argmax_x: the same for the column.
        aligned_height: bins from top to bottom.
        aligned_width: bins from left to right.
        spatial_scale: size of the features relative to the image, as 1/16.
        sampling_ratio: samples a bin and axis; 0: one a feature pixel, rounded up.
        pool_mode: 0: maximum, 1: mean.
        aligned: whether pixel centres are at half-integers; in the original RoIAlign they are at integers.
    """
    features, regions = widen(input), widen(rois).to(widen(input))
    if pool_mode != MAXIMUM:
        output.copy_(
            torch.ops.torchvision.roi_align(
                features, regions, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
            )
        )
        return
    output.fill_(torch.finfo(torch.float32).min if output.dtype != torch.float16 else torch.finfo(torch.float16).min)
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    corners = regions[:, 1:] * spatial_scale
    if aligned:
        corners = corners - 0.5
    else:  # at least one pixel wide and high
        corners = torch.cat([corners[:, :2], torch.maximum(corners[:, 2:], corners[:, :2] + 1)], dim=1)
    for chosen, y, x in samples_of_bins(corners, aligned_height, aligned_width, sampling_ratio, features.shape[1]):
        if y.shape[3] == 0:
            continue
        values, winner = sample(features, regions[chosen, 0].long()[:, None, None, None], y, x).max(dim=3)
        output[chosen] = values.movedim(3, 1).to(output.dtype)
        argmax_y[chosen] = y.gather(3, winner).movedim(3, 1).to(argmax_y.dtype)
        argmax_x[chosen] = x.gather(3, winner).movedim(3, 1).to(argmax_x.dtype)


@widened
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of `roi_align_forward` with respect to the features to ``grad_input``, ``(N, C, H, W)``."""
    grad, regions = widen(grad_output), widen(rois).to(widen(grad_output))
    if pool_mode == MAXIMUM:
        grad_input += _to_winners(grad, regions[:, 0].long(), widen(argmax_y), widen(argmax_x), grad_input.shape)
        return
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad, regions, spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned
    )


def _to_winners(grad: Tensor, image: Tensor, y: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient of pooling by the maximum: each bin's goes to the pixels around its winning sample."""
    _, channels, height, width = shape
    result = grad.new_zeros(shape).flatten()
    plane = (image[:, None] * channels + torch.arange(channels, device=grad.device))[:, :, None, None]
    grad = grad * (y != -1)
    for pixel, weight in neighbours(y, x, height, width):
        result.index_add_(0, (plane * (height * width) + pixel).flatten(), (grad * weight).flatten())
    return result.view(shape)
