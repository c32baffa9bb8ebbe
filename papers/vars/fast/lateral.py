"""The lateral connections X = K P^T P K of the dynamics, in the form that takes fewer operations.

Templates P (N, m) and a learned K (m, m) are given. :class:`ByMatrix` forms X, once for all steps. Where there are few
tokens, its factors ``P K`` and ``P K^T`` (N, m) are smaller than X and take fewer operations (:class:`ByFactors`).

Either class is made from what its ``connect`` finds. ``forward`` then takes one step along X, ``w -> (I - s X) w``.
After the same number of calls to ``backward``, ``gradients`` and ``disconnect`` give what ``connect`` was given its
gradients, written out: autograd would pass over large tensors several times more.

Shapes: n = h * B problems (of h heads and B images), each with N tokens, m templates and d channels; T steps. A code is
a row, (n, d, m), for which products are faster. The last k templates may be static: the same for all images of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from common.linear import left_linear, linear


class Connected(NamedTuple):
    """What ``connect`` finds."""

    connections: Tensor  # X, or its factors
    row_sums: Tensor  # sum_j |P^T P|_ij, (n, m)
    parts: tuple[Tensor, ...]  # for ``disconnect``


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each problem, (n, 1, 1), of two tensors of one shape (n, ...)."""
    return (a.reshape(len(a), 1, -1) @ b.reshape(len(b), -1, 1)).view(-1, 1, 1)


def by_head(x: Tensor, heads: int) -> Tensor:
    """(n, ...) -> (h, B, ...)."""
    return x.unflatten(0, (heads, -1))


class ByMatrix:
    """X as it is.

    Args:
        connections: X, (n, m, m); its memory is taken.
        step: s, (n, 1, 1) or (1, 1, 1).
        kept: ``I - s X``, where it is known.
    """

    def __init__(self, connections: Tensor, step: Tensor, kept: Tensor | None = None) -> None:
        if kept is None:
            kept = connections.mul_(-step)  # X is the largest tensor of the dynamics, and not needed any more
            kept.diagonal(dim1=-2, dim2=-1).add_(1)
        self.kept, self.step = kept, step

    @classmethod
    def restored(cls, parts: tuple[Tensor, ...], step: Tensor, kept: Tensor) -> ByMatrix:
        """For the backward pass."""
        return cls(kept, step, kept)

    @staticmethod
    def operations(tokens: int, templates: int, channels: int, steps: int) -> int:
        """Multiply-adds of a problem, to find X and to take all steps."""
        return templates**2 * (tokens + 2 * templates + steps * channels)

    @staticmethod
    def memory(drive: Tensor, tokens: int, steps: int) -> None:
        """Memory to hand over as ``kept`` where there will be a backward pass: none is needed."""
        return None

    @staticmethod
    def connect(templates: Tensor, static: Tensor | None, weights: Tensor) -> Connected:
        """X of P (n, N, m), whose last columns are static (h, N, k), and of K (m, m).

        With the Gram matrix in blocks, ``P^T P = [A B; B^T S]`` where S is the same for all images of a head, and
        ``K = [K_1 K_2] = [R_1; R_2]``,

            X = K_1 (A R_1 + B R_2) + (K_2 B^T) R_1 + K_2 S R_2.
        """
        own = templates.shape[-1] - (0 if static is None else static.shape[-1])
        rows = templates[..., :own].mT @ templates  # A and B; A is positive, and symmetric
        inner = linear(rows, weights.mT)
        if static is None:
            return Connected(left_linear(inner, weights), rows.sum(dim=-2), (rows, inner))
        crossed, shared = rows[..., own:], static.mT @ static
        outer = left_linear(crossed.mT, weights[:, own:])
        connections = linear(outer, weights[:own].mT).baddbmm_(weights[:, :own].expand(len(rows), -1, -1), inner)
        by_head(connections, len(static)).add_((weights[:, own:] @ shared @ weights[own:]).unsqueeze(1))
        sizes = rows.abs()
        sums = sizes.sum(dim=-2)
        sums[:, :own] += sizes[..., own:].sum(dim=-1)
        by_head(sums[:, own:], len(static)).add_(shared.abs().sum(dim=-2).unsqueeze(1))
        return Connected(connections, sums, (rows, inner, outer, shared))

    @staticmethod
    def disconnect(
        gradient: Tensor, parts: tuple[Tensor, ...], templates: Tensor, static: Tensor | None, weights: Tensor,
        d_templates: Tensor,
    ) -> tuple[Tensor | None, Tensor]:  # fmt: skip
        """From the gradient of X those of the static columns and of K; that of P is added to ``d_templates``.

        The gradient of the static columns lacks their part in ``d_templates``.
        """
        rows, inner, *rest = parts
        own = rows.shape[1]
        d_inner = left_linear(gradient, weights[:, :own].mT)
        d_weights = rows.flatten(0, 1).mT @ d_inner.flatten(0, 1)
        d_weights[:, :own] += (gradient @ inner.mT).sum(dim=0)
        d_rows = linear(d_inner, weights)
        if static is None:
            d_templates.baddbmm_(templates, d_rows + d_rows.mT)
            return None, d_weights
        (outer, shared), heads = rest, len(static)
        d_outer = linear(gradient, weights[:own])
        d_weights[:own] += outer.flatten(0, 1).mT @ gradient.flatten(0, 1)
        d_weights[:, own:] += (d_outer @ rows[..., own:]).sum(dim=0)
        d_rows[..., own:] += d_outer.mT @ weights[:, own:]
        total = by_head(gradient, heads).sum(dim=1)
        d_weights[:, own:] += (total @ (shared @ weights[own:]).mT).sum(dim=0)
        d_weights[own:] += ((weights[:, own:] @ shared).mT @ total).sum(dim=0)
        d_shared = weights[:, own:].mT @ total @ weights[own:].mT
        d_gram = torch.zeros_like(gradient)
        torch.add(d_rows[..., :own], d_rows[..., :own].mT, out=d_gram[:, :own, :own])
        d_gram[:, :own, own:], d_gram[:, own:, :own] = d_rows[..., own:], d_rows[..., own:].mT
        d_templates.baddbmm_(templates, d_gram)
        return static @ (d_shared + d_shared.mT), d_weights

    def forward(self, code: Tensor, t: int) -> Tensor:
        """``(I - s X) w_t``, (n, d, m), in new memory."""
        return code @ self.kept.mT

    def backward(self, gradient: Tensor, t: int) -> Tensor:
        """``(I - s X)^T g`` of the gradient g of :meth:`forward` for t, (n, d, m), in new memory."""
        return gradient @ self.kept

    def gradients(self, codes: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Those of X and s, (n, m, m) and (n, 1, 1), from all w_t and g_t (n, T, d, m), after :meth:`backward`."""
        d_kept = gradients.flatten(1, 2).mT @ codes.flatten(1, 2)
        trace = d_kept.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[:, None, None]
        d_step = (dot(d_kept, self.kept) - trace) / self.step
        return d_kept.mul_(-self.step), d_step


class ByFactors:
    """X by its factors; the methods do what those of :class:`ByMatrix` do.

    Args:
        connections: ``P K`` and ``P K^T`` side by side, (n, N, 2 m).
        step: s, (n, 1, 1) or (1, 1, 1).
        kept: where :meth:`forward` writes, and :meth:`backward` reads, ``-s P K w_t``, (n, N, T, d); None for nowhere.
    """

    def __init__(self, connections: Tensor, step: Tensor, kept: Tensor | None = None) -> None:
        self.left, self.right = connections.chunk(2, dim=-1)
        self.step, self.kept = step, kept
        self.returned: list[Tensor] = []

    @classmethod
    def restored(cls, parts: tuple[Tensor, ...], step: Tensor, kept: Tensor) -> ByFactors:
        """For the backward pass."""
        return cls(parts[0], step, kept)

    @staticmethod
    def operations(tokens: int, templates: int, channels: int, steps: int) -> int:
        """Multiply-adds of a problem, to find the factors and to take all steps."""
        return 2 * tokens * templates * (templates + steps * channels)

    @staticmethod
    def memory(drive: Tensor, tokens: int, steps: int) -> Tensor:
        """Memory to hand over as ``kept`` where there will be a backward pass."""
        return drive.new_empty(len(drive), tokens, steps, drive.shape[1])

    @staticmethod
    def connect(templates: Tensor, static: Tensor | None, weights: Tensor) -> Connected:
        """The factors, found as X is by :meth:`ByMatrix.connect`."""
        factors = linear(templates, torch.cat([weights.mT, weights]))
        return Connected(factors, _row_sums(templates, static), (factors,))

    @staticmethod
    def disconnect(
        gradient: Tensor, parts: tuple[Tensor, ...], templates: Tensor, static: Tensor | None, weights: Tensor,
        d_templates: Tensor,
    ) -> tuple[Tensor | None, Tensor]:  # fmt: skip
        """As :meth:`ByMatrix.disconnect`, from the gradient of the factors."""
        d_templates.flatten(0, 1).addmm_(gradient.flatten(0, 1), torch.cat([weights.mT, weights]))
        left, right = (gradient.flatten(0, 1).mT @ templates.flatten(0, 1)).chunk(2)
        return None if static is None else torch.zeros_like(static), left.mT + right

    def forward(self, code: Tensor, t: int) -> Tensor:
        """``(I - s X) w_t``, (n, d, m), in new memory."""
        inner = self.left @ code.mT  # with rows of d numbers, which products take better than rows of N
        inner = torch.mul(inner, -self.step, out=inner if self.kept is None else self.kept[:, :, t])
        return torch.baddbmm(code, inner.mT, self.right)

    def backward(self, gradient: Tensor, t: int) -> Tensor:
        """``(I - s X)^T g`` of the gradient g of :meth:`forward` for t, (n, d, m), in new memory."""
        inner = (self.right @ gradient.mT).mul_(-self.step)
        self.returned.insert(0, inner)
        return torch.baddbmm(gradient, inner.mT, self.left)

    def gradients(self, codes: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the factors and s, (n, N, 2 m) and (n, 1, 1), as :meth:`ByMatrix.gradients`."""
        assert self.kept is not None
        forth, back = self.kept.flatten(2), torch.cat(self.returned, dim=-1)
        n, tokens, m = self.left.shape
        d_connections = codes.new_empty(n, tokens, 2 * m)
        d_connections[..., :m] = back @ codes.flatten(1, 2)
        d_connections[..., m:] = forth @ gradients.flatten(1, 2)
        return d_connections, -dot(forth, back) / self.step.square()


def _row_sums(templates: Tensor, static: Tensor | None) -> Tensor:
    """``sum_j |P^T P|_ij`` without P^T P: dynamic templates are positive, so that their sum takes the place of many."""
    own = templates.shape[-1] - (0 if static is None else static.shape[-1])
    dynamic = templates[..., :own].mT
    sums = (dynamic @ templates[..., :own].sum(dim=-1, keepdim=True)).squeeze(-1)
    if static is None:
        return sums
    crossed = (dynamic @ templates[..., own:]).abs_()
    shared = (static.mT @ static).abs_().sum(dim=-1).repeat_interleave(len(templates) // len(static), dim=0)
    return torch.cat([sums + crossed.sum(dim=-1), shared + crossed.sum(dim=-2)], dim=-1)


#: X in either form.
Lateral = ByMatrix | ByFactors


def fewer_operations(tokens: int, templates: int, channels: int, steps: int) -> type[Lateral]:
    """The form of the lateral connections that takes fewer operations."""
    matrix, factors = (form.operations(tokens, templates, channels, steps) for form in (ByMatrix, ByFactors))
    return ByMatrix if matrix <= factors else ByFactors
