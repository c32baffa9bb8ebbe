"""What a new model is held to of an old one: its decisions (LwF) and its attention (pooled distillation).

- `distil_decisions`: learning without forgetting, Li and Hoiem, "Learning without Forgetting", ECCV 2016.
- `pooled_distillation`: pooled outputs (Douillard et al., "PODNet", ECCV 2020) of attention, in the symmetric form and
  in the asymmetric one of Pelosin et al., arXiv 2203.13167: the new model may attend to more than the old one did, and
  pays for attending to less. Of products of queries and keys it is the publication's attention regularisation, of
  values mixed by attention its functional regularisation; see `papers.vit_continual.model.Intermediates`.
- `attention_divergence`: Jensen-Shannon divergence of attention, which the release has beside it.

Axes: B images, H heads, R rows and K columns of a matrix for each head: queries and keys of products, tokens and
channels of mixed values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError, nearest

#: What becomes of (B, H, R, K): sums over rows, over columns, both beside each other, the mean of all, or nothing.
POOLINGS = ("height", "width", "spatial", "gap", "pixel")
#: Keeps the logarithm of a decision finite; the release's.
EPSILON = 1e-5


def distil_decisions(old: Tensor, new: Tensor, temperature: float = 2.0) -> Tensor:
    """Cross-entropy between decisions of two models on the classes of all earlier tasks together, mean over images.

    Args:
        old, new: logits (B, classes) of the earlier tasks' heads.
        temperature: divides both; the loss is not multiplied by its square.
    """
    decided = (new / temperature).softmax(dim=1) + EPSILON / new.shape[1]
    decided = decided / decided.sum(dim=1, keepdim=True)
    return -((old / temperature).softmax(dim=1) * decided.log()).sum(dim=1).mean()


def pooled(x: Tensor, pooling: str) -> Tensor:
    """Pool (B, H, R, K): to (B, H * K), (B, H * R), both beside each other, (B, H), or not at all.

    Raises:
        UserError: there is no such pooling.
    """
    if pooling == "height":
        return x.sum(dim=2).flatten(1)
    if pooling == "width":
        return x.sum(dim=3).flatten(1)
    if pooling == "spatial":
        return torch.cat([pooled(x, "height"), pooled(x, "width")], dim=1)
    if pooling == "gap":
        return x.mean(dim=(2, 3))
    if pooling == "pixel":
        return x
    raise UserError(f"There is no pooling {pooling!r}.{nearest(pooling, POOLINGS)} Known are {', '.join(POOLINGS)}.")


def pooled_distillation(
    old: Sequence[Tensor],
    new: Sequence[Tensor],
    *,
    asymmetric: bool = True,
    pooling: str = "spatial",
    weight: float = 1.0,
    reverse: bool = False,
    before_norm: bool = False,
    sparsity: float = 0.0,
    divisor: int = 0,
) -> Tensor:
    """How far pooled attention of a new model is from that of the old one: a scalar, mean over layers.

    Both are pooled and brought to norm 1, an image over all heads at once (without pooling: each place over its heads).
    The symmetric form pools squares and takes the norm of the difference; the asymmetric one pools the values
    themselves and takes the norm of what the old model has more of.

    Args:
        old, new: (B, H, R, K) for each layer.
        asymmetric: which form.
        pooling: one of `POOLINGS`.
        weight: of the distance, beside ``sparsity``; the publication's mu. See also `pod_weight`.
        reverse: of the asymmetric form: what the new model has more of.
        before_norm: the asymmetric form that the release computes unless told otherwise: the difference itself is
            brought to norm 1, so that a constant is left whose gradient is zero; see the README.
        sparsity: weight of a tenth of the norm of the new attention over the batch; with it, the whole is halved.
        divisor: of the sum over layers; 0: their number. The release divides by the number of layers that are asked
            for, and sums over all of them.

    Raises:
        UserError: there are no layers, or not as many of both.
    """
    if not old or len(old) != len(new):
        raise UserError(
            f"Attention is distilled layer by layer: there are {len(old)} of the old model and {len(new)} of the new."
        )
    total = new[0].new_zeros(())
    for before, after in zip(old, new, strict=True):
        if not asymmetric:
            before, after = before.square(), after.square()
        before, after = pooled(before, pooling), pooled(after, pooling)
        if asymmetric and before_norm:
            more = F.relu(after - before if reverse else before - after)
            distance = F.normalize(more, dim=1).norm() / 100
        else:
            before, after = F.normalize(before, dim=1), F.normalize(after, dim=1)
            difference = after - before if reverse else before - after
            distance = (F.relu(difference) if asymmetric else difference).norm(dim=-1).mean()
        total = total + weight * distance
        if sparsity:
            total = total + sparsity * after.norm() / 10
    return total / (divisor or len(new)) / (2 if sparsity else 1)


def pod_weight(classes: int, new_classes: int) -> float:
    """PODNet's weight of distillation, in place of a constant one: it grows with what there is to forget."""
    return 3 * math.sqrt(classes / new_classes)


def attention_divergence(old: Sequence[Tensor], new: Sequence[Tensor]) -> Tensor:
    """Jensen-Shannon divergence of how each key's products are shared out over queries, summed over layers.

    Args:
        old, new: products (B, H, N, N) before the softmax for each layer; their magnitudes are shared out.
    """
    total = new[0].new_zeros(())
    for before, after in zip(old, new, strict=True):
        p, q = (x.abs() / x.abs().sum(dim=2, keepdim=True) for x in (before, after))
        middle = (p + q) / 2
        divergence = p * (p / middle + EPSILON).log() + q * (q / middle + EPSILON).log()
        total = total + (divergence / 2).sum(dim=2).mean()
    return total
