"""Images of no garment: does a network know that it does not know them?

Real data of other kinds, as scikit-learn brings it (handwritten digits, crops of two photographs), and noise of the
kinds that anomaly detection is usually tested with (Hendrycks et al., "Deep Anomaly Detection with Outlier Exposure",
ICLR 2019).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common import bench

SIDE = 28
#: Known images for each unknown one, as the publications on anomaly detection have it.
KNOWN = 5


@lru_cache(maxsize=2)
def anomalies(quick: bool) -> dict[str, Tensor]:
    """Sets of as many images as a subset of the test images has, (n, 3, 28, 28) uint8, by name."""
    count, generator = bench.test_set(quick).clean.shape[1], np.random.default_rng(0)
    sign = generator.integers(0, 2, (count, 3, SIDE, SIDE))
    sets = {
        "digits": _digits(count),
        "photographs": _photographs(count, generator),
        "gaussian": (generator.normal(0.5, 0.25, (count, 3, SIDE, SIDE)).clip(0, 1) * 255).round(),
        "rademacher": 255 * sign,
        "blobs": _blobs(count),
    }
    return {name: torch.as_tensor(images).to(torch.uint8) for name, images in sets.items()}


def _digits(count: int) -> Tensor:
    from sklearn.datasets import load_digits  # here: importing it takes seconds

    small = torch.from_numpy(load_digits().images[:count, None] * (255 / 16))
    return F.interpolate(small, (SIDE, SIDE), mode="bilinear").round().expand(-1, 3, -1, -1)


def _photographs(count: int, generator: np.random.Generator) -> np.ndarray:
    """Crops of 28 to 224 pixels, averaged to 28."""
    from sklearn.datasets import load_sample_images

    crops = []
    for photograph in (load_sample_images().images[number % 2] for number in range(count)):
        scale = int(generator.integers(1, 9))
        top, left = (int(generator.integers(0, length - scale * SIDE + 1)) for length in photograph.shape[:2])
        cut = photograph[top : top + scale * SIDE, left : left + scale * SIDE]
        crops.append(cut.reshape(SIDE, scale, SIDE, scale, 3).mean(axis=(1, 3)).transpose(2, 0, 1))
    return np.stack(crops).round()


def _blobs(count: int) -> Tensor:
    """Smoothed noise, white above its 70 % quantile and black below."""
    noise = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    smooth = F.avg_pool2d(F.avg_pool2d(noise, 5, 1, 2), 5, 1, 2)
    high = smooth.flatten(2).quantile(0.7, dim=2)[..., None, None]
    return 255 * (smooth > high)
