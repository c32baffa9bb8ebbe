"""Convolution at chosen places alone: their patches as columns, and the results back in their places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    features: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    data_col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the patches around chosen places into columns.

    Args:
        features: ``(1, C, H, W)``.
        mask_h_idx: rows of the M places, of the output.
        mask_w_idx: their columns.
        data_col: receives ``(C * kernel_h * kernel_w, M)``.
        kernel_h: height of a patch.
        kernel_w: width of a patch.
        pad_h: zeros above and below the features.
        pad_w: zeros on the left and right.
    """
    padded = F.pad(features[0], (pad_w, pad_w, pad_h, pad_h))
    rows = torch.arange(kernel_h, device=features.device)[:, None, None] + mask_h_idx
    columns = torch.arange(kernel_w, device=features.device)[:, None] + mask_w_idx
    data_col.copy_(padded[:, rows, columns].reshape(data_col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Write columns ``(C, M)`` into their places of ``im``, ``(1, C, height, width)``."""
    im[0, :, mask_h_idx, mask_w_idx] = col.to(im.dtype)
