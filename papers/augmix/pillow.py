"""AugMix on one image at a time with Pillow: the operations as they are published, one after the other.

What the batched form is compared with, in results and in time. It shares the draws and their meaning with it, and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from papers.augmix.draws import ALL_OPERATIONS, Draws, magnitudes


def apply(image: Image.Image, name: str, magnitude: float) -> Image.Image:
    """Apply one operation; the magnitude's unit is that of ``draws.magnitudes``."""
    return _OPERATIONS[name](image, magnitude)


def augment_and_mix(image: np.ndarray, draws: Draws, index: int = 0) -> np.ndarray:
    """Augment and mix one image.

    Args:
        image: (H, W, C) or (H, W) uint8.
        draws: what chance decided.
        index: which of its images this is.

    Returns:
        float32 of the same shape, between 0 and 255: convex combinations need no rounding.
    """
    height, width = image.shape[:2]
    magnitude = magnitudes(draws.operation[index], draws.level[index], draws.negative[index], width, height)
    mixture = np.zeros(image.shape, np.float32)
    for chain, weight in enumerate(draws.weights[index]):
        augmented = Image.fromarray(image)
        for step in range(draws.depth[index, chain]):
            name = ALL_OPERATIONS[draws.operation[index, chain, step]]
            augmented = apply(augmented, name, float(magnitude[chain, step]))
        mixture += weight * np.asarray(augmented, np.float32)
    share = draws.share[index]
    return (1 - share) * image.astype(np.float32) + share * mixture


def _mapped(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "rotate": lambda image, degrees: image.rotate(degrees, resample=Image.Resampling.BILINEAR),
    "solarize": lambda image, threshold: ImageOps.solarize(image, int(threshold)),
    "shear_x": lambda image, slope: _mapped(image, 1, slope, 0, 0, 1, 0),
    "shear_y": lambda image, slope: _mapped(image, 1, 0, 0, slope, 1, 0),
    "translate_x": lambda image, pixels: _mapped(image, 1, 0, pixels, 0, 1, 0),
    "translate_y": lambda image, pixels: _mapped(image, 1, 0, 0, 0, 1, pixels),
    "color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
}
