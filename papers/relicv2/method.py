"""ReLICv2's objective: views of an image are told from other images, and alike whichever of the two views is asked.

Mitrovic et al., "Representation Learning via Invariant Causal Mechanisms", arXiv 2010.07922 (ReLIC), have the loss;
ReLICv2 applies it to several large and small views. An online network embeds all views. A target network, which follows
it slowly and gets no gradient, embeds the large ones.

Axes: B images, d channels of an embedding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.training.crops import resized_crops, sample_boxes
from common.training.gathering import gather, world


class Terms(NamedTuple):
    """The two terms of the loss, scalars."""

    contrast: Tensor
    invariance: Tensor


def relic_terms(online: Tensor, target: Tensor, temperature: float, kept: Tensor | None = None) -> Terms:
    """Contrast of one view in the online network with another in the target network, and invariance between the two.

    - contrast: - log p(i | online_i), mean over images, where p(. | online_i) is the softmax over the target's
      embeddings of cosine / temperature.
    - invariance: KL(p(. | target_i) || p(. | online_i)), mean over images, where target_i asks in turn and the online
      embeddings answer. What the target says is taken as given: no gradient flows through it.

    Images of all processes answer; the mean is over those of this one.

    Args:
        online: (B, d), any scale.
        target: (B, d) of the same images, any scale; no gradient flows into it.
        temperature: above 0.
        kept: bool (B, N), which of the N images of all processes answer which of this one's, itself always. All where
            it is None.

    Raises:
        UserError: the temperature is not above 0.
    """
    if temperature <= 0:
        raise UserError(f"The temperature must be above 0, not {temperature}: set method.temperature.")
    with torch.autocast(online.device.type, enabled=False):
        own, given = F.normalize(online.float(), dim=1), F.normalize(target.detach().float(), dim=1)
        scores = own @ gather(given).T / temperature
        asked = given @ gather(own.detach()).T / temperature
        if kept is not None:
            scores, asked = (values.masked_fill(~kept, -torch.inf) for values in (scores, asked))
        by_online, by_target = scores.log_softmax(dim=1), asked.log_softmax(dim=1)
        rank, _ = world()
        itself = torch.arange(len(own), device=own.device) + rank * len(own)
        contrast = F.nll_loss(by_online, itself)
        difference = by_target - by_online
        if kept is not None:
            difference = difference.masked_fill(~kept, 0)  # what neither has is no difference
        invariance = (by_target.exp() * difference).sum(dim=1).mean()
    return Terms(contrast, invariance)


def negatives(count: int, images: int, generator: torch.Generator) -> Tensor | None:
    """For each of ``images`` itself and ``count`` others, drawn without replacement, bool (images, images).

    None where ``count`` is 0, which stands for all others.

    Raises:
        UserError: there are not so many others.
    """
    if not count:
        return None
    if not 0 < count < images:
        raise UserError(f"{images} images have {images - 1} others, not {count}: set method.negatives.")
    order = torch.rand(images, images, generator=generator).fill_diagonal_(-1).argsort(dim=1)[:, : count + 1]
    return torch.zeros(images, images, dtype=torch.bool).scatter_(1, order, True)


def without_background(images: Tensor, masks: Tensor, chosen: Tensor) -> Tensor:
    """Black in place of what is no object, in the chosen images.

    Args:
        images: (B, C, H, W) in [0, 1].
        masks: (B, 1, H, W) bool, the object.
        chosen: (B,) bool.
    """
    return images * (masks | ~chosen[:, None, None, None])


def small_views(
    images: Tensor, side: int, scale: tuple[float, float], total: int, own: slice, generator: torch.Generator
) -> Tensor:
    """Random resized crops of ``side`` pixels, (B, C, side, side).

    Args:
        images: (B, C, H, W) in [0, 1], ``own`` of a batch of ``total``.
        side: in pixels.
        scale: smallest and largest share of the image's area.
        total, own: draws are made for the whole batch and shared out as the images are.
        generator: on the CPU.
    """
    height, width = images.shape[-2:]
    boxes = sample_boxes(total, height, width, scale, (3 / 4, 4 / 3), generator)[own]
    return resized_crops(images, boxes.to(images.device), side)


def target_decay(base: float, step: int, steps: int) -> float:
    """How much of the target network stays in a step: from ``base`` to 1 along a cosine, as in utils/schedules.py."""
    return 1 - (1 - base) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2
