"""RoIAlign: features of boxes, pooled over bilinear samples (He et al., Mask R-CNN, arXiv 1703.06870, section 3).

Regions are ``(K, 5)``: index of the image in the batch, then ``x1, y1, x2, y2`` in pixels of the image. Pooling by the
mean is torchvision's; pooling by the maximum, which torchvision lacks, is written here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

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
        argmax_y: with pooling by the maximum, receives the row of each bin's winning sample (a real number; -1: none).
        argmax_x: the same for the column.
        aligned_height: bins from top to bottom.
        aligned_width: bins from left to right.
        spatial_scale: size of the features relative to the image, as 1/16.
        sampling_ratio: samples a bin and axis; 0: one a feature pixel, rounded up.
        pool_mode: 0: maximum, 1: mean.
        aligned: whether pixel centres are at half-integers; the original RoIAlign had them at integers.
    """
    features, regions = widen(input), widen(rois)
    if pool_mode == MAXIMUM:
        scaled = _scaled(regions, spatial_scale, aligned)
        for chosen, y, x in _samples(scaled, aligned_height, aligned_width, sampling_ratio, aligned):
            _pool_maximum(features, regions, chosen, y, x, output, argmax_y, argmax_x)
    else:
        output.copy_(
            torch.ops.torchvision.roi_align(
                features, regions.to(features), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
            )
        )


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
    grad, regions = widen(grad_output), widen(rois)
    if pool_mode == MAXIMUM:
        grad_input += _scatter_to_winners(
            grad, regions[:, 0].long(), widen(argmax_y), widen(argmax_x), grad_input.shape
        )
    else:
        grad_input += torch.ops.torchvision._roi_align_backward(
            grad,
            regions.to(grad),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )


def _scaled(regions: Tensor, spatial_scale: float, aligned: bool) -> Tensor:
    """Return the regions' corners ``(K, 4)`` in pixels of the features, counted from the first pixel's centre."""
    corners = regions[:, 1:] * spatial_scale
    return corners - 0.5 if aligned else corners


def _samples(
    corners: Tensor, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield regions that have equally many samples a bin, with the samples' rows and columns.

    Yields:
        Indices ``(k,)`` of the regions, rows ``(k, height, samples a bin)`` and columns ``(k, width, samples a bin)``.
    """
    start = corners[:, :2]
    size = corners[:, 2:] - start
    if not aligned:
        size = size.clamp_min(1)
    bins = size.new_tensor([width, height])
    bin_size = size / bins
    counts = torch.full_like(size, sampling_ratio) if sampling_ratio > 0 else bin_size.ceil().clamp_min(0)
    for count_x, count_y in counts.unique(dim=0).long().tolist():
        (chosen,) = torch.where((counts == counts.new_tensor([count_x, count_y])).all(dim=1))
        axes = []
        for axis, (bin_count, count) in enumerate([(width, count_x), (height, count_y)]):
            positions = torch.arange(bin_count, device=corners.device)[:, None] + (
                torch.arange(count, device=corners.device) + 0.5
            ) / max(count, 1)
            axes.append(start[chosen, axis, None, None] + positions * bin_size[chosen, axis, None, None])
        yield chosen, axes[1], axes[0]


def corners_of(y: Tensor, x: Tensor, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the four pixels around each point and their bilinear weights.

    Points up to one pixel outside the feature map take the border's value; further out all four weights are 0.

    Args:
        y: rows, any shape.
        x: columns, broadcasting with ``y``.
        height: of the feature map.
        width: of the feature map.

    Yields:
        Indices into the flattened feature map, and weights, of the points' shape.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    down, right = y - top, x - left
    for row, row_weight in ((top, 1 - down), ((top + 1).clamp_max(height - 1), down)):
        for column, column_weight in ((left, 1 - right), ((left + 1).clamp_max(width - 1), right)):
            yield (row * width + column).long(), row_weight * column_weight * inside


def _pool_maximum(
    features: Tensor,
    regions: Tensor,
    chosen: Tensor,
    y: Tensor,
    x: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
) -> None:
    """Pool the chosen regions by the maximum over the samples of a bin; see `_samples` and `roi_align_forward`."""
    (count, height, samples_y), (_, width, samples_x) = y.shape, x.shape
    samples = samples_y * samples_x
    if samples == 0:
        output[chosen] = torch.finfo(torch.float32).min
        argmax_y[chosen] = argmax_x[chosen] = -1
        return
    whole = (count, height, width, samples_y, samples_x)
    y = y[:, :, None, :, None].expand(whole).reshape(count, height, width, samples)
    x = x[:, None, :, None, :].expand(whole).reshape(count, height, width, samples)
    flat = features.flatten(2)
    image = regions[chosen, 0].long()[:, None, None, None]
    values = sum(
        flat[image, :, pixel] * weight[..., None] for pixel, weight in corners_of(y, x, *features.shape[2:])
    )  # (k, height, width, samples, C)
    best, winner = values.max(dim=3)
    output[chosen] = best.movedim(3, 1).to(output.dtype)
    argmax_y[chosen] = y.gather(3, winner).movedim(3, 1).to(argmax_y.dtype)
    argmax_x[chosen] = x.gather(3, winner).movedim(3, 1).to(argmax_x.dtype)


def _scatter_to_winners(grad: Tensor, image: Tensor, y: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient of pooling by the maximum: each bin's goes to the four pixels around its winning sample."""
    batch, channels, height, width = shape
    result = grad.new_zeros(batch * channels, height * width)
    plane = (image[:, None] * channels + torch.arange(channels, device=grad.device))[:, :, None, None].expand_as(grad)
    grad = grad * (y != -1)
    for pixel, weight in corners_of(y, x, height, width):
        result.index_put_((plane, pixel), grad * weight, accumulate=True)
    return result.view(shape)
