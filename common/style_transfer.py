"""Adaptive instance normalisation: style as the mean and deviation of features.

Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017, arXiv
1703.06868: an encoder's features of a content image, each channel with the mean and the deviation over places that it
has for a style image, are decoded to an image (equation 8).
"""

from __future__ import annotations

from torch import Tensor

#: Added to every variance.
EPSILON = 1e-5


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation over places, (B, C, 1, 1) each, of features (B, C, H, W)."""
    return features.mean(dim=(2, 3), keepdim=True), (features.var(dim=(2, 3), keepdim=True) + EPSILON).sqrt()


def adain(content: Tensor, style: Tensor, strength: float = 1.0) -> Tensor:
    """``content`` with the moments of ``style``.

    Args:
        content: features (B, C, H, W).
        style: features (B, C, h, w) of as many style images, or of one for all.
        strength: 0 returns the content, 1 has the style's moments; between them, features are interpolated.
    """
    (mean, deviation), (new_mean, new_deviation) = moments(content), moments(style)
    restyled = (content - mean) / deviation * new_deviation + new_mean
    return content.lerp(restyled, strength)
