"""Self-attention by random features, linear in the number of tokens: the baseline of the VARS release.

Choromanski et al., "Rethinking Attention with Performers", ICLR 2021. Random features approach the exponential kernel
of softmax attention as their number grows, see :func:`papers.vars.attention.random_features`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

from common.errors import UserError
from common.linear import Linear
from papers.vars.attention import Grid


def refuse_masks(attn_mask: Tensor | None, is_causal: bool) -> None:
    """Raise where a caller masks attention that has no map to mask."""
    if attn_mask is not None or is_causal:
        raise UserError("This attention never forms a map and takes no attn_mask and no is_causal; leave them out.")


@register_notrace_module
class KernelizedAttention(nn.Module):
    """Self-attention by random features, as released (``perf``): (B, N, C) -> (B, N, C).

    With unit vectors q, k of a head and features phi of them,

        out_i = sum_j phi(q_i)^T phi(k_j) v_j / sum_j phi(q_i)^T phi(k_j).

    Every factor of phi that is the same for all tokens cancels, and the usual scale ``1 / sqrt(d)`` does because q and
    k are normalised to unit length.

    Args:
        dim: C.
        num_heads: h; a head has d = C / h channels.
        qkv_bias: whether the projection to q, k, v has a bias.
        proj_bias: whether the output projection has one.
        attn_drop: dropout of the attention map; forms the map while training.
        proj_drop: dropout of the output.
        grid: accepted for uniformity; nothing depends on it.
        num_prefix_tokens: likewise.
        feature_ratio: m / d.
        shared_qk: whether k is q, as in VARS; the projection then has 2 C rows.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        grid: Grid | None = None,
        num_prefix_tokens: int = 0,
        feature_ratio: int = 2,
        shared_qk: bool = False,
    ) -> None:
        super().__init__()
        head_dim = dim // num_heads
        self.num_heads = num_heads
        self.shared_qk = shared_qk
        self.qkv = Linear(dim, dim * (2 if shared_qk else 3), bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = Linear(dim, dim, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        # A frozen parameter, not a buffer: the release counts it among the parameters.
        features = torch.randn(num_heads, head_dim, head_dim * feature_ratio)
        self.rand_matrix = nn.Parameter(features, requires_grad=False)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of q and of k up to a common factor, and v: (B, h, N, m), (B, h, N, m), (B, h, N, d)."""
        parts = 2 if self.shared_qk else 3
        *qk, v = self.qkv(x).unflatten(2, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        features = [torch.exp(F.normalize(part, dim=-1) @ self.rand_matrix) for part in qk]
        return features[0], features[-1], v

    def attention_matrix(self, x: Tensor) -> Tensor:
        """How much token i takes from token j, rows summing to 1: (B, N, C) -> (B, h, N, N)."""
        q, k, _ = self._features(x)
        return F.normalize(q @ k.transpose(-2, -1), p=1, dim=-1)

    def attention_map(self, x: Tensor) -> Tensor:
        """The share of all attention that each token receives, summing to 1: (B, N, C) -> (B, h, N)."""
        return self.attention_matrix(x).mean(dim=-2)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; ``x`` has shape (B, N, C). Masks are refused."""
        refuse_masks(attn_mask, is_causal)
        q, k, v = self._features(x)
        if self.training and self.attn_drop.p > 0:
            x = self.attn_drop(F.normalize(q @ k.transpose(-2, -1), p=1, dim=-1)) @ v
        else:
            x = (q @ (k.transpose(-2, -1) @ v)) / (q @ k.sum(dim=-2).unsqueeze(-1))
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))
