"""Fewer training images than the bench has, for what a paper says about the amount of data.

Apart from :mod:`common.bench.images`, by whose code the test sets are named.
"""

from __future__ import annotations

from functools import lru_cache

from common.bench.images import training_data
from common.training.data import TensorData


@lru_cache(maxsize=2)
def few_training_images(count: int) -> TensorData:
    """The first ``count`` of the training images, as often as it takes to be as many as all, for the same recipe.

    More of them contain fewer of them. Images for validation are the same.
    """
    every = training_data()
    images, labels = every.train
    times = -(-len(images) // count)
    return TensorData(images[:count].repeat(times, 1, 1, 1), labels[:count].repeat(times), *every.validation)
