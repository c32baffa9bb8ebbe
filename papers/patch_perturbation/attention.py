"""Attention of all blocks: its flow through the network (rollout), and its temperature.

Rollout is Abnar and Zuidema's, arXiv 2005.00928: with A_l the mean of a block's heads, tokens mix by (A_l + 1) / 2,
rows divided by their sum, one block after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn

from common.attention import token_grid
from common.errors import UserError


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What each token takes from each other one, (B, heads, N, N) for each block; rows sum to 1.

    Args:
        model: one of timm's vision transformers, in eval mode.
        images: (B, C, H, W), as the model takes them.

    Raises:
        UserError: the model has no such attention.
    """
    maps: list[Tensor] = []

    def listen(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        attention: Any = owners[module]
        q, k, _ = output.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = attention.q_norm(q), attention.k_norm(k)
        maps.append(((q * attention.scale) @ k.transpose(-2, -1)).softmax(dim=-1, dtype=torch.float32))

    owners = {module.qkv: module for module in _attentions(model)}
    handles = [qkv.register_forward_hook(listen) for qkv in owners]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return maps


def rollout(maps: Sequence[Tensor], *, discard: float = 0.9, released: bool = False) -> Tensor:
    """What reaches each token at the end from each token at the start, (B, N, N).

    Args:
        maps: (B, heads, N, N) for each block, the first one first.
        discard: share of a block's entries, the smallest ones, that are taken for 0; that of the first token to itself
            stays.
        released: divide each column by the sum of the row of its number, as the released code does, not each row by its
            own; rows do not sum to 1 then.
    """
    count = maps[0].shape[-1]
    whole = torch.eye(count, device=maps[0].device).expand(len(maps[0]), -1, -1)
    for heads in maps:
        flat = heads.mean(dim=1).flatten(1)
        least = flat.topk(int(count**2 * discard), dim=1, largest=False).indices
        kept = flat.scatter(1, least, 0)
        kept[:, 0] = flat[:, 0]
        mixing = (kept.unflatten(1, (count, count)) + torch.eye(count, device=flat.device)) / 2
        sums = mixing.sum(dim=-1)
        mixing = mixing / (sums[:, None] if released else sums[..., None])
        whole = mixing @ whole
    return whole


def patch_shares(model: nn.Module, images: Tensor, *, discard: float = 0.0) -> Tensor:
    """Share that each patch has in what the classifier reads, by rollout, (B, rows, columns); they sum to 1.

    Args:
        model: one of timm's vision transformers, in eval mode; its classifier reads the class token or all patches.
        images: (B, C, H, W), as the model takes them.
        discard: see ``rollout``.
    """
    whole = rollout(attention_maps(model, images), discard=discard)
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    asked = slice(0, 1) if getattr(model, "global_pool", "") == "token" else slice(prefix, None)
    shares = whole[:, asked, prefix:].mean(dim=1)
    shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
    return shares.unflatten(1, token_grid(shares.shape[1], *images.shape[-2:]))


@contextmanager
def tempered(model: nn.Module, temperature: float) -> Iterator[None]:
    """Divide the logits of every attention of ``model`` by a temperature for a while: above 1 it spreads.

    Raises:
        UserError: the model has no such attention, or the temperature is not above 0.
    """
    if temperature <= 0:
        raise UserError(f"a temperature is above 0, not {temperature}.")

    def cool(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output / temperature

    handles = [attention.q_norm.register_forward_hook(cool) for attention in _attentions(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attentions(model: nn.Module) -> list[Any]:
    found = [module for module in model.modules() if isinstance(module, Attention)]
    if not found:
        raise UserError(f"{type(model).__name__} has no attention of timm's vision transformers.")
    return found
