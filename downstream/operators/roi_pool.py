"""RoIPool: the maximum of the features in each bin of a region (Girshick, Fast R-CNN, arXiv 1504.08083, section 2.1).

The bins are mmcv's, not torchvision's: a region is scaled first and its bins are rounded outwards afterwards, where
torchvision rounds the region itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from downstream.operators.bilinear import MOST_VALUES, rows_of
from downstream.operators.precision import widen, widened


@widened
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Pool each region into ``pooled_height`` by ``pooled_width`` bins.

    Args:
        input: features, ``(N, C, H, W)``.
        rois: ``(K, 5)``; index of the image, then ``x1, y1, x2, y2`` in pixels, the last ones included.
        output: receives ``(K, C, pooled_height, pooled_width)``; 0 where a bin is empty.
        argmax: receives the index of the winning pixel in its feature map; -1 where a bin is empty.
        pooled_height: bins from top to bottom.
        pooled_width: bins from left to right.
        spatial_scale: size of the features relative to the image.
    """
    output.zero_()
    argmax.fill_(-1)
    features, regions = widen(input), widen(rois)
    _, channels, height, width = features.shape
    start = regions[:, 1:3] * spatial_scale
    size = (regions[:, 3:5] + 1) * spatial_scale - start
    x_edges, y_edges = (
        _edges(start[:, axis], size[:, axis], bins, limit)
        for axis, (bins, limit) in enumerate([(pooled_width, width), (pooled_height, height)])
    )
    rows = rows_of(features)
    # Largest bins first, so that regions which are gathered together waste little on padding.
    longest = [(last - first).amax(dim=1) for first, last in (x_edges, y_edges)]
    proper = (size > 0).all(dim=1) & (longest[0] > 0) & (longest[1] > 0)
    order = (longest[0] * longest[1]).argsort(descending=True)
    order = order[proper[order]]
    while len(order):
        most_x, most_y = (int(long[order].max()) for long in longest)
        count = max(1, MOST_VALUES // (pooled_height * pooled_width * most_x * most_y * channels))
        chosen, order = order[:count], order[count:]
        x, x_inside = _pixels(x_edges, chosen, most_x)
        y, y_inside = _pixels(y_edges, chosen, most_y)
        pixel = (y[:, :, None, :, None] * width + x[:, None, :, None, :]).flatten(3)
        inside = (y_inside[:, :, None, :, None] & x_inside[:, None, :, None, :]).flatten(3)
        image = regions[chosen, 0].long()[:, None, None, None]
        values = rows[image * (height * width) + pixel].masked_fill(~inside[..., None], -torch.inf)
        best, winner = values.max(dim=3)
        filled = inside.any(dim=3)[..., None]
        output[chosen] = torch.where(filled, best, 0).movedim(3, 1).to(output.dtype)
        argmax[chosen] = torch.where(filled, pixel.gather(3, winner), -1).movedim(3, 1).to(argmax.dtype)


@widened
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of `roi_pool_forward` with respect to the features to ``grad_input``, ``(N, C, H, W)``."""
    _, channels, height, width = grad_input.shape
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    target = plane[:, :, None, None] * (height * width) + argmax.clamp_min(0).long()
    grad = widen(grad_output) * (argmax >= 0)
    total = grad.new_zeros(grad_input.numel()).index_add_(0, target.flatten(), grad.flatten())
    grad_input += total.view(grad_input.shape)


def _edges(start: Tensor, size: Tensor, bins: int, limit: int) -> tuple[Tensor, Tensor]:
    """Return the first pixel of each bin and the one after its last, both ``(K, bins)``, inside the feature map."""
    bin_size = size[:, None] / bins
    place = torch.arange(bins, device=start.device)
    first = (place * bin_size + start[:, None]).floor()
    last = ((place + 1) * bin_size + start[:, None]).ceil()
    return first.clamp(0, limit).long(), last.clamp(0, limit).long()


def _pixels(edges: tuple[Tensor, Tensor], chosen: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the pixels of each bin along an axis, and which of them belong to it, both ``(k, bins, most)``."""
    first, last = (edge[chosen][..., None] for edge in edges)
    pixel = first + torch.arange(most, device=first.device)
    inside = pixel < last
    return torch.where(inside, pixel, 0), inside
