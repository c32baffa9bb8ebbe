"""Where a model's last attention looks, and the objects that it finds there.

Methods that mix labels, select tokens or regularise by attention ask for one map an image. Listening to the queries
and keys that the last attention computes anyway leaves the attention itself to the fused kernel and costs one row of
the map.

What a classifier's last attention holds is a segmentation that nobody supervised. Caron et al., "Emerging Properties in
Self-Supervised Vision Transformers", arXiv 2104.14294 (DINO), keep the patches that hold most of a head's attention;
Naseer et al., "Intriguing Properties of Vision Transformers", arXiv 2105.10497, compare them with object masks by the
Jaccard index of the best head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Attention
from timm.models.cait import ClassAttn
from torch import Tensor, nn

from common.errors import UserError
from common.protocols import HasAttentionMap
from common.robustness.occlusion import salient_tiles

#: Share of a head's attention that is kept, as both publications have it for this purpose.
KEPT_SHARE = 0.9


class LastAttention:
    """Listens to the last attention of ``model``.

    - With a class token that the classifier reads: what it takes from each patch, mean over heads. In the last block
      of timm's vision transformers (DeiT, ViT), or in class attention (CaiT, XCiT, FAN).
    - Without one: what the patches take from each patch, mean over patches and heads. Where the classifier averages
      patches, as such models do, that is what the average takes. In timm's vision transformers, and in any attention
      that gives its map, see :class:`common.protocols.HasAttentionMap`.

    Maps are detached: no gradient flows through them.

    Args:
        model: listened to until ``close``.
        token: which of the tokens before the patches is asked in a vision transformer whose classifier reads them: 0
            for the class token, 1 for the distillation token of a distilled DeiT; None asks the patches, as where there
            is no class token.

    Raises:
        UserError: the model has no attention that can be listened to, or no such token.
    """

    def __init__(self, model: nn.Module, token: int | None = 0) -> None:
        self._kept: dict[str, Tensor] = {}
        self._prefix = int(getattr(model, "num_prefix_tokens", 0))
        module = next((m for m in reversed(list(model.modules())) if _readable(m)), None)
        if module is None:
            raise UserError(
                f"{type(model).__name__} has no attention that can be listened to: take a vision transformer of timm, "
                "a model with class attention, or give its attention a method attention_map."
            )
        # Any, since torch types submodules as tensors or modules.
        attention: Any = module
        self._read: Callable[[], Tensor]
        classified = bool(getattr(model, "has_class_token", False)) and getattr(model, "global_pool", "") == "token"
        if token and not (isinstance(module, Attention) and classified and token < self._prefix):
            raise UserError(f"{type(model).__name__} has no token {token} before its patches that could be asked.")
        if isinstance(module, Attention):
            asked = slice(self._prefix, None) if token is None or not classified else slice(token, token + 1)
            self._handles = [self._keep(attention.qkv, "qkv")]
            self._read = lambda: _self_attention(attention, self._kept["qkv"], asked)
        elif isinstance(module, ClassAttn):
            self._prefix = 1
            self._handles = [self._keep(attention.q, "q"), self._keep(attention.k, "k")]
            self._read = lambda: _class_attention(attention, self._kept["q"], self._kept["k"])
        else:
            self._handles = [self._keep(attention, "tokens", given=True)]
            self._read = lambda: attention.attention_map(self._kept["tokens"].float()).float()

    def take(self, height: int, width: int) -> Tensor:
        """The map of the last forward pass, once.

        Args:
            height: of the images, in pixels or any unit.
            width: likewise; their ratio gives the grid of patches.

        Returns:
            (B, rows, columns), float32, not negative; what the class token keeps for itself is left out, so a map may
            sum to less than 1.

        Raises:
            UserError: the patches are no grid of the images' shape.
        """
        return self.take_heads(height, width).mean(dim=1)

    def take_heads(self, height: int, width: int) -> Tensor:
        """The map of each head, (B, heads, rows, columns); otherwise as ``take``."""
        with torch.no_grad():
            patches = self._read()[..., self._prefix :]
        self._kept.clear()
        return patches.unflatten(2, token_grid(patches.shape[2], height, width))

    def close(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._kept.clear()

    def _keep(self, module: nn.Module, name: str, given: bool = False) -> Any:
        """Keep what goes out of ``module``, or what comes in (``given``)."""

        def listen(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self._kept[name] = (args[0] if given else output).detach()

        return module.register_forward_hook(listen)


def _readable(module: nn.Module) -> bool:
    return isinstance(module, Attention | ClassAttn | HasAttentionMap)


def _self_attention(attention: Any, qkv: Tensor, asked: slice) -> Tensor:
    """Shares (B, heads, N) that the tokens ``asked`` take, from queries, keys and values (B, N, 3C)."""
    q, k, _ = qkv.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attention.q_norm(q[:, :, asked]), attention.k_norm(k)
    return _shares(q, k, attention.scale)


def _class_attention(attention: Any, q: Tensor, k: Tensor) -> Tensor:
    """Shares (B, heads, N) from the query of the class token (B, C) and keys (B, N, C)."""
    heads = (attention.num_heads, -1)
    return _shares(
        q[:, None].unflatten(2, heads).transpose(1, 2), k.unflatten(2, heads).transpose(1, 2), attention.scale
    )


def _shares(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Softmax attention of queries (B, h, M, d) to keys (B, h, N, d), mean over queries: (B, h, N)."""
    scores = (q * scale) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1, dtype=torch.float32).mean(dim=2)


def token_grid(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of ``count`` tokens over images of ``height`` x ``width`` pixels.

    Raises:
        UserError: there is no such grid.
    """
    rows = round((count * height / width) ** 0.5)
    if not rows or count % rows:
        raise UserError(f"{count} patches are no grid over images of {height}x{width} pixels.")
    return rows, count // rows


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
        model: in eval mode; what it may be and what is read of it is said in ``common.attention``.
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
