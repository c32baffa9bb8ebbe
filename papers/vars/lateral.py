"""One step of the dynamics along the lateral connections X, ``w -> (I - s X) w``, and back.

X is ``K P^T P K`` for templates P (N, m) and learned K (m, m). It is formed, once for all steps, where there are many
tokens. Where there are few, its two factors ``P K`` and ``P K^T`` (N, m) are the smaller ones and take fewer
operations, in the backward pass as well.

Shapes: n problems, each with N tokens, m templates and d channels; T steps. A code is a row, (n, d, m), for which
products are faster.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each problem, (n, 1, 1), of two tensors of one shape (n, ...)."""
    return (a.reshape(len(a), 1, -1) @ b.reshape(len(b), -1, 1)).view(-1, 1, 1)


class ByMatrix:
    """X as it is.

    Args:
        connections: X, (n, m, m).
        step: s, (n, 1, 1) or (1, 1, 1).
        kept: ``I - s X``, where it is known.
        overwrite: whether it may take the memory of X, the largest tensor of the dynamics.
    """

    def __init__(self, connections: Tensor, step: Tensor, kept: Tensor | None = None, overwrite: bool = False) -> None:
        self.connections, self.step = connections, step
        if kept is None:
            kept = torch.mul(connections.detach(), -step.detach(), out=connections if overwrite else None)
            kept.diagonal(dim1=-2, dim2=-1).add_(1)
        self.kept = kept

    @staticmethod
    def memory(connections: Tensor, drive: Tensor, steps: int) -> None:
        """Memory to hand over as ``kept`` where there will be a backward pass: none is needed."""
        return None

    @staticmethod
    def operations(tokens: int, templates: int, channels: int, steps: int) -> int:
        """Multiply-adds of a problem, to find X from P and to take all steps."""
        return templates**2 * (tokens + 2 * templates + steps * channels)

    def forward(self, code: Tensor, t: int) -> Tensor:
        """``(I - s X) w_t``, (n, d, m), in new memory."""
        return code @ self.kept.mT

    def backward(self, gradient: Tensor, t: int) -> Tensor:
        """``(I - s X)^T g`` of the gradient g of :meth:`forward` for t, (n, d, m), in new memory."""
        return gradient @ self.kept

    def gradients(self, codes: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Those of X and s, (n, m, m) and (n, 1, 1), from all w_t and g_t (n, T, d, m), after :meth:`backward`."""
        d_kept = gradients.flatten(1, 2).mT @ codes.flatten(1, 2)
        d_step = -dot(d_kept, self.connections)
        return d_kept.mul_(-self.step), d_step

    def product(self, code: Tensor) -> Tensor:
        """``X u`` of codes that are columns: (..., n, m, d)."""
        return self.connections @ code


class ByFactors:
    """X by its factors; the methods do what those of :class:`ByMatrix` do.

    Args:
        connections: ``P K`` and ``P K^T`` side by side, (n, N, 2 m).
        step: s, (n, 1, 1) or (1, 1, 1).
        kept: where :meth:`forward` writes, and :meth:`backward` reads, ``-s P K w_t``, (n, N, T, d); None for nowhere.
        overwrite: nothing is overwritten.
    """

    def __init__(self, connections: Tensor, step: Tensor, kept: Tensor | None = None, overwrite: bool = False) -> None:
        self.left, self.right = connections.detach().chunk(2, dim=-1)
        self.step, self.kept = step, kept
        self.returned: list[Tensor] = []

    @staticmethod
    def memory(connections: Tensor, drive: Tensor, steps: int) -> Tensor:
        """Memory to hand over as ``kept`` where there will be a backward pass."""
        return drive.new_empty(len(drive), connections.shape[1], steps, drive.shape[1])

    @staticmethod
    def operations(tokens: int, templates: int, channels: int, steps: int) -> int:
        """Multiply-adds of a problem, to find the factors from P and to take all steps."""
        return 2 * tokens * templates * (templates + steps * channels)

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

    def product(self, code: Tensor) -> Tensor:
        """``X u`` of codes that are columns: (..., n, m, d)."""
        return self.right.mT @ (self.left @ code)


#: X in either form.
Lateral = ByMatrix | ByFactors
