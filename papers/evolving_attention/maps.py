"""Evolving attention: what a layer makes of its attention map and of the one that the layer before it had.

Wang et al., "Evolving Attention with Residual Convolutions", ICML 2021, arXiv 2102.12895, and "Convolution-enhanced
Evolving Attention Networks", arXiv 2212.08330. Attention maps of neighbouring layers are alike, and each layer learns
its own from scratch. Here a layer's map, before softmax, is mixed with the previous one's (a residual link), and a
convolution over the map, which takes heads for channels, lets it grow more abstract from layer to layer:

    mixed  = (1 - beta) logits + beta previous
    evolved = alpha act(convolution(mixed)) + (1 - alpha) mixed

The evolved map goes to this layer's softmax and to the next layer. With alpha = beta = 0 attention is as it was.

Shapes: B batch, h heads, N queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Evolution(nn.Module):
    """Evolves attention maps: (B, h, N, N), those of this layer and of the one before, to (B, h, N, N).

    Args:
        heads: h.
        alpha: share of what the convolution makes; there is no convolution where it is 0.
        beta: share of the previous map.
        activation: behind the convolution.
    """

    def __init__(
        self, heads: int, alpha: float, beta: float, activation: Callable[[Tensor], Tensor] = torch.relu
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.activation = alpha, beta, activation
        self.conv = nn.Conv2d(heads, heads, 3, padding=1) if alpha else None

    def forward(self, logits: Tensor, previous: Tensor) -> Tensor:
        """The evolved map, before softmax."""
        mixed = torch.lerp(logits, previous, self.beta) if self.beta else logits
        return mixed if self.conv is None else torch.lerp(mixed, self.activation(self.conv(mixed)), self.alpha)


def relative_terms(q: Tensor, table: Tensor) -> Tensor:
    """What relative positions along a line add to logits.

    Args:
        q: queries (..., N, d), scaled.
        table: (2 N - 1, d): of keys N - 1 places before the query, up to N - 1 places behind it.

    Returns:
        (..., N, N): of each query and key.
    """
    places = torch.arange(q.shape[-2], device=q.device)
    behind = places[None] - places[:, None] + q.shape[-2] - 1  # (query, key)
    return (q @ table.mT).gather(-1, behind.expand(*q.shape[:-1], -1))
