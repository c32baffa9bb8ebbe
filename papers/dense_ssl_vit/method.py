"""A contrast across views between pixel-level and global representations.

Rabarisoa et al., "Self-Supervised Pre-training of Vision Transformers for Dense Prediction Tasks", arXiv 2205.15173.
Only the abstract was at hand; README.md says which of its sentences each decision here rests on.

Axes: n images, each in two views i and n + i; N local features of a view; D channels of an embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.training.gathering import gather, world


def contrast_across_views(anchors: Tensor, features: Tensor, temperature: float, group: int = 0) -> Tensor:
    """Tell, for a view's anchor, the features of the image's other view from those of other images.

    Every feature of the other view is a positive by itself; its negatives are all features of the same view of other
    images, so that n images of N features give (n - 1) N of them:

        mean over views i and features p of  -log( e(i, i', p) / (e(i, i', p) + sum over j' != i', q of e(i, j', q)) )

    with e(i, j, q) = exp(cosine of anchor i and feature q of view j, over the temperature), and i' the other view of i.
    With the global representations as anchors and local features as features this is the dense loss; with global
    representations as features, one a view, it is the usual one (InfoNCE).

    Args:
        anchors: (2n, D) of this process, views i and n + i of the same image; any scale.
        features: (2n, N, D), likewise.
        temperature: above 0.
        group: images that are contrasted with one another, in the order of the batch; 0: those of all processes.

    Returns:
        A scalar; its gradient, averaged over processes, is that of one process with the whole batch.

    Raises:
        UserError: a value is out of range, or there is no other image to contrast with.
    """
    if temperature <= 0:
        raise UserError(f"The temperature of a contrast must be above 0, not {temperature}.")
    count = len(anchors) // 2
    size = group or count * world()[1]
    if size < 2 or len(anchors) % 2 or (group and count % group):
        raise UserError(f"{count} images cannot be contrasted in groups of {size}: a group has 2 at least.")
    with torch.autocast(anchors.device.type, enabled=False):
        anchors = F.normalize(anchors.float(), dim=-1) / temperature
        features = F.normalize(features.float(), dim=-1)
        losses = [
            _one_way(anchors[:count], features[count:], group),
            _one_way(anchors[count:], features[:count], group),
        ]
        return torch.stack(losses).mean()


def _one_way(anchors: Tensor, features: Tensor, group: int) -> Tensor:
    """The mean over anchors (n, D) of one view and features (n, N, D) of the other; both of unit length."""
    if group:
        anchors, features = anchors.unflatten(0, (-1, group)), features.unflatten(0, (-1, group))
        own = torch.arange(group, device=anchors.device)
    else:
        own = torch.arange(len(anchors), device=anchors.device) + world()[0] * len(anchors)
        anchors, features = anchors[None], gather(features)[None]
    images, local = features.shape[1:3]
    scores = (anchors @ features.flatten(1, 2).transpose(1, 2)).unflatten(2, (images, local))  # (groups, n, images, N)
    same = F.one_hot(own, images).bool()[None, :, :, None]
    positive = scores.masked_select(same).view(*scores.shape[:2], local)
    others = scores.masked_fill(same, -torch.inf).flatten(2).logsumexp(dim=2, keepdim=True)
    return F.softplus(others - positive).mean()
