"""Stability on the perturbation sequences of ImageNet-P (Hendrycks and Dietterich, arXiv 1903.12261, section 4.2).

A sequence is a short video. In noise sequences every later frame is compared with the first one, since noise is
drawn anew for each frame; in the others each frame is compared with the one ``difficulty`` frames before it.
AlexNet's flip rates and distances are in no released code, so the normalised metrics take them as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import torch
from torch import Tensor

from common.errors import UserError

#: The 10 perturbations of the benchmark, in its order.
PERTURBATIONS = (
    "gaussian_noise",
    "shot_noise",
    "motion_blur",
    "zoom_blur",
    "snow",
    "brightness",
    "translate",
    "rotate",
    "tilt",
    "scale",
)
#: The 4 extra ones.
EXTRA_PERTURBATIONS = ("speckle_noise", "gaussian_blur", "spatter", "shear")

#: Perturbations whose frames are compared with the first one.
NOISE = ("gaussian_noise", "shot_noise", "speckle_noise")


def frame_pairs(frames: int, *, noise: bool, difficulty: int = 1) -> tuple[Tensor, Tensor]:
    """Indices ``(P,)`` of the reference frames and ``(P,)`` of the later frames that are compared with them."""
    step = 1 if noise else difficulty
    if not 1 <= step < frames:
        raise UserError(f"difficulty {difficulty} does not fit sequences of {frames} frames; use 1 to {frames - 1}.")
    later = torch.arange(step, frames)
    return torch.zeros_like(later) if noise else later - step, later


def flip_probability(predictions: Tensor, *, noise: bool, difficulty: int = 1) -> Tensor:
    """Share of compared frames whose prediction differs, of each sequence.

    Args:
        predictions: ``(V, T)``, predicted classes of V sequences of T frames.
        noise: whether the perturbation is one of ``NOISE``.
        difficulty: number of frames between compared ones.

    Returns:
        ``(V,)`` in [0, 1]; the benchmark's flip probability is its mean.
    """
    reference, later = frame_pairs(predictions.shape[1], noise=noise, difficulty=difficulty)
    return (predictions[:, reference] != predictions[:, later]).double().mean(1)


def ranks(logits: Tensor) -> Tensor:
    """Rank of every class by decreasing logit, from 1, ties in the order of classes: ``(..., K)`` int64."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    positions = torch.arange(1, logits.shape[-1] + 1, device=logits.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, positions)


def top5_distance(rank: Tensor, *, noise: bool, difficulty: int = 1) -> Tensor:
    """How far the five best classes move between compared frames, of each sequence.

    Args:
        rank: ``(V, T, K)`` from ``ranks``.
        noise: as in ``flip_probability``.
        difficulty: as in ``flip_probability``.

    Returns:
        ``(V,)``: mean over pairs of sum_{i=1..5} |(i - 1) - min(sigma(i) - 1, 5)|, where sigma(i) is the later rank
        of the class at rank i of the reference frame.
    """
    if rank.shape[-1] < 5:
        raise UserError(f"the top-5 distance needs five or more classes; there are {rank.shape[-1]}.")
    sigma = _permutation(rank, noise=noise, difficulty=difficulty)[..., :5]
    place = torch.arange(5, device=rank.device)
    return (place - (sigma - 1).clamp(max=5)).abs().sum(-1).double().mean(1)


def zipf_distance(rank: Tensor, *, noise: bool, difficulty: int = 1) -> Tensor:
    """Like ``top5_distance`` over all classes with weight 1/i: mean over pairs of sum_i |1/i - 1/sigma(i)| / i."""
    sigma = _permutation(rank, noise=noise, difficulty=difficulty).double()
    place = torch.arange(1, rank.shape[-1] + 1, dtype=torch.float64, device=rank.device)
    return ((1 / place - 1 / sigma).abs() / place).sum(-1).mean(1)


def mfr(flip: Mapping[str, float], alexnet: Mapping[str, float]) -> float:
    """Mean flip rate in per cent: flip probabilities over AlexNet's, averaged over the 10 perturbations.

    Args:
        flip: flip probabilities in [0, 1] by perturbation.
        alexnet: AlexNet's, in (0, 1].
    """
    for name, value in (*flip.items(), *alexnet.items()):
        if value > 1:
            raise UserError(f"mFR needs flip probabilities in [0, 1]; {name} has {value}.")
    return _relative_mean("mFR", flip, alexnet)


def mt5d(distance: Mapping[str, float], alexnet: Mapping[str, float]) -> float:
    """Mean top-5 distance in per cent: distances over AlexNet's, averaged over the 10 perturbations."""
    return _relative_mean("mT5D", distance, alexnet)


def _relative_mean(metric: str, values: Mapping[str, float], alexnet: Mapping[str, float]) -> float:
    for whose, table in (("the model", values), ("AlexNet", alexnet)):
        for name in PERTURBATIONS:
            if name not in table:
                raise UserError(f"{metric} needs all 10 perturbations; {whose} has no value for {name}.")
            # Written so that NaN fails too.
            if not table[name] >= 0 or (whose == "AlexNet" and table[name] == 0):
                raise UserError(
                    f"{metric} needs numbers that are not negative, AlexNet's above 0; {name} has {table[name]}."
                )
    return 100 * fmean(values[name] / alexnet[name] for name in PERTURBATIONS)


def _permutation(rank: Tensor, *, noise: bool, difficulty: int) -> Tensor:
    """Later rank of the class at each rank of the reference frame, ``(V, P, K)``."""
    reference, later = frame_pairs(rank.shape[1], noise=noise, difficulty=difficulty)
    return rank[:, later].gather(-1, rank[:, reference].argsort(dim=-1))
