"""MixMIM, also called MixMAE: a plain hierarchy of window attention, and the pre-training that mixes two images.

Liu et al., "MixMAE: Mixed and Masked Autoencoder for Efficient Pretraining of Hierarchical Vision Transformers", CVPR
2023, arXiv 2205.13137. A masked autoencoder hides patches and reconstructs them. A hierarchical network cannot drop
hidden tokens, and symbols in their place cost as much as tokens and are never seen in fine-tuning. Here the tokens of
another image fill the gaps, and both images are reconstructed: all that the encoder sees is real. So that the images
do not help each other, attention is masked: a token sees those of its own image alone.

Shapes: B images; H x W tokens of C channels, a stage's maps are (B, H, W, C); P places of the last stage, each of S x S
pixels of the image (S is 32). A mask of places is bool, True where an image's place is filled by the other image.

Names of modules and parameters are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, Mlp, PatchEmbed, calculate_drop_path_rates, to_2tuple
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models.swin_transformer import PatchMerging, get_relative_position_index
from timm.models.vision_transformer import Block as DecoderBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import UserError, nearest
from papers.mixmim.method import reconstruction_loss

_WINDOWS_384 = {"img_size": 384, "window_sizes": (16, 16, 24, 12)}
_BASE: dict[str, Any] = {"embed_dim": 128, "num_heads": (4, 8, 16, 32)}
_LARGE: dict[str, Any] = {"embed_dim": 192, "num_heads": (6, 12, 24, 48)}
_HUGE: dict[str, Any] = {"embed_dim": 352, "num_heads": (11, 22, 44, 88)}

#: Arguments of :class:`MixMIM`, or of :class:`MixMIMPretraining` for those called ``pretrain``.
VARIANTS: dict[str, dict[str, Any]] = {
    "mixmim_base": _BASE,
    "mixmim_base_384": {**_BASE, **_WINDOWS_384},
    "mixmim_large": _LARGE,
    "mixmim_large_384": {**_LARGE, **_WINDOWS_384},
    "mixmim_huge": _HUGE,
    "mixmim_base_pretrain": {**_BASE, "num_classes": 0},
    "mixmim_large_pretrain": {**_LARGE, "num_classes": 0},
    "mixmim_huge_pretrain": {**_HUGE, "num_classes": 0},
}


def position_table(dim: int, height: int, width: int) -> Tensor:
    """Sines and cosines of the column, then of the row: (1, height * width, dim), float32.

    The publication builds on MAE's code, whose table has the column first.

    Raises:
        UserError: ``dim`` is no multiple of 4.
    """
    if dim % 4:
        raise UserError(f"Positions take sine and cosine of row and column: {dim} channels are no multiple of 4.")
    frequency = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (column, row)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1).float()[None]


class WindowAttention(nn.Module):
    """Attention within windows, with a bias for each distance, and between tokens of the same image alone.

    Args:
        dim: C.
        window: tokens on a side of a window.
        num_heads: heads.
    """

    def __init__(self, dim: int, window: int, num_heads: int) -> None:
        super().__init__()
        self.window, self.num_heads = window, num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        index = get_relative_position_index(window, window)
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", index, persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Mix tokens (B, H, W, C) within windows; ``other`` (H, W) tells which of them are of the other image."""
        B, H, W, C = x.shape
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        windows = self.partition(x)
        count = windows.shape[1]
        bias = bias.expand(count, -1, -1, -1)
        if other is not None:
            image = self.partition(other[None, ..., None])[0, ..., 0]  # (windows, tokens)
            apart = image[:, None, :, None] != image[:, None, None, :]
            bias = bias.masked_fill(apart, float("-inf"))
        qkv = self.qkv(windows).unflatten(3, (3, self.num_heads, -1))
        # Windows stand beside heads, so that one bias serves all images: (B, windows * heads, tokens, channels).
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(0, 1)[None].to(q.dtype))
        mixed = mixed.unflatten(1, (count, self.num_heads)).transpose(2, 3).flatten(3)
        rows, columns = H // self.window, W // self.window
        mixed = mixed.unflatten(1, (rows, columns)).unflatten(3, (self.window, self.window))
        return self.proj(mixed.transpose(2, 3).reshape(B, H, W, C))

    def partition(self, x: Tensor) -> Tensor:
        """A map (B, H, W, C) as (B, windows, tokens of a window, C)."""
        x = x.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Block(nn.Module):
    """Window attention and an MLP, each behind a norm and beside a shortcut: (B, H, W, C) to the same.

    Args:
        dim: C.
        window, num_heads: of the attention.
        drop_path: stochastic depth.
    """

    def __init__(self, dim: int, window: int, num_heads: int, drop_path: float, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Transform a map; ``other`` as in :class:`WindowAttention`."""
        x = x + self.drop_path(self.attn(self.norm1(x), other))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Blocks of one resolution, and the merging of 2 x 2 tokens after them in all stages but the last."""

    def __init__(self, blocks: Sequence[Block], dim: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = nn.Identity() if last else PatchMerging(dim)
        self.grad_checkpointing = False

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Run the blocks, without the merging: (B, H, W, C) to the same."""
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, other, use_reentrant=False)
            else:
                x = block(x, other)
        return x


class MixMIM(nn.Module):
    """The encoder with a classifier: windows of four stages, which are never shifted, large where they can be.

    Args:
        img_size: height and width in pixels, multiples of the stride of the last stage; fixed.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for features as they are.
        patch_size: pixels on a side of a token of the first stage.
        embed_dim: C of the first stage; each one has twice that of the one before.
        depths, num_heads, window_sizes: of each stage. A window is never larger than its map.
        mlp_ratio: width of the MLPs in units of C.
        drop_rate: dropout before the classifier and after the positions.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0.

    Raises:
        UserError: maps cannot be cut into whole patches, windows and halves.
    """

    derived: ClassVar[tuple[str, ...]] = ("absolute_pos_embed",)
    output_fmt: ClassVar[str] = "NHWC"  # of forward_features, for timm

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        patch_size: int = 4,
        embed_dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        window_sizes: Sequence[int] = (14, 14, 14, 7),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        dims = [embed_dim * 2**stage for stage in range(len(depths))]
        self.stride = patch_size * 2 ** (len(depths) - 1)
        size = to_2tuple(img_size)
        if min(size) <= 0 or any(pixels % self.stride for pixels in size):
            raise UserError(f"img_size is {size[0]}x{size[1]}; MixMIM needs multiples of {self.stride} pixels.")
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = dims[-1]
        self.feature_info = [
            {"module": f"layers.{stage}", "num_chs": dim, "reduction": patch_size * 2**stage}
            for stage, dim in enumerate(dims)
        ]
        self.patch_embed = PatchEmbed(size, patch_size, in_chans, embed_dim, nn.LayerNorm)
        self.absolute_pos_embed = nn.Parameter(
            torch.zeros(1, self.patch_embed.num_patches, embed_dim), requires_grad=False
        )
        self.pos_drop = nn.Dropout(drop_rate)
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.layers = nn.ModuleList()
        for stage, dim in enumerate(dims):
            tokens = [pixels // patch_size // 2**stage for pixels in size]
            window = min(window_sizes[stage], *tokens)
            if any(count % window for count in tokens):
                raise UserError(
                    f"{tokens[0]} x {tokens[1]} tokens of stage {stage + 1} cannot be cut into windows of {window}; "
                    "choose another img_size, or window_sizes that divide its maps."
                )
            blocks = [Block(dim, window, num_heads[stage], rate, mlp_ratio) for rate in rates[stage]]
            self.layers.append(Stage(blocks, dim, last=stage == len(dims) - 1))
        self.norm = nn.LayerNorm(dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes > 0 else nn.Identity()
        self.apply(_initialise)
        MixMIM.recompute_derived(self)

    def recompute_derived(self) -> None:
        """Fill the table of positions."""
        _fill_positions(self.absolute_pos_embed, *self.patch_embed.grid_size)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays: none, as released."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Any:
        """Layers for layer-wise learning rates, as released: blocks one by one, what follows them with the last."""
        if coarse:
            return {"stem": r"^absolute_pos_embed|^patch_embed", "blocks": r"^layers\.(\d+)"}
        depths = [len(stage.blocks) for stage in self.layers]  # type: ignore[arg-type]

        def layer(name: str) -> int:
            kind, *position = name.split(".")
            if kind in ("absolute_pos_embed", "patch_embed"):
                return 0
            if kind != "layers":
                return sum(depths)
            stage = int(position[0])
            if position[1] == "downsample":
                return 1 + sum(depths[: stage + 1])
            return 1 + sum(depths[:stage]) + int(position[2])

        return layer

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.layers:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one with ``num_classes`` outputs (0: none)."""
        if global_pool is not None:
            if global_pool not in ("avg", ""):
                raise UserError(f"MixMIM pools by 'avg' or not at all (''), not by {global_pool!r}.")
            self.global_pool = global_pool
        self.num_classes = num_classes
        like = self.norm.weight
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.head.apply(_initialise).to(device=like.device, dtype=like.dtype)

    def embed(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Images (B, in_chans, height, width) to tokens (B, H, W, C) with positions.

        With ``other`` (H, W), its tokens are those of the image at the mirrored place of the batch.
        """
        tokens = self.patch_embed(x)
        if other is not None:
            tokens = torch.where(other.flatten()[:, None], tokens.flip(0), tokens)
        return self.pos_drop(tokens + self.absolute_pos_embed).unflatten(1, self.patch_embed.grid_size)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to normed features (B, H, W, C)."""
        return self.forward_intermediates(x, norm=True)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, H, W, C) to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        x = self.head_drop(x.mean(dim=(1, 2)) if self.global_pool else x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Any:
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
        """Features (B, C, H, W) of chosen stages, as timm's models return them, and those of ``forward_features``.

        Args:
            x: images (B, in_chans, height, width).
            indices: stages; the last n for an int, all for None.
            norm: whether the final norm is applied to the last stage's.
            stop_early: whether to stop after the last chosen stage.
            output_fmt: NCHW or NHWC.
            intermediates_only: whether the final features are left out.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise UserError(f"MixMIM gives features as NCHW or NHWC, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.layers), indices)
        features = []
        x = self.embed(x)
        for index, stage in enumerate(self.layers):
            if stop_early and index > last:
                break
            x = stage(x)
            if index in take:
                taken = self.norm(x) if norm and index == len(self.layers) - 1 else x
                features.append(taken.permute(0, 3, 1, 2) if output_fmt == "NCHW" else taken)
            x = stage.downsample(x)  # type: ignore[operator]
        return features if intermediates_only else (self.norm(x), features)


class MixMIMPretraining(MixMIM):
    """The encoder with the decoder that reconstructs both images of a mixture.

    It is the encoder with its classifier, if it has one, unless ``pretraining`` is set; then it returns logits and
    reconstructions in training mode, and needs a ``mask``.

    Args:
        decoder_dim, decoder_depth, decoder_num_heads: of the decoder, a plain vision transformer on the places.
        kwargs: of :class:`MixMIM`.
    """

    derived: ClassVar[tuple[str, ...]] = ("absolute_pos_embed", "decoder_pos_embed")

    def __init__(
        self, decoder_dim: int = 512, decoder_depth: int = 8, decoder_num_heads: int = 16, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        rows, columns = (pixels // self.stride for pixels in self.patch_embed.img_size)
        self.places = (rows, columns)
        self.pretraining = False
        self.mask: Tensor | None = None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        positions = torch.zeros(1, rows * columns, decoder_dim)
        self.decoder_pos_embed = nn.Parameter(positions, requires_grad=False)
        self.decoder_embed = nn.Linear(self.num_features, decoder_dim)
        self.decoder_blocks = nn.ModuleList(
            DecoderBlock(decoder_dim, decoder_num_heads, qkv_bias=True, norm_layer=nn.LayerNorm)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, self.stride**2 * self.in_chans)
        for name, module in self.named_children():
            if name.startswith("decoder"):
                module.apply(_initialise)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.recompute_derived()

    def recompute_derived(self) -> None:
        """Fill both tables of positions."""
        super().recompute_derived()
        _fill_positions(self.decoder_pos_embed, *self.places)

    def encode(self, images: Tensor, mask: Tensor) -> Tensor:
        """Mix each image (B, in_chans, height, width) with its mirror in the batch, and encode: (B, P, C).

        Args:
            images: normalised.
            mask: (rows, columns) of places, the same for all images.
        """
        masks = [mask]
        for _ in range(len(self.layers) - 1):
            masks.insert(0, masks[0].repeat_interleave(2, dim=0).repeat_interleave(2, dim=1))
        x = self.embed(images, masks[0])
        for stage, other in zip(self.layers, masks, strict=True):
            x = stage.downsample(stage(x, other))  # type: ignore[operator]
        return self.norm(x).flatten(1, 2)

    def decode(self, latent: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct from a mixture (B, P, C): patches (2 B, P, S * S * in_chans).

        First those of each image, whose tokens are where the mask is False; then those of its mirror, which are where
        it is True. The other places of each have the mask token.
        """
        x = self.decoder_embed(latent)
        other = mask.flatten()[:, None]
        token = self.mask_token.to(x.dtype)
        x = torch.cat([torch.where(other, token, x), torch.where(other, x, token)]) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))

    def loss(self, images: Tensor, reconstructed: Tensor, normalise: bool = True) -> Tensor:
        """The error of what ``forward`` reconstructed, a scalar; see :func:`method.reconstruction_loss`."""
        assert self.mask is not None
        return reconstruction_loss(images, reconstructed, self.mask, self.stride, normalise)

    def forward(self, x: Tensor) -> Any:
        """Images to logits; in pre-training to logits of the image's own places, and patches as of ``decode``."""
        if not (self.pretraining and self.training):
            return super().forward(x)
        if self.mask is None:
            raise UserError("Pre-training needs a mask of places: set model.mask, as the hook of the paper does.")
        latent = self.encode(x, self.mask)
        own = latent.detach()[:, ~self.mask.flatten()].mean(dim=1)
        return self.head(own), self.decode(latent, self.mask)


def _initialise(module: nn.Module) -> None:
    """Xavier's uniform weights and no biases for linear layers, as MAE has them."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _fill_positions(table: Tensor, height: int, width: int) -> None:
    if not table.is_meta:
        table.data.copy_(position_table(table.shape[2], height, width))


#: What pre-training has beside the encoder.
_PRETRAINING = ("mask_token", "decoder_")


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released tensors without the indices of relative positions, which follow from the windows."""
    return {name: value for name, value in state_dict.items() if not name.endswith("relative_position_index")}


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our tensors are the released ones."""
    return dict(state_dict)


def resize_grid(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights that fine-tuning starts from: of the encoder, for the windows of the model.

    A pre-trained file has a decoder, which a classifier leaves, and no classifier for it, or one that stood on half of
    the places: the model's own starts anew, as in the release. Biases of other distances are interpolated.
    """
    own = model.state_dict()
    state = dict(state_dict)
    if "mask_token" in state and not isinstance(model, MixMIMPretraining):
        state = {name: value for name, value in state.items() if not name.startswith((*_PRETRAINING, "head."))}
        state |= {name: value for name, value in own.items() if name.startswith("head.")}
    fitting = {}
    for name, value in state.items():
        if name == "absolute_pos_embed" and name in own and value.shape != own[name].shape:
            continue  # computed for the model's grid
        if name.endswith("relative_position_bias_table") and name in own:
            value = _resized(value, own[name])
        fitting[name] = value
    return fitting


def _resized(table: Tensor, own: Tensor) -> Tensor:
    """A table (distances, heads) for as many distances as ``own`` has; as it is where heads do not fit."""
    before, after = (round(len(each) ** 0.5) for each in (table, own))
    if before == after or table.shape[1] != own.shape[1] or before**2 != len(table):
        return table
    grid = table.T.unflatten(1, (before, before))[None]
    return F.interpolate(grid, size=(after, after), mode="bicubic")[0].flatten(1).T


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: as released; ``pretrain`` at its end for the network with the decoder.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`MixMIM`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no MixMIM called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    size = VARIANTS[name].get("img_size", 224)
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": VARIANTS[name].get("num_classes", 1000), "input_size": (3, size, size),
        "pool_size": (size // 32, size // 32), "crop_pct": 0.875 if size == 224 else 1.0, "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "first_conv": "patch_embed.proj",
        "classifier": "head", "fixed_input_size": True,
    }  # fmt: skip
    kind = MixMIMPretraining if name.endswith("pretrain") else MixMIM
    features = {"out_indices": kwargs.pop("out_indices", (0, 1, 2, 3)), "feature_cls": "getter"}
    return build_model_with_cfg(
        kind, name, False, pretrained_cfg=cfg, feature_cfg=features, **{**VARIANTS[name], **kwargs}
    )
