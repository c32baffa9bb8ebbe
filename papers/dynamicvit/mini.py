"""Small vision transformers that drop tokens, by what they have learned or by a rule, for the bench."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import bench
from common.bench import hosts
from common.training.recipe import Recipe
from papers.dynamicvit.selection import places_kept
from papers.dynamicvit.vit import DynamicViT

LOCATIONS = (1, 2)  # of three blocks; the first sees all tokens
KEEP_RATE = 0.7
#: Keep rates of inference; training is at `KEEP_RATE`.
RATES = (0.9, 0.7, 0.5, 0.3)


class RankedViT(DynamicViT):
    """Drops tokens by a rule in training and inference, as many as the keep rate says; nothing is predicted."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.score_predictor = nn.ModuleList()

    def decide(self, x: Tensor, kept: Tensor | None, step: int, noise: Tensor | None) -> Tensor:
        """The tokens of highest rank among those that are left, (B, N) of 0 and 1."""
        ranks = self.rank(x, step, kept)
        ranks = ranks if kept is None else ranks.masked_fill(kept == 0, -torch.inf)
        best = ranks.topk(places_kept(ranks.shape[1], self.keep_rates[step]), dim=1).indices
        return torch.zeros_like(ranks).scatter(1, best, 1.0)

    def rank(self, x: Tensor, step: int, kept: Tensor | None = None) -> Tensor:
        """What the rule gives for each patch token in ``x`` (B, 1 + n, C): (B, n)."""
        raise NotImplementedError


class RandomViT(RankedViT):
    """Drops tokens at random; in inference always the same draws, so that results can be had again."""

    def rank(self, x: Tensor, step: int, kept: Tensor | None = None) -> Tensor:
        """Uniform draws."""
        shape = (len(x), x.shape[1] - self.num_prefix_tokens)
        generator = None if self.training else torch.Generator().manual_seed(step)
        return torch.rand(shape, generator=generator).to(x.device)


class AttentionViT(RankedViT):
    """Keeps the tokens to which the class token attends most in the block that follows, mean over heads."""

    @torch.no_grad()
    def rank(self, x: Tensor, step: int, kept: Tensor | None = None) -> Tensor:
        """The class token's attention."""
        block: Any = self.blocks[self.locations[step]]
        attn, prefix = block.attn, self.num_prefix_tokens
        q, k, _ = attn.qkv(block.norm1(x)).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        similarity = (q[:, :, :1] * attn.scale) @ k[:, :, prefix:].transpose(-2, -1)
        if kept is not None:
            similarity = similarity.masked_fill(kept[:, None, None] == 0, -torch.inf)
        return similarity.softmax(dim=-1).mean(dim=(1, 2))


def sparse_vit(kind: type[DynamicViT] = DynamicViT, keep_rate: float = KEEP_RATE) -> Any:
    """The bench's vision transformer that drops tokens before its second and its third block."""
    return hosts.vit_mini(kind=kind, locations=LOCATIONS, keep_rate=keep_rate)


def at_rates(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray]:
    """``top1`` at the keep rate of training, and as ``top1/keep_RATE`` at each of `RATES`."""
    network: Any = model
    tests, found = bench.test_set(quick), {}
    for rate in RATES:
        network.set_keep_rate(rate)
        right = bench.correct(bench.normalised(model, recipe), tests.clean, tests.labels)
        found[f"top1/keep_{rate}"] = right
        if rate == KEEP_RATE:
            found["top1"] = right
    network.set_keep_rate(KEEP_RATE)
    return found
