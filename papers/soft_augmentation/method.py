"""Soft Augmentation: crops that may leave most of the image out of view, and targets that soften as they do.

Liu et al., "Soft Augmentation for Image Classification", CVPR 2023, arXiv 2211.04625. A crop moves the window by a
random offset, as far as the image is wide. Of the image a share v stays in view, and the target's confidence is

    p(v) = p_max - (p_max - 1 / K) * (1 - v) ** k

for K classes: nearly ``p_max`` while little is hidden, and chance where nothing is seen. The loss is the divergence of
the prediction from that target, weighted by the confidence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError

#: What weights of images may follow, see `soft_target_loss`.
REWEIGHTING = ("image", "batch", "none")
#: Offsets that are drawn for an image before it stays where it is.
ATTEMPTS = 100


def offsets(normals: Tensor, sigma: float, limit: int) -> Tensor:
    """How far windows move along one axis, in whole pixels.

    Args:
        normals: (N, attempts), standard normal; the first one whose offset is within the limit counts.
        sigma: standard deviation of an offset, in pixels.
        limit: largest offset, in pixels.

    Returns:
        int64 (N,), rounded towards zero; 0 where no attempt is within the limit.
    """
    shift = normals * sigma
    inside = shift.abs() <= limit
    first = inside.long().argmax(dim=1, keepdim=True)  # 0 where there is none
    return torch.where(inside.any(dim=1), shift.gather(1, first)[:, 0], 0).long()


def crop(images: Tensor, offset: Tensor, background: Tensor) -> Tensor:
    """Move the window of each image.

    Args:
        images: (N, C, H, W).
        offset: (N, 2), rows and columns by which the window moves.
        background: (N, C), the value outside of the image.
    """
    height, width = images.shape[2:]
    rows = offset[:, :1] + torch.arange(height, device=images.device)
    columns = offset[:, 1:] + torch.arange(width, device=images.device)
    which = torch.arange(len(images), device=images.device)
    # Indexing puts the image axes first and the channels last.
    taken = images[
        which[:, None, None], :, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ].permute(0, 3, 1, 2)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    return torch.where(inside[:, None], taken, background[:, :, None, None])


def visibility(offset: Tensor, height: int, width: int, *, over_union: bool = False) -> Tensor:
    """Share of each image that its window shows, (N,) in [0, 1].

    Args:
        offset: (N, 2), rows and columns by which the window moved.
        height, width: of images and windows, in pixels.
        over_union: relative to the union of image and window instead of the image.
    """
    moved = offset.abs()
    seen = (height - moved[:, 0]).clamp(min=0) * (width - moved[:, 1]).clamp(min=0)
    return seen / (2 * height * width - seen) if over_union else seen / (height * width)


def confidence(
    visible: Tensor, classes: int, *, power: float = 2.0, highest: float = 1.0, threshold: float = 1.0
) -> Tensor:
    """Confidence of the target, in [1 / classes, highest].

    Args:
        visible: share of the image in view, in [0, 1].
        classes: number of classes; chance is one over it.
        power: k; 1 is a straight line, and the larger it is, the less does a small loss of view matter.
        highest: confidence where all is seen; at least chance.
        threshold: share of the image above which nothing is taken off, above 0.

    Raises:
        UserError: the threshold is not above 0.
    """
    if threshold <= 0:
        raise UserError(f"The threshold of visibility must be above 0, not {threshold}.")
    chance = 1 / classes
    highest = max(highest, chance)
    hidden = ((threshold - visible) / threshold).clamp(0, 1)
    return highest - (highest - chance) * hidden**power


def targets(labels: Tensor, confident: Tensor, classes: int) -> Tensor:
    """Distributions (N, classes) with the confidence (N,) on the label and the rest spread evenly over all others."""
    rest = ((1 - confident) / (classes - 1))[:, None].expand(-1, classes)
    return rest.scatter(1, labels[:, None], confident[:, None])


def soft_target_loss(
    logits: Tensor,
    labels: Tensor,
    confident: Tensor,
    *,
    reweight: str = "image",
    soften: bool = True,
    distribute: bool = True,
    other_class: bool = False,
) -> Tensor:
    """Divergence of predictions from softened targets, a scalar, averaged over the batch.

    Args:
        logits: (N, classes).
        labels: (N,), class indices.
        confident: (N,), confidence of each target, in [0, 1].
        reweight: ``image`` counts each image by its confidence; ``batch`` all alike by the mean confidence of the
            batch, which is what the released code computes; ``none``.
        soften: soften targets; otherwise they are one-hot, and only the weight follows the confidence.
        distribute: give the rest of the confidence to the other classes; otherwise to none, and targets sum to less
            than 1.
        other_class: give the rest to the last class alone, which then stands for none of the others.
    """
    classes = logits.shape[1]
    confident = confident.to(logits.dtype)
    certain = confident if soften else torch.ones_like(confident)
    if distribute and not other_class:
        target = targets(labels, certain, classes)
    else:
        target = torch.zeros_like(logits)
        if distribute:
            target[:, -1] = 1 - certain
        target = target.scatter(1, labels[:, None], certain[:, None])
    divergence = F.kl_div(logits.log_softmax(dim=1), target, reduction="none").sum(dim=1)
    weight = {"image": confident, "batch": confident.mean(), "none": torch.ones_like(confident)}[reweight]
    return (weight * divergence).mean()


def focal_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Cross-entropy that counts each image by ``(1 - p) ** gamma``, p the probability of its label; a scalar.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017: one of the ways to calibration that Soft
    Augmentation is compared with.
    """
    loss = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-loss).exp()) ** gamma * loss).mean()
