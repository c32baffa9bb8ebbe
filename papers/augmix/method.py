"""AugMix: chains of operations, mixed with each other and with the image, and a loss that makes predictions agree.

Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", ICLR 2020, arXiv
1912.02781. For an image x, ``W`` chains of one to three random operations give x_1 .. x_W. With weights w from a
Dirichlet distribution and a share m from a Beta distribution, the augmented image is
``(1 - m) x + m (w_1 x_1 + ... + w_W x_W)``. Two such images go through the network beside x, and the Jensen-Shannon
divergence of the three predictions is added to the loss.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from papers.augmix.draws import Draws, magnitudes
from papers.augmix.operations import apply

#: Predictions of a mean below this count as this in the divergence, so that no logarithm is infinite.
SMALLEST = 1e-7


def augment_and_mix(images: Tensor, draws: Draws) -> Tensor:
    """Augment and mix a batch, on its device.

    Args:
        images: (N, C, H, W) uint8, with 1 or 3 channels.
        draws: what chance decided for each of the N images.

    Returns:
        (N, C, H, W) float32, between 0 and 255: what is mixed is not rounded.
    """
    count, width = draws.weights.shape
    chains = apply_chains(images, draws).view(count, width, *images.shape[1:])
    weights, share = (torch.from_numpy(array).to(images.device) for array in (draws.weights, draws.share))
    mixture = chains[:, 0].float().mul_(weights[:, 0].view(-1, 1, 1, 1))
    for chain in range(1, width):
        mixture.addcmul_(chains[:, chain].float(), weights[:, chain].view(-1, 1, 1, 1))
    return images.float().lerp_(mixture, share.view(-1, 1, 1, 1))


def apply_chains(images: Tensor, draws: Draws) -> Tensor:
    """The end of every chain of operations, (N * W, C, H, W) uint8, an image's chains after one another."""
    height, width = images.shape[2:]
    operation, level, negative = (a.reshape(-1, a.shape[2]) for a in (draws.operation, draws.level, draws.negative))
    magnitude = magnitudes(operation, level, negative, width, height)
    chains = images.repeat_interleave(draws.weights.shape[1], dim=0)
    for step in range(int(draws.depth.max())):
        going = np.flatnonzero(draws.depth.reshape(-1) > step)
        index = torch.from_numpy(going).to(images.device)
        changed = apply(chains.index_select(0, index), operation[going, step], magnitude[going, step])
        chains.index_copy_(0, index, changed)
    return chains


def jensen_shannon(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of several predictions for the same images, a scalar in [0, log V].

    It is the mean Kullback-Leibler divergence of the predictions from their mean, averaged over the batch; gradients
    flow through the predictions and through their mean.

    Args:
        logits: (V, B, classes), V predictions (clean and augmented) for B images.
    """
    log_predictions = logits.log_softmax(dim=-1)
    predictions = log_predictions.exp()
    log_mean = predictions.mean(dim=0).clamp(SMALLEST, 1).log()
    return (predictions * (log_predictions - log_mean)).sum(dim=-1).mean()
