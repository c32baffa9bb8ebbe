"""PRIME: chains of a few random primitives, mixed with each other and with the image.

Modas et al., "PRIME: A Few Primitives Can Boost Robustness to Common Corruptions", ECCV 2022, arXiv 2112.13547. As in
AugMix, W chains of one to three operations start from the image; their ends are mixed by weights from a Dirichlet
distribution, and the mixture with the image by a share from a Beta distribution. The operations are three families
that hold no corruption of any benchmark: smooth displacements of space, smooth maps of colours, and random filters,
each of maximum entropy for its smoothness (`papers.prime.primitives`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from papers.prime.draws import PRIMITIVES, Draws, Step
from papers.prime.primitives import Colours, Filters, displace, recolour, refilter


def augment(images: Tensor, draws: Draws) -> Tensor:
    """Augment a batch of square images in [0, 1], (N, C, H, H), on its device."""
    count, width = draws.weights.shape
    chains = apply_chains(images, draws).view(width, count, *images.shape[1:])
    mixture = torch.einsum("nw,wnchv->nchv", draws.weights, chains)
    return images.lerp(mixture, draws.share.view(-1, 1, 1, 1))


def apply_chains(images: Tensor, draws: Draws) -> Tensor:
    """The end of every chain, (W * N, C, H, H): the first chain of all images, then their second one, and so on."""
    chains = images.repeat(draws.weights.shape[1], 1, 1, 1)
    for number, step in enumerate(draws.steps):
        going = draws.depth > number
        for code in range(len(PRIMITIVES)):
            chosen = (going & (step.primitive == code)).nonzero()[:, 0].to(images.device)
            if len(chosen):
                chains.index_copy_(0, chosen, apply(chains.index_select(0, chosen), code, step, chosen))
    return chains


def apply(images: Tensor, code: int, step: Step, chosen: Tensor) -> Tensor:
    """Apply the primitive ``PRIMITIVES[code]`` of a step to images that stand at ``chosen`` of its chains."""
    if PRIMITIVES[code] == "displace":
        return displace(images, step.displacement)
    if PRIMITIVES[code] == "recolour":
        colours = step.colours
        return recolour(images, Colours(colours.coefficients[chosen], colours.first, colours.strength))
    filters = step.filters
    return refilter(images, Filters(filters.noise[chosen], filters.sigma, filters.centred))
