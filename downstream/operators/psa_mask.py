"""The over-complete attention maps of PSANet, cut to the feature map (Zhao et al., PSANet, ECCV 2018, section 3.3).

Each pixel predicts a map of ``h_mask * w_mask`` around itself. The result relates every pixel to every other,
``(N, H * W, H, W)``; what lies beside the feature map falls out, and pixels that the map does not reach get 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from downstream.operators.precision import widened

COLLECT = 0  # mmcv's number; 1 distributes


@widened
def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the attention between all pixels into ``output``.

    Args:
        input: maps, ``(N, h_mask * w_mask, H, W)``.
        output: receives ``(N, H * W, H, W)``; the last two axes are the pixel that predicts (collect) or the one that
            it attends to (distribute).
        psa_type: 0: collect, 1: distribute.
        num_: N; the next ones are the sizes of the features and of the maps.
        half_h_mask: rows of a map above its pixel.
        half_w_mask: columns left of it.
    """
    index, seen = _index(input, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    attention = input.flatten(2).gather(1, index.expand(num_, -1, -1)) * seen
    output.copy_((attention if psa_type == COLLECT else attention.transpose(1, 2)).reshape(output.shape))


@widened
def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Add the gradient of `psamask_forward` to ``grad_input``, ``(N, h_mask * w_mask, H, W)``."""
    index, seen = _index(grad_output, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    grad = grad_output.flatten(2)
    grad = (grad if psa_type == COLLECT else grad.transpose(1, 2)) * seen
    grad_input.view(num_, h_mask * w_mask, -1).scatter_add_(1, index.expand(num_, -1, -1), grad)


def _index(
    like: Tensor, height: int, width: int, h_mask: int, w_mask: int, half_h: int, half_w: int
) -> tuple[Tensor, Tensor]:
    """Return where the map of each pixel (second axis) has each other pixel (first axis), and whether it has it."""
    rows = torch.arange(height, device=like.device)
    columns = torch.arange(width, device=like.device)
    y = (rows[:, None] - rows + half_h)[:, None, :, None]
    x = (columns[:, None] - columns + half_w)[None, :, None, :]
    seen = (y >= 0) & (y < h_mask) & (x >= 0) & (x < w_mask)
    pixels = height * width
    return torch.where(seen, y * w_mask + x, 0).view(pixels, pixels), seen.view(pixels, pixels)
