"""What features of a block are good for: neighbours, clusters, and correspondence of keypoints. Nothing is trained."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor


def nearest_neighbours(train: Tensor, labels: Tensor, test: Tensor, k: int, temperature: float) -> Tensor:
    """The class that the k nearest images vote for, by cosine; a vote weighs exp(cosine / temperature); (M,).

    Args:
        train: (N, C), at least k of them.
        labels: (N,), from 0.
        test: (M, C).
        k: neighbours.
        temperature: above 0; how much more a nearer neighbour's vote weighs.
    """
    cosines, nearest = (F.normalize(test, dim=1) @ F.normalize(train, dim=1).T).topk(k, dim=1)
    votes = torch.zeros(len(test), int(labels.max()) + 1, device=test.device)
    return votes.scatter_add(1, labels[nearest], (cosines / temperature).exp()).argmax(dim=1)


def average_precision(queries: Tensor, query_labels: Tensor, gallery: Tensor, labels: Tensor) -> Tensor:
    """How high images of a query's class stand among a gallery's by cosine, (Q,) in [0, 1].

    Args:
        queries: (Q, C); of each class there are images in the gallery.
        query_labels: (Q,).
        gallery: (N, C).
        labels: (N,).
    """
    order = (F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T).argsort(dim=1, descending=True)
    relevant = labels[order] == query_labels[:, None]
    precision = relevant.cumsum(dim=1) / torch.arange(1, len(gallery) + 1, device=order.device)
    return (precision * relevant).sum(dim=1) / relevant.sum(dim=1)


def cluster(features: np.ndarray, count: int) -> np.ndarray:
    """The cluster of each vector, (N,), by k-means as released: features as they are, seed 0, the library's defaults.

    Args:
        features: (N, C).
        count: of clusters.
    """
    return KMeans(n_clusters=count, random_state=0).fit_predict(features)


def agreement(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """How well clusters agree with classes.

    Args:
        labels: (N,), any integers.
        clusters: (N,), any integers.

    Returns:
        ``nmi``, the normalised mutual information in [0, 1]; ``ari``, the adjusted Rand index; ``purity``, the share of
        vectors that are of their cluster's most frequent class.
    """
    (_, of), (_, clustered) = (np.unique(values, return_inverse=True) for values in (labels, clusters))
    table = np.zeros((clustered.max() + 1, of.max() + 1), dtype=int)
    np.add.at(table, (clustered, of), 1)
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "purity": float(table.max(axis=1).sum() / len(labels)),
    }


def dense(tokens: Tensor, side: int) -> Tensor:
    """Features of every pixel, (B, side * side, C): those of patches, of length 1, interpolated bilinearly.

    Args:
        tokens: (B, 1 + g * g, C), the class token first.
        side: of the image, in pixels.
    """
    grid = math.isqrt(tokens.shape[1] - 1)
    maps = F.normalize(tokens[:, 1:], dim=2).transpose(1, 2).unflatten(2, (grid, grid))
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


def transfer_keypoints(source: Tensor, target: Tensor, keypoints: Tensor, side: int) -> Tensor:
    """Where the keypoints of one image are found in another: at the pixel of the largest dot product.

    Args:
        source, target: tokens (B, 1 + g * g, C) of pairs of images.
        keypoints: (B, K, 2), x and y in the source in pixels, inside of the image; as released, x is rounded down and y
            to the nearest.
        side: of the images, in pixels.

    Returns:
        (B, K, 2), x and y in the target, whole numbers.
    """
    rows = keypoints[..., 1].round().long().clamp(max=side - 1)  # one in the lower half of the last row stays in it
    places = rows * side + keypoints[..., 0].long()
    asked = dense(source, side).gather(1, places[..., None].expand(-1, -1, source.shape[2]))
    best = (asked @ dense(target, side).transpose(1, 2)).argmax(dim=2)
    return torch.stack([best % side, best // side], dim=-1)


def found(matches: Tensor, truth: Tensor, size: Tensor, alpha: float) -> Tensor:
    """Whether keypoints are found, (B, K) bool: nearer than ``alpha`` of the object's larger side.

    Args:
        matches, truth: (B, K, 2), in pixels.
        size: (B,), the larger side of the target's box, in pixels.
        alpha: released: 0.1, 0.05 and 0.01.
    """
    return (matches - truth).float().norm(dim=-1) < alpha * size[:, None]
