"""Fully attentional networks: FAN-ViT and FAN-Hybrid; :mod:`papers.fan.swin` has FAN-Swin.

Zhou et al., "Understanding The Robustness in Vision Transformers", ICML 2022, arXiv 2204.12451. Patches come from
convolutions (FAN-ViT) or from two ConvNeXt stages (FAN-Hybrid); a Fourier encoding of the position is added; blocks
attend over tokens and over channels (:mod:`papers.fan.layers`); at the end a class token attends to all tokens in two
blocks. The frame of encoding and class attention is that of XCiT, whose parts timm has.

Names of modules and parameters are those of the released checkpoints.

Shapes: B images, N = H * W tokens of C channels, h heads of d = C / h channels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerNorm, to_2tuple, trunc_normal_
from timm.models import register_notrace_function
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models.xcit import ClassAttentionBlock, PositionalEncodingFourier
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import UserError, nearest
from papers.fan import swin
from papers.fan.layers import (
    Block,
    ChannelAttention,
    ChannelProcessing,
    ConvolutionalEmbedding,
    Grid,
    HybridEmbedding,
    TokenAttention,
    heads,
    init_linear,
)

#: One row a variant of FAN-ViT and FAN-Hybrid; widths, depths and heads: models/fan.py of the release. ``stem_depths``
#: are the ConvNeXt blocks of a hybrid. Numbers in the names are not always depths: ``fan_small_12_p4_hybrid`` has 10
#: blocks and ``fan_large_16_p4_hybrid`` has 22.
VARIANTS: dict[str, dict[str, Any]] = {
    "fan_tiny_12_p16_224": {"embed_dim": 192, "depth": 12, "num_heads": 4},
    "fan_small_12_p16_224": {"embed_dim": 384, "depth": 12, "num_heads": 8},
    "fan_base_18_p16_224": {"embed_dim": 448, "depth": 18, "num_heads": 8},
    "fan_large_24_p16_224": {"embed_dim": 480, "depth": 24, "num_heads": 10},
    "fan_tiny_8_p4_hybrid": {"embed_dim": 192, "depth": 8, "num_heads": 8, "stem_depths": (3, 3)},
    "fan_small_12_p4_hybrid": {"embed_dim": 384, "depth": 10, "num_heads": 8, "stem_depths": (3, 3)},
    "fan_base_16_p4_hybrid": {"embed_dim": 448, "depth": 16, "num_heads": 8, "stem_depths": (3, 3)},
    "fan_large_16_p4_hybrid": {
        "embed_dim": 480, "depth": 22, "num_heads": 10, "stem_depths": (3, 5), "head_init_scale": 0.001,
    },
    "fan_Xlarge_16_p4_hybrid": {
        "embed_dim": (528, 768), "depth": (20, 3), "num_heads": (11, 16), "stem_depths": (3, 7),
    },
}  # fmt: skip


def default_cfg(**overlay: Any) -> dict[str, Any]:
    """Preprocessing with which the released weights were trained and evaluated, as timm's pretrained configuration."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj.0.0",
        "classifier": "head",
        **overlay,
    }


class _Step(NamedTuple):
    """One block of the trunk: what went in, what came out before any downsampling, and where its tokens lie."""

    block: Block
    before: Tensor
    after: Tensor
    grid: Grid


def _per_stage(value: Any, stages: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * stages


class FullyAttentionalNetwork(nn.Module):
    """FAN-ViT, or FAN-Hybrid where ``stem_depths`` is given.

    Args:
        img_size: height and width in pixels. Nothing depends on it but the check that patches fit; other sizes may
            be given to the model at any time.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``token``: the class token; ``avg``: the mean of the other tokens; empty: all tokens.
        patch_size: side of a patch in pixels; 16 in every published variant.
        stem_depths: ConvNeXt blocks of a hybrid's two stages, or None for a convolutional embedding.
        unbiased_stem_norm: whether a hybrid's ConvNeXt norms take the unbiased variance, as released; see
            :class:`papers.fan.layers.UnbiasedLayerNorm2d`.
        embed_dim, depth, num_heads: a value, or a value a stage; a 3x3 convolution with stride 2 joins stages.
        mlp_ratio: hidden over token channels.
        channel_processing: ``attention`` as published; ``convolution`` leaves the gate out, ``mlp`` is a plain MLP.
        qkv_bias: whether projections to q, k, v have a bias.
        drop_rate: dropout before the classifier.
        pos_drop_rate: dropout of the embedded tokens.
        proj_drop_rate: dropout of attention outputs and in MLPs.
        attn_drop_rate: dropout of attention maps and gates.
        drop_path_rate: stochastic depth, the same for every block, none in class attention.
        cls_attn_layers: blocks of class attention.
        eta: start of the residual scales.
        head_init_scale: the classifier's first weights are multiplied by it.
        attention: builds a block's attention over tokens from ``(dim, num_heads=, qkv_bias=, attn_drop=, proj_drop=,
            grid=)``, where the grid is that of ``img_size``.

    Raises:
        UserError: a size that does not fit; names it.
    """

    def __init__(
        self,
        img_size: int | Grid = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: Literal["token", "avg", ""] = "token",
        patch_size: int = 16,
        stem_depths: tuple[int, int] | None = None,
        unbiased_stem_norm: bool = True,
        embed_dim: int | tuple[int, ...] = 192,
        depth: int | tuple[int, ...] = 12,
        num_heads: int | tuple[int, ...] = 4,
        mlp_ratio: float = 4.0,
        channel_processing: ChannelProcessing = "attention",
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        cls_attn_layers: int = 2,
        eta: float = 1.0,
        head_init_scale: float = 1.0,
        attention: Callable[..., nn.Module] = TokenAttention,
    ) -> None:
        super().__init__()
        stages = max(len(_per_stage(value, 1)) for value in (embed_dim, depth, num_heads))
        sizes = list(zip(*(_per_stage(value, stages) for value in (embed_dim, depth, num_heads)), strict=True))
        for dim, _, count in sizes:
            if dim % count:
                raise UserError(f"embed_dim is {dim}, not a multiple of its {count} heads; change one of them.")
        if stem_depths is not None and patch_size != 16:
            raise UserError(f"patch_size is {patch_size}; a hybrid's patches have 16 pixels, leave it out.")
        dims = [dim for dim, blocks, _ in sizes for _ in range(blocks)]
        counts = [count for _, blocks, count in sizes for _ in range(blocks)]
        norm = partial(LayerNorm, eps=1e-6)

        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = dims[-1]
        self.num_prefix_tokens = 1
        self.patch_size = patch_size
        self.grad_checkpointing = False

        if stem_depths is None:
            self.patch_embed: nn.Module = ConvolutionalEmbedding(patch_size, in_chans, dims[0])
        else:
            self.patch_embed = HybridEmbedding(in_chans, dims[0], stem_depths, unbiased_stem_norm)
        _check_size(img_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims[-1]))
        self.pos_embed = PositionalEncodingFourier(dim=dims[0])
        self.pos_drop = nn.Dropout(pos_drop_rate)
        height, width = to_2tuple(img_size)
        grid, blocks = (height // patch_size, width // patch_size), []
        for dim, count, out_dim in zip(dims, counts, [*dims[1:], dims[-1]], strict=True):
            block = Block(
                dim, count, mlp_ratio, channel_processing, qkv_bias, proj_drop_rate, attn_drop_rate, drop_path_rate,
                eta, norm, out_dim, partial(attention, grid=grid),
            )  # fmt: skip
            blocks.append(block)
            if block.downsample is not None:
                grid = (grid[0] + 1) // 2, (grid[1] + 1) // 2
        self.blocks = nn.ModuleList(blocks)
        self.cls_attn_blocks = nn.ModuleList(
            ClassAttentionBlock(
                dims[-1], counts[-1], mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, proj_drop=proj_drop_rate,
                attn_drop=attn_drop_rate, norm_layer=norm, eta=eta, tokens_norm=True,
            )
            for _ in range(cls_attn_layers)
        )  # fmt: skip
        self.norm = norm(dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes > 0 else nn.Identity()
        self.feature_info = self._feature_info(dims)

        trunc_normal_(self.cls_token, std=0.02)
        init_linear(self)
        if num_classes > 0:
            with torch.no_grad():
                self.head.weight.mul_(head_init_scale)

    def _feature_info(self, dims: list[int]) -> list[dict[str, Any]]:
        """What ``forward_intermediates`` can give: a hybrid's two stages, each block, the class-attended tokens."""
        info: list[dict[str, Any]] = []
        if isinstance(self.patch_embed, HybridEmbedding):
            for stage, width in enumerate(self.patch_embed.widths):
                module = f"patch_embed.backbone.stages.{stage}"
                info.append({"module": module, "num_chs": width, "reduction": 4 * 2**stage})
        reduction = self.patch_size
        for index, dim in enumerate(dims):
            info.append({"module": f"blocks.{index}", "num_chs": dim, "reduction": reduction})
            if self.blocks[index].downsample is not None:
                reduction *= 2
        info.append({"module": "cls_attn_blocks", "num_chs": dims[-1], "reduction": reduction})
        return info

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays; as in the released training."""
        return {"cls_token"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns for layer-wise learning rates."""
        end = [(r"^cls_attn_blocks\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^cls_token|pos_embed|patch_embed", "blocks": r"^blocks\.(\d+)", "cls_attn_blocks": end}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable
        if isinstance(self.patch_embed, HybridEmbedding):
            for stage in self.patch_embed.backbone.stages:
                stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one with ``num_classes`` outputs (0: none)."""
        if global_pool is not None:
            if global_pool not in ("token", "avg", ""):
                raise UserError(f"FAN pools by 'token', by 'avg' or not at all (''), not by {global_pool!r}.")
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.head.to(device=self.cls_token.device, dtype=self.cls_token.dtype)

    def _run(self, block: nn.Module, *inputs: Any) -> Tensor:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid, list[Tensor]]:
        """Tokens with their position, their grid, and a hybrid's features of strides 4 and 8."""
        check_image(x.shape[-2], x.shape[-1], self.patch_size)
        x, pyramid = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        x = x + self.pos_embed(1, *grid).to(x.dtype)
        return self.pos_drop(x.permute(0, 2, 3, 1).flatten(1, 2)), grid, pyramid

    def _trunk(self, x: Tensor, grid: Grid) -> Iterator[_Step]:
        """Run the blocks on tokens ``x``; tokens enter the next block downsampled where the block says so."""
        for block in self.blocks:
            after = self._run(block, x, grid)
            yield _Step(block, x, after, grid)
            x = after
            if block.downsample is not None:
                x, grid = block.downsample(x, grid)

    def _class_attention(self, x: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        """Put the class token before ``x`` and run class attention; yields ``(block, tokens before, tokens after)``."""
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        for block in self.cls_attn_blocks:
            before, x = x, self._run(block, x)
            yield block, before, x

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to normalised tokens (B, 1 + N, C), the class token first."""
        x, grid, _ = self._embed(x)
        for step in self._trunk(x, grid):
            x = step.after
        for _, _, after in self._class_attention(x):
            x = after
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, 1 + N, C) to logits (B, num_classes), or to pooled tokens when ``pre_logits``."""
        if self.global_pool:
            x = x[:, 0] if self.global_pool == "token" else x[:, 1:].mean(dim=1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

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
        """Features (B, C, H, W) of chosen places, as timm's models return them.

        The places are those of ``feature_info``: a hybrid's ConvNeXt stages (strides 4 and 8), each block before any
        downsampling, and last the tokens after class attention.

        Args:
            x: images (B, in_chans, height, width).
            indices: places; the last n for an int, all for None.
            norm: whether the final norm is applied to tokens; only the last width fits it.
            stop_early: whether to stop after the last chosen place.
            output_fmt: NCHW.
            intermediates_only: whether the final tokens are left out.
        """
        if output_fmt != "NCHW":
            raise UserError(f"FAN gives features as NCHW, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.feature_info), indices)
        features: list[Tensor] = []

        def keep(index: int, tokens: Tensor, grid: Grid) -> None:
            if index in take:
                tokens = self.norm(tokens) if norm and tokens.shape[-1] == self.num_features else tokens
                features.append(tokens.unflatten(1, grid).permute(0, 3, 1, 2))

        x, grid, pyramid = self._embed(x)
        features += [level for index, level in enumerate(pyramid) if index in take]
        places = range(len(pyramid), len(pyramid) + len(self.blocks))
        for index, step in zip(places, self._trunk(x, grid), strict=True):
            x, grid = step.after, step.grid
            keep(index, x, grid)
            if stop_early and index >= last:
                break
        if not (stop_early and last < places.stop):
            for _, _, after in self._class_attention(x):
                x = after
            keep(places.stop, x[:, 1:], grid)
        return features if intermediates_only else (self.norm(x), features)

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """Where each block's tokens attend: images (B, in_chans, height, width) to (B, h, H, W) a block."""
        x, grid, _ = self._embed(x)
        return [
            step.block.attn.attention_map(step.block.norm1(step.before)).unflatten(-1, step.grid)
            for step in self._trunk(x, grid)
        ]

    def class_attention_maps(self, x: Tensor) -> list[Tensor]:
        """Where the class token attends, in each block of class attention.

        Args:
            x: images (B, in_chans, height, width).

        Returns:
            A map (B, h, H, W) a block; with what the class token keeps for itself, a map sums to 1.
        """
        x, grid, _ = self._embed(x)
        for step in self._trunk(x, grid):
            x, grid = step.after, step.grid
        maps = []
        for block, before, _ in self._class_attention(x):
            attn, tokens = block.attn, block.norm1(before)
            q, k = heads(attn.q(tokens[:, :1]), attn.num_heads), heads(attn.k(tokens), attn.num_heads)
            scores = (q * attn.scale) @ k.transpose(-2, -1)
            maps.append(scores.softmax(dim=-1)[:, :, 0, 1:].unflatten(-1, grid))
        return maps

    def channel_attention(self, x: Tensor) -> list[Tensor]:
        """By what each block multiplies its channels: images (B, in_chans, height, width) to (B, h, d) a block.

        Raises:
            UserError: the model was built without channel attention.
        """
        gates = []
        x, grid, _ = self._embed(x)
        for step in self._trunk(x, grid):
            block = step.block
            if not isinstance(block.mlp, ChannelAttention):
                raise UserError("This model has no channel attention; build it with channel_processing='attention'.")
            tokens = step.before + block.gamma1 * block.attn(block.norm1(step.before))
            gates.append(block.mlp.gate(block.norm2(tokens)))
        return gates


@register_notrace_function
def check_image(height: int, width: int, patch_size: int) -> None:
    """Refuse an image that is smaller than a patch."""
    if min(height, width) < patch_size:
        raise UserError(
            f"An image of {height}x{width} pixels is smaller than a patch of {patch_size} pixels; use larger images or "
            f"a smaller patch_size."
        )


def _check_size(img_size: int | Grid, patch_size: int) -> None:
    height, width = to_2tuple(img_size)
    if height % patch_size or width % patch_size:
        raise UserError(f"img_size is {height}x{width}; both must be multiples of the patch of {patch_size} pixels.")


#: 1x1 convolutions of the release that are linear maps here.
_POINTWISE = re.compile(r"patch_embed\.backbone\.stages\..*\.mlp\.fc[12]\.weight")


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released tensors of FAN-ViT and FAN-Hybrid to ours: 1x1 convolutions become linear maps."""
    return {name: value.flatten(1) if _POINTWISE.fullmatch(name) else value for name, value in state_dict.items()}


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our tensors to released ones; the inverse of :func:`checkpoint_filter_fn`."""
    return {
        name: value[:, :, None, None] if _POINTWISE.fullmatch(name) and value.ndim == 2 else value
        for name, value in state_dict.items()
    }


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS` or :data:`papers.fan.swin.VARIANTS`.

    Args:
        name: as released.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`FullyAttentionalNetwork` or of timm's Swin transformer, and timm's ``features_only`` and
            ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if pretrained:
        raise UserError(
            f"There is nothing to download for {name}; create it with pretrained=False and load a released file with "
            f"common.checkpoints.load_released(model, path)."
        )
    cfg = kwargs.pop("pretrained_cfg", None)
    if name in swin.VARIANTS:
        return swin.create(name, cfg, **kwargs)
    if name not in VARIANTS:
        known = [*VARIANTS, *swin.VARIANTS]
        raise UserError(f"There is no FAN called {name!r}.{nearest(name, known)} There are {', '.join(known)}.")
    defaults = VARIANTS[name]
    hybrid = "stem_depths" in defaults
    first = "patch_embed.backbone.stem.0" if hybrid else "patch_embed.proj.0.0"
    # A hybrid's pyramid: its ConvNeXt stages, the last block at stride 16, and the tokens after class attention.
    depth = _per_stage(kwargs.get("depth", defaults["depth"]), 1)
    out_indices = kwargs.pop("out_indices", (0, 1, 1 + depth[0], 2 + sum(depth)) if hybrid else 3)
    return build_model_with_cfg(
        FullyAttentionalNetwork, name, False, pretrained_cfg=cfg or default_cfg(architecture=name, first_conv=first),
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"}, **{**defaults, **kwargs},
    )  # fmt: skip
