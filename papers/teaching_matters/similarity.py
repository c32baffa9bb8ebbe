"""How alike the representations of two networks, or of two blocks of one, are: CKA, and norms of branches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.errors import UserError


class CKA:
    """Linear centred kernel alignment of layers, estimated batch by batch; it needs no features of other batches.

    With K and L the Gram matrices of a batch without their diagonals, HSIC(K, L) is estimated without bias (Nguyen et
    al., "Do Wide and Deep Networks Learn the Same Things?", arXiv 2010.15327, Eq. 3) and averaged over batches;
    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

    Args:
        released: divide each Gram matrix by its largest entry, after the smallest was taken away, as the released code
            does: batches of small features count as much as others then. With one batch nothing changes.
    """

    def __init__(self, released: bool = False) -> None:
        self.released = released
        self._sums: list[Tensor] = []

    def add(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> None:
        """Take in a batch.

        Args:
            x, y: layers of two networks, or of one: (n, ...) for the same n images, 4 at least; all but the first axis
                are features.

        Raises:
            UserError: there are too few images for the estimate.
        """
        if len(x[0]) < 4:
            raise UserError(f"CKA is estimated from 4 images of a batch or more, not from {len(x[0])}.")
        k, l = (torch.stack([self._gram(layer) for layer in layers]) for layers in (x, y))  # noqa: E741
        hsic = [_hsic(k[:, None], l[None]), _hsic(k, k), _hsic(l, l)]
        self._sums = [a + b for a, b in zip(self._sums, hsic, strict=True)] if self._sums else hsic

    def value(self) -> Tensor:
        """The similarity of all pairs of layers, (layers of x, layers of y)."""
        both, first, second = self._sums
        return both / (first[:, None] * second).sqrt()

    def _gram(self, features: Tensor) -> Tensor:
        flat = features.flatten(1).double()
        gram = flat @ flat.T
        if self.released:
            gram = gram - gram.min()
            gram = gram / gram.max()
        return gram.fill_diagonal_(0)


def _hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """The estimate from Gram matrices (..., n, n) whose diagonals are 0."""
    n = k.shape[-1]
    trace = (k * l).sum(dim=(-2, -1))  # of the product, since both are symmetric
    sums = k.sum(dim=(-2, -1)) * l.sum(dim=(-2, -1)) / ((n - 1) * (n - 2))
    rows = (k.sum(dim=-1) * l.sum(dim=-1)).sum(dim=-1) * 2 / (n - 2)
    return (trace + sums - rows) / (n * (n - 3))


def norm_ratio(branch: Tensor, other: Tensor) -> Tensor:
    """How large a residual block's shortcut is beside its branch: the ratio of norms, mean over images, a scalar.

    Args:
        branch, other: (n, tokens, C); the norm is over all that is given of an image.
    """
    return (branch.double().flatten(1).norm(dim=1) / other.double().flatten(1).norm(dim=1)).mean()
