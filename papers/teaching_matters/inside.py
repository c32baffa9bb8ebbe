"""What happens in each block of a vision transformer: its attention, and the tokens that leave it.

Networks are timm's with ``blocks`` of self-attention and a class token before the patches: ViT, DeiT, BEiT, and with
them the released networks of DINO, MAE, MoCo-v3 and CLIP. Axes: B images, L blocks, h heads, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> Tensor:
    """What each token takes from each other one in every block and head, (B, L, h, N, N); rows sum to 1.

    Args:
        model: in eval mode.
        images: (B, C, H, W), as the model takes them.

    Raises:
        UserError: the model is none of those named above.
    """
    attentions = [block.attn for block in blocks_of(model)]
    with ExitStack() as stack:
        for attention in attentions:
            stack.enter_context(_unfused(attention))
        return torch.stack(_outputs(model, images, [attention.attn_drop for attention in attentions]), dim=1)


@torch.no_grad()
def block_tokens(model: nn.Module, images: Tensor) -> Tensor:
    """The tokens that leave every block, (B, L, N, C), before the last norm; otherwise as ``attention_maps``."""
    return torch.stack(_outputs(model, images, blocks_of(model)), dim=1)


def blocks_of(model: nn.Module) -> list[Any]:
    """The blocks of one of the networks named above.

    Raises:
        UserError: it is none.
    """
    blocks: Any = getattr(model, "blocks", ())
    attentions = [getattr(block, "attn", None) for block in blocks]
    if not attentions or not all(hasattr(one, "attn_drop") and hasattr(one, "fused_attn") for one in attentions):
        raise UserError(f"{type(model).__name__} has no blocks of self-attention; take a vision transformer of timm.")
    if getattr(model, "num_prefix_tokens", 0) != 1:
        raise UserError(
            f"{type(model).__name__} has not just a class token before its patches; take a vision transformer with one."
        )
    return list(blocks)


def _outputs(model: nn.Module, images: Tensor, modules: Sequence[nn.Module]) -> list[Tensor]:
    """What each of ``modules`` returns in a forward pass."""
    kept: list[Tensor] = []
    handles = [module.register_forward_hook(lambda module, args, output: kept.append(output)) for module in modules]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return kept


@contextmanager
def _unfused(attention: Any) -> Iterator[None]:
    """Have an attention compute its map, which a fused kernel never holds."""
    before, attention.fused_attn = attention.fused_attn, False
    try:
        yield
    finally:
        attention.fused_attn = before
