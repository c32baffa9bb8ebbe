"""Objects from attention: what a classifier's last attention holds is a segmentation that nobody supervised.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", arXiv 2104.14294 (DINO), keep the patches
that hold most of a head's attention; Naseer et al., "Intriguing Properties of Vision Transformers", arXiv 2105.10497,
compare them with object masks by the Jaccard index of the best head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.robustness.occlusion import salient_tiles
from common.training.attention import LastAttention

#: Share of a head's attention that is kept, as both publications have it for this purpose.
KEPT_SHARE = 0.9


def resize_input(model: nn.Module, side: int) -> int:
    """Let a model take larger (or smaller) square images, for finer (coarser) patches; it is changed.

    The position embedding is resampled bicubically without antialiasing, as both publications' code does. timm's own
    resampling has another bicubic kernel.

    Args:
        model: one of timm's with ``set_input_size``.
        side: in pixels; rounded down to a multiple of the patches' side.

    Returns:
        The side of the images that it takes now.

    Raises:
        UserError: the model takes no other size.
    """
    resizable: Any = model
    if not hasattr(model, "set_input_size") or not hasattr(resizable.patch_embed, "grid_size"):
        raise UserError(f"{type(model).__name__} takes images of one size only; take a vision transformer of timm.")
    patch, grid = resizable.patch_embed.patch_size, resizable.patch_embed.grid_size
    side = side // max(patch) * max(patch)
    position = getattr(model, "pos_embed", None)
    resizable.set_input_size(img_size=side)
    if position is not None:
        prefix = 0 if resizable.no_embed_class else resizable.num_prefix_tokens
        tokens = position.detach()[:, prefix:].unflatten(1, grid).permute(0, 3, 1, 2)
        tokens = nn.functional.interpolate(
            tokens, size=resizable.patch_embed.grid_size, mode="bicubic", align_corners=False
        )
        position = torch.cat([position.detach()[:, :prefix], tokens.flatten(2).transpose(1, 2)], dim=1)
        resizable.pos_embed = nn.Parameter(position)
    return side


@torch.inference_mode()
def head_attention(model: nn.Module, images: Tensor, *, token: int = 0) -> Tensor:
    """What each head of a model's last attention takes from each patch.

    Args:
        model: in eval mode; what it may be and what is read of it is said in ``common.training.attention``.
        images: (B, C, H, W), normalised, of a size that the model takes.
        token: which token's attention: 0 for the class token, 1 for the distillation token.

    Returns:
        (B, heads, rows, columns), not negative.
    """
    attention = LastAttention(model, token)
    try:
        model(images)
        return attention.take_heads(*images.shape[-2:])
    finally:
        attention.close()


def kept_patches(attention: Tensor, size: tuple[int, int], *, share: float = KEPT_SHARE) -> Tensor:
    """The patches that hold most of each head's attention.

    Args:
        attention: (B, heads, rows, columns), not negative.
        size: (H, W) of the masks, multiples of rows and columns.
        share: of the attention to the patches that is kept, in (0, 1].

    Returns:
        (B, heads, H, W) bool; every pixel has the value of its patch.
    """
    kept = salient_tiles(attention.flatten(0, 1).flatten(1), share).view(attention.shape)
    return nn.functional.interpolate(kept.float(), size=size, mode="nearest").bool()


def attention_masks(model: nn.Module, images: Tensor, *, share: float = KEPT_SHARE, token: int = 0) -> Tensor:
    """``kept_patches`` of ``head_attention``: candidates for the objects in images, (B, heads, H, W) bool."""
    height, width = images.shape[-2:]
    return kept_patches(head_attention(model, images, token=token), (height, width), share=share)


def jaccard(masks: Tensor, objects: Tensor, counted: Tensor | None = None) -> Tensor:
    """Jaccard index |mask and object| / |mask or object| of every mask with every object.

    Args:
        masks: (B, K, H, W) bool, the candidates.
        objects: (B, M, H, W) bool.
        counted: (B, H, W) bool, the pixels that count; all where it is None.

    Returns:
        (B, K, M) float64 in [0, 1]; NaN where neither has a pixel.
    """
    if masks.shape[-2:] != objects.shape[-2:]:
        raise UserError(
            f"masks of {tuple(masks.shape[-2:])} pixels cannot be compared with {tuple(objects.shape[-2:])}."
        )
    if counted is not None:
        masks, objects = masks & counted[:, None], objects & counted[:, None]
    a, b = masks.flatten(2).double(), objects.flatten(2).double()
    both = a @ b.transpose(1, 2)
    return both / (a.sum(dim=2)[:, :, None] + b.sum(dim=2)[:, None] - both)


def best_head(masks: Tensor, objects: Tensor, counted: Tensor | None = None) -> Tensor:
    """Jaccard index of the best head for each object, mean over an image's objects, in [0, 1].

    Args:
        masks: (B, heads, H, W) bool.
        objects: (B, M, H, W) bool; places without a pixel are no object.
        counted: as for ``jaccard``.

    Returns:
        (B,) float64; NaN for an image without an object.
    """
    there = objects.flatten(2).any(dim=2)
    scores = jaccard(masks, objects, counted).amax(dim=1)
    return torch.where(there, scores, 0).sum(dim=1) / there.sum(dim=1)
