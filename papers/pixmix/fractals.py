"""Pictures of iterated function systems, in place of the fractals that PixMix was published with.

A system is a few affine maps that bring points closer together. A point to which random ones of them are applied, again
and again, wanders over a fractal; where it comes often, the picture is bright, and its colour tells which maps it took
last (Draves and Reckase, "The Fractal Flame Algorithm"). Maps are drawn by their singular values, which keeps them
contracting (Anderson and Farrell, "Improving Fractal Pre-training", WACV 2022).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from common.data.fashion_mnist import data_folder
from common.files import write_atomic

#: Rises when pictures become others.
VERSION = 1
#: Steps of each point, and those before it is on the fractal.
STEPS, FIRST_STEPS = 60, 15
#: The least share of a picture that a fractal may cover; dust and lines are drawn again.
COVERED = 0.2


def fractals(count: int, side: int) -> np.ndarray:
    """Pictures (count, 3, side, side) uint8, the same at every call; kept in the data folder."""
    path = data_folder() / "pixmix" / f"fractals-{VERSION}-{count}-{side}.npy"
    if not path.exists():
        drawn = np.stack([fractal(side, np.random.default_rng((VERSION, number))) for number in range(count)])
        write_atomic(path, partial(np.save, arr=drawn))
    return np.load(path, allow_pickle=False)


def fractal(side: int, generator: np.random.Generator) -> np.ndarray:
    """One picture, (3, side, side) uint8, that is covered well enough."""
    while True:
        hits, colours = _orbit(side, generator)
        if (hits > 0).mean() >= COVERED:
            break
    bright = np.log1p(hits) / np.log1p(hits.max())
    background = generator.uniform(0, 0.5, (3, 1, 1))
    return (255 * (background + (colours - background) * bright)).round().astype(np.uint8)


def _orbit(side: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How often points come to each pixel, (side, side), and the mean colour there, (3, side, side) in [0, 1]."""
    matrices, shifts = _maps(generator)
    palette = generator.uniform(0.2, 1, (len(matrices), 3))
    weight = np.abs(np.linalg.det(matrices)) + 0.01
    count = max(4000, side * side // 2)
    points, colours = generator.uniform(-1, 1, (count, 2)), np.full((count, 3), 0.5)
    places, seen = [], []
    for step in range(STEPS):
        chosen = generator.choice(len(matrices), count, p=weight / weight.sum())
        points = np.einsum("nij,nj->ni", matrices[chosen], points) + shifts[chosen]
        colours = (colours + palette[chosen]) / 2
        if step >= FIRST_STEPS:
            places.append(points)
            seen.append(colours)
    place, colour = np.concatenate(places), np.concatenate(seen)
    low, high = np.quantile(place, (0.01, 0.99), axis=0)
    pixel = ((place - low) / np.maximum(high - low, 1e-9) * side).astype(int)
    inside = ((pixel >= 0) & (pixel < side)).all(axis=1)
    flat = pixel[inside, 0] * side + pixel[inside, 1]
    hits = np.bincount(flat, minlength=side * side)
    mean = [np.bincount(flat, channel, side * side) / np.maximum(hits, 1) for channel in colour[inside].T]
    return hits.reshape(side, side), np.stack(mean).reshape(3, side, side)


def _maps(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two to six contracting maps: matrices (n, 2, 2), shifts (n, 2)."""
    count = int(generator.integers(2, 7))
    large = generator.uniform(0.4, 0.9, count)
    values = np.stack([large, large * generator.uniform(0.3, 1, count)], axis=1) * generator.choice((-1, 1), (count, 2))
    left, right = (_rotations(generator.uniform(0, 2 * np.pi, count)) for _ in range(2))
    return left * values[:, None] @ right, generator.uniform(-1, 1, (count, 2))


def _rotations(angle: np.ndarray) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cosine, -sine], axis=1), np.stack([sine, cosine], axis=1)], axis=1)
