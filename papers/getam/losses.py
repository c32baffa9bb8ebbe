"""What the segmentation network learns from pseudo labels, saliency and colours (section 4.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from papers.getam.labels import IGNORED


def balanced_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over background pixels plus mean over object pixels; ignored ones count nowhere.

    Args:
        logits: (B, 1 + K, H, W).
        labels: (B, H, W), 0 for background, 1 + class, or ``IGNORED``.
    """
    every = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    of_background, of_object = labels == 0, (labels != 0) & (labels != IGNORED)
    return sum(every[part].sum() / part.sum().clamp(min=1) for part in (of_background, of_object))  # type: ignore[return-value]


def saliency_loss(logits: Tensor, background: Tensor) -> Tensor:
    """Cross-entropy of the background's probability, a scalar.

    Args:
        logits: (B, 1 + K, H, W).
        background: (B, H, W) bool, where it should be.
    """
    # In float32 and from logits: probabilities of 0 and 1 would have no logarithm.
    logits = logits.float()
    score = logits[:, 0] - logits[:, 1:].logsumexp(dim=1)
    return F.binary_cross_entropy_with_logits(score, background.float())


def dense_energy(
    images: Tensor,
    logits: Tensor,
    ignored: Tensor,
    *,
    scale: float,
    sigma_rgb: float,
    sigma_xy: float,
    rows: int = 1024,
) -> Tensor:
    """Dense CRF as a loss (Tang et al., "On Regularized Losses for Weakly-supervised CNN Segmentation", ECCV 2018).

    Pixels that are near and alike should have one label: the energy is minus the sum, over pairs of pixels, of a
    Gaussian of their distance and colours times the product of their probabilities. As released, an uncertain
    pixel counts for more (a gate of 1 - its largest probability, 1 where the label is ignored), and no gradient flows
    through the gate. Pairs are summed exactly, where the release filters on a permutohedral lattice.

    Args:
        images: (B, 3, H, W) in grey values from 0 to 255.
        logits: (B, 1 + K, H, W).
        ignored: (B, H, W) bool, pixels without a label.
        scale: by which everything is made smaller.
        sigma_rgb: of colours.
        sigma_xy: of distances, in pixels before scaling.
        rows: pixels whose pairs are computed at once.
    """
    images = F.interpolate(images, scale_factor=scale)
    probabilities = F.interpolate(logits.softmax(dim=1), scale_factor=scale, mode="bilinear", align_corners=False)
    ignored = F.interpolate(ignored[:, None].float(), scale_factor=scale)[:, 0] > 0
    flat = probabilities.flatten(2).transpose(1, 2)  # (B, N, 1 + K)
    with torch.no_grad():
        gate = (1 - probabilities.amax(dim=1)).masked_fill(ignored, 1.0).flatten(1)[..., None]
        filtered = gate * _filtered(images, flat, sigma_rgb, sigma_xy * scale, rows)
    product = (flat * filtered).sum() / len(images)
    return product.detach() - 2 * product  # of this value, and of this gradient: both factors of a pair are variables


def _filtered(images: Tensor, values: Tensor, sigma_rgb: float, sigma_xy: float, rows: int) -> Tensor:
    """Sum over all pixels of their values (B, N, C), weighted by the bilateral Gaussian."""
    height, width = images.shape[-2:]
    at = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(images) / sigma_xy
    points = torch.cat([at.expand(len(images), -1, -1), images.flatten(2).transpose(1, 2) / sigma_rgb], dim=2)
    parts = [
        (-(torch.cdist(some, points) ** 2) / 2).exp() @ values.to(points.dtype) for some in points.split(rows, dim=1)
    ]
    return torch.cat(parts, dim=1)
