"""Robust Vision Transformer (RVT), the host of VARS.

Mao et al., "Towards Robust Vision Transformer", CVPR 2022, arXiv 2105.07926: a convolutional stem, no position
embedding, no class token, a convolutional feed-forward network, and depth-wise convolutions between stages. The
starred variants (``_plus``) scale attention by position: ``softmax(q k^T / sqrt(d) * sigmoid(W_p)) v`` with one
learned ``W_p`` of shape (heads, N, N) a block, which ties them to one grid of N tokens.

Names of modules and parameters are those of the released checkpoints (github.com/bfshi/VARS and
github.com/vtddggg/Robust-Vision-Transformer), which therefore load without conversion.

Shapes: B images, N = H * W tokens of C channels, h heads of d = C / h channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, to_2tuple
from timm.models import register_notrace_function
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import UserError, nearest
from common.linear import Linear
from papers.rvt.layers import ConvStem, Downsample, Grid, TokenMlp, layer_norm
from papers.rvt.resizing import resize_grid  # noqa: F401  (looked for beside the class)

#: One row a variant. Widths, depths and heads: robust_models.py of both released repositories. ``conv_mlp=False``: the
#: released feed-forward network falls back to two linear layers where a token has 768 channels. ``scaled_blocks``: how
#: many blocks of the first stage scale attention by position; the released RVT-B* has 5, while the printed 91.8 M
#: parameters are those of ``scaled_blocks=12``.
VARIANTS: dict[str, dict[str, Any]] = {
    "rvt_tiny": {"embed_dims": (192, 384), "depths": (10, 2), "num_heads": (6, 12)},
    "rvt_tiny_plus": {"embed_dims": (192, 384), "depths": (10, 2), "num_heads": (6, 12), "scaled_blocks": 10},
    "rvt_small": {"embed_dims": (384,), "depths": (12,), "num_heads": (6,)},
    "rvt_small_plus": {"embed_dims": (384,), "depths": (12,), "num_heads": (6,), "scaled_blocks": 5},
    "rvt_base": {"embed_dims": (768,), "depths": (12,), "num_heads": (12,), "conv_mlp": False},
    "rvt_base_plus": {
        "embed_dims": (768,), "depths": (12,), "num_heads": (12,), "conv_mlp": False, "scaled_blocks": 5,
    },
}  # fmt: skip


def default_cfg(**overlay: Any) -> dict[str, Any]:
    """Preprocessing with which the released weights were trained and evaluated, as timm's pretrained configuration."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 224 / 256,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj.0",
        "classifier": "head",
        **overlay,
    }


@register_notrace_function
def check_tokens(tokens: int, expected: int) -> None:
    """Refuse a number of tokens that position-aware scaling has no factors for."""
    if tokens != expected:
        raise UserError(
            f"Position-aware attention scaling has one factor for each pair of {expected} tokens and got {tokens} "
            f"tokens; build the model with img_size=<the size you use>."
        )


class Attention(nn.Module):
    """Softmax self-attention, with position-aware scaling on request: (B, N, C) -> (B, N, C).

    ``softmax(q k^T / sqrt(d) * sigmoid(W_p)) v``; without scaling the factor ``sigmoid(W_p)`` is absent.

    Args:
        dim: C.
        num_heads: h.
        qkv_bias: whether the projection to q, k, v has a bias.
        attn_drop: dropout of the attention map.
        proj_drop: dropout of the output.
        grid: the grid of tokens; needed when ``scaled``.
        scaled: whether attention is scaled by position (the release's ``att_mask``). ``W_p`` starts at zero, where
            every pair of positions has the factor 1/2; the release leaves it uninitialised.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        grid: Grid | None = None,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = Linear(dim, dim * 3, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.att_mask: nn.Parameter | None = None
        if scaled:
            if grid is None:
                raise UserError("Position-aware attention scaling needs the grid of tokens; pass grid=(H, W).")
            tokens = grid[0] * grid[1]
            self.att_mask = nn.Parameter(torch.zeros(num_heads, tokens, tokens))

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _map(self, q: Tensor, k: Tensor) -> Tensor:
        scores = (q * self.scale) @ k.transpose(-2, -1)
        if self.att_mask is not None:
            check_tokens(scores.shape[-1], self.att_mask.shape[-1])
            scores = scores * torch.sigmoid(self.att_mask)
        return scores.softmax(dim=-1)

    def attention_matrix(self, x: Tensor) -> Tensor:
        """How much token i takes from token j, rows summing to 1: (B, N, C) -> (B, h, N, N)."""
        q, k, _ = self._qkv(x)
        return self._map(q, k)

    def attention_map(self, x: Tensor) -> Tensor:
        """The share of all attention that each token receives, summing to 1: (B, N, C) -> (B, h, N)."""
        return self.attention_matrix(x).mean(dim=-2)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; ``x`` has shape (B, N, C)."""
        q, k, v = self._qkv(x)
        if self.att_mask is None:
            dropout = self.attn_drop.p if self.training else 0.0
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        else:
            x = self.attn_drop(self._map(q, k)) @ v
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed-forward(norm(x))``, on tokens (B, N, C)."""

    def __init__(self, dim: int, attn: nn.Module, mlp: TokenMlp, drop_path: float, norm1: nn.Module, norm2: nn.Module):
        super().__init__()
        self.norm1 = norm1
        self.attn = attn
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm2
        self.mlp = mlp

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Transform tokens ``x`` (B, N, C) that lie on ``grid``."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x), grid))


class Stage(nn.Module):
    """Blocks at one resolution."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class RobustTransformer(nn.Module):
    """RVT with softmax self-attention or any attention of the form (B, N, C) -> (B, N, C).

    Args:
        img_size: height and width in pixels; only what is tied to a grid of tokens depends on it.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or an empty string for none.
        embed_dims, depths, num_heads: a value a stage.
        mlp_ratio: hidden over token channels of the feed-forward network.
        conv_mlp: see :class:`TokenMlp`.
        scaled_blocks: how many blocks of the first stage scale attention by position.
        stem_strides, stem_width: see :class:`ConvStem`.
        qkv_bias: whether projections to q, k, v have a bias.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout after the stem, of attention outputs and in the feed-forward network (the release's
            ``drop_rate``).
        attn_drop_rate: dropout of attention maps.
        drop_path_rate: stochastic depth; block i of n drops at ``drop_path_rate * i / n``, as released.
        attention: builds a block's attention from ``(dim, num_heads=, qkv_bias=, attn_drop=, proj_drop=, grid=)``.
        norm1, norm2: builds the norm before attention and the one before the feed-forward network from ``dim``.
    """

    def __init__(
        self,
        img_size: int | Grid = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: Literal["avg", ""] = "avg",
        embed_dims: tuple[int, ...] = (192, 384),
        depths: tuple[int, ...] = (10, 2),
        num_heads: tuple[int, ...] = (6, 12),
        mlp_ratio: float = 4.0,
        conv_mlp: bool = True,
        scaled_blocks: int = 0,
        stem_strides: tuple[int, int, int] = (2, 2, 4),
        stem_width: int = 32,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        attention: Callable[..., nn.Module] = Attention,
        norm1: Callable[[int], nn.Module] = layer_norm,
        norm2: Callable[[int], nn.Module] = layer_norm,
    ) -> None:
        super().__init__()
        if not len(embed_dims) == len(depths) == len(num_heads):
            raise UserError(
                f"embed_dims, depths and num_heads need one value a stage and have {len(embed_dims)}, {len(depths)} "
                f"and {len(num_heads)}."
            )
        if not 0 <= scaled_blocks <= depths[0]:
            raise UserError(f"scaled_blocks is {scaled_blocks}; the first stage has {depths[0]} blocks.")
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dims[-1]
        self.grad_checkpointing = False

        self.patch_embed = ConvStem(in_chans, embed_dims[0], stem_strides, stem_width)
        self.pos_drop = nn.Dropout(proj_drop_rate)
        grid = self.patch_embed.grid(*to_2tuple(img_size))
        reduction = stem_strides[0] * stem_strides[1] * stem_strides[2]
        total, index = sum(depths), 0
        stages, pools, self.feature_info = [], [], []
        for stage, (dim, depth, heads) in enumerate(zip(embed_dims, depths, num_heads, strict=True)):
            if dim % heads:
                raise UserError(f"embed_dims of stage {stage} is {dim}, not a multiple of its {heads} heads.")
            if stage:
                pools.append(Downsample(embed_dims[stage - 1], dim))
                grid = (grid[0] + 1) // 2, (grid[1] + 1) // 2
            blocks = []
            for position in range(depth):
                scaled = {"scaled": True} if stage == 0 and position < scaled_blocks else {}
                attn = attention(
                    dim, num_heads=heads, qkv_bias=qkv_bias, attn_drop=attn_drop_rate, proj_drop=proj_drop_rate,
                    grid=grid, **scaled,
                )  # fmt: skip
                mlp = TokenMlp(dim, int(dim * mlp_ratio), proj_drop_rate, conv_mlp)
                blocks.append(Block(dim, attn, mlp, drop_path_rate * index / total, norm1(dim), norm2(dim)))
                module = f"transformers.{stage}.blocks.{position}"
                self.feature_info.append({"module": module, "num_chs": dim, "reduction": reduction * 2**stage})
                index += 1
            stages.append(Stage(blocks))
        self.transformers = nn.ModuleList(stages)
        self.pools = nn.ModuleList(pools)
        self.norm = layer_norm(self.num_features)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that timm would otherwise decay: none beyond vectors, which it never decays."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns for layer-wise learning rates."""
        blocks = [(r"^transformers\.(\d+)", None), (r"^pools\.(\d+)", None), (r"^norm", (99999,))]
        # Pooling ends a stage.
        fine = [(r"^transformers\.(\d+)\.blocks\.(\d+)", None), (r"^pools\.(\d+)", (99999,)), (r"^norm", (99999,))]
        return {"stem": r"^patch_embed", "blocks": blocks if coarse else fine}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one with ``num_classes`` outputs (0: none)."""
        if global_pool is not None:
            if global_pool not in ("avg", ""):
                raise UserError(f"RVT pools tokens by 'avg' or not at all (''), not by {global_pool!r}.")
            self.global_pool = global_pool
        self.num_classes = num_classes
        like = self.patch_embed.proj[0].weight
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.head.to(device=like.device, dtype=like.dtype)

    def _blocks(self, x: Tensor) -> Any:
        """Run the model up to the classifier; yields ``(block, tokens before it, tokens after it, grid)``."""
        x = self.pos_drop(self.patch_embed(x))
        for stage, transformer in enumerate(self.transformers):
            if stage:
                x = self.pools[stage - 1](x)
            grid = (x.shape[2], x.shape[3])
            x = x.permute(0, 2, 3, 1).flatten(1, 2)
            for block in transformer.blocks:
                before = x
                if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                    x = checkpoint(block, x, grid, use_reentrant=False)
                else:
                    x = block(x, grid)
                yield block, before, x, grid
            x = x.unflatten(1, grid).permute(0, 3, 1, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to unnormalised features (B, C, H, W) of the last block."""
        for _, _, after, grid in self._blocks(x):  # noqa: B007 (no list: it would keep the tokens of every block)
            pass
        return after.unflatten(1, grid).permute(0, 3, 1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C, H, W) to logits (B, num_classes); to pooled, normalised features when ``pre_logits``.

        Without pooling either keeps its places: (B, num_classes or C, H, W).
        """
        x = x.mean(dim=(2, 3)) if self.global_pool else x.permute(0, 2, 3, 1)
        x = self.head_drop(self.norm(x))
        x = x if pre_logits else self.head(x)
        return x if self.global_pool else x.permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features after chosen blocks, each (B, C, H, W), as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: blocks; the last n for an int, all for None.
            norm: whether the final norm is applied; only the last block's width fits it.
            stop_early: whether to stop after the last chosen block.
            output_fmt: NCHW.
            intermediates_only: whether the final features are left out.
        """
        if output_fmt != "NCHW":
            raise UserError(f"RVT gives features as NCHW, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.feature_info), indices)
        features = []
        for index, (_, _, after, grid) in enumerate(self._blocks(x)):
            if index in take:
                y = self.norm(after) if norm and after.shape[-1] == self.num_features else after
                features.append(y.unflatten(1, grid).permute(0, 3, 1, 2))
            if stop_early and index == last:
                break
        if intermediates_only:
            return features
        return after.unflatten(1, grid).permute(0, 3, 1, 2), features

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """Where each block attends: images (B, in_chans, height, width) to one map (B, heads, H, W) a block."""
        return [
            block.attn.attention_map(block.norm1(before)).unflatten(-1, grid)
            for block, before, _, grid in self._blocks(x)
        ]


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to ours; they are the same."""
    return dict(state_dict)


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our names to released ones; the inverse of :func:`checkpoint_filter_fn`."""
    return dict(state_dict)


def build(
    name: str, pretrained: bool, model_cls: type[nn.Module], defaults: dict[str, Any], tied: bool = False, **kwargs: Any
) -> Any:
    """Build ``model_cls`` with ``defaults`` under ``kwargs`` and timm's handling of configuration and features.

    Args:
        name: of the variant.
        pretrained: must be False.
        model_cls: the class.
        defaults: its arguments.
        tied: whether the variant takes images of one size only, that of ``img_size``.
        **kwargs: arguments that override the defaults, and timm's.

    Raises:
        UserError: ``pretrained`` is set; nothing is downloaded.
    """
    if pretrained:
        raise UserError(
            f"There is nothing to download for {name}; create it with pretrained=False and load a released file with "
            f"common.checkpoints.load_released(model, path)."
        )
    arguments = {**defaults, **kwargs}
    own = default_cfg(architecture=name, fixed_input_size=tied)
    if "embed_dims" in defaults:  # patches of 16 pixels, halved between stages
        own["pool_size"] = (14 // 2 ** (len(defaults["embed_dims"]) - 1),) * 2
    cfg = arguments.pop("pretrained_cfg", None) or own
    depth = arguments.get("depth") or sum(arguments["depths"])
    features = {"out_indices": arguments.pop("out_indices", min(3, depth)), "feature_cls": "getter"}
    return build_model_with_cfg(model_cls, name, False, pretrained_cfg=cfg, feature_cfg=features, **arguments)


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build the variant ``name`` of :data:`VARIANTS`; keyword arguments are those of :class:`RobustTransformer`."""
    if name not in VARIANTS:
        raise UserError(f"There is no RVT called {name!r}.{nearest(name, VARIANTS)} There are {', '.join(VARIANTS)}.")
    return build(name, pretrained, RobustTransformer, VARIANTS[name], "scaled_blocks" in VARIANTS[name], **kwargs)
