"""RegionViT: regional tokens attend to each other, then each one and the local tokens of its region do.

Chen et al., "RegionViT: Regional-to-Local Attention for Vision Transformers", ICLR 2022, arXiv 2106.02689. An image is
embedded twice: as a map of local tokens, one for 4x4 pixels, and as a map of regional tokens, one for w x w local ones.
A block lets all regional tokens attend to each other, and then, with the same weights, each region's 1 + w^2 tokens.
What other regions have seen thus reaches a local token by way of its regional one, at a cost that is linear in the
number of local tokens but for the few regional ones. Between stages both maps are halved.

Shapes: B images, H x W local tokens, R = h x w regions, C channels. A stage keeps the tokens of each region together,
(B R, 1 + window^2, C), the regional one first; both maps have channels first, (B, C, H, W) and (B, C, h, w).

Names of modules and parameters are those of the released checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerNorm2d, Mlp, calculate_drop_path_rates, to_2tuple, trunc_normal_
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_module
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.classifier import HasClassifier
from common.errors import UserError, nearest

#: One row a variant. The paper calls those with windows of 14 tokens S+ and B+.
VARIANTS: dict[str, dict[str, Any]] = {
    "regionvit_tiny": {"embed_dim": 64},
    "regionvit_small": {"embed_dim": 96},
    "regionvit_medium": {"embed_dim": 96, "depths": (2, 2, 14, 2), "stem": "1conv"},
    "regionvit_base": {"embed_dim": 128, "depths": (2, 2, 14, 2), "stem": "1conv"},
    "regionvit_small_w14": {"embed_dim": 96, "window_size": 14},
    "regionvit_small_w14_peg": {"embed_dim": 96, "window_size": 14, "peg": True},
    "regionvit_base_w14": {"embed_dim": 128, "depths": (2, 2, 14, 2), "stem": "1conv", "window_size": 14},
    "regionvit_base_w14_peg": {
        "embed_dim": 128,
        "depths": (2, 2, 14, 2),
        "stem": "1conv",
        "window_size": 14,
        "peg": True,
    },
}


def three_convolutions(in_chans: int, dim: int) -> nn.Module:
    """The stem ``3conv``: images (B, in_chans, height, width) to (B, C, height / 4, width / 4), rounded up."""
    return nn.Sequential(
        nn.Conv2d(in_chans, dim // 4, 3, stride=2, padding=1),
        LayerNorm2d(dim // 4, eps=1e-5),
        nn.GELU(),
        nn.Conv2d(dim // 4, dim // 2, 3, stride=2, padding=1),
        LayerNorm2d(dim // 2, eps=1e-5),
        nn.GELU(),
        nn.Conv2d(dim // 2, dim, 3, padding=1),
    )


def overlapping_patches(in_chans: int, dim: int) -> nn.Module:
    """The stem ``1conv``: one convolution whose patches of 8x8 pixels overlap, to (B, C, height / 4, width / 4)."""
    return nn.Conv2d(in_chans, dim, 8, stride=4, padding=3)


#: Makes the local tokens' embedding from image channels and C, by name.
STEMS: dict[str, Callable[[int, int], nn.Module]] = {"3conv": three_convolutions, "1conv": overlapping_patches}


@register_notrace_module  # what is padded follows from the size
class PatchEmbed(nn.Module):
    """Embeds images by ``proj``, first padded with zeros on all sides to a multiple of ``multiple`` pixels."""

    def __init__(self, proj: nn.Module, multiple: int = 1) -> None:
        super().__init__()
        self.proj = proj
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to tokens (B, C, H, W)."""
        height, width = x.shape[2:]
        if height % self.multiple or width % self.multiple:
            # As released: where one side needs it, one that fits is padded by a whole multiple, too.
            rows, columns = self.multiple - height % self.multiple, self.multiple - width % self.multiple
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return self.proj(x)


class Attention(nn.Module):
    """Self-attention that regional and local tokens share; local ones know their distances.

    Args:
        dim: C.
        num_heads: heads.
        window_size: side of a region, in local tokens.
        position_bias: whether a table of scores by distance is added between local tokens.
    """

    index: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int, position_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos = nn.Parameter(torch.empty(num_heads, (2 * window_size - 1) ** 2)) if position_bias else None
        if self.rel_pos is not None:
            trunc_normal_(self.rel_pos, std=0.02)
        self.register_buffer("index", distance_index(window_size), persistent=False)

    def scores_by_distance(self) -> Tensor | None:
        """What is added to the scores of a region's tokens, (heads, 1 + window^2, 1 + window^2); the regional: 0."""
        if self.rel_pos is None:
            return None
        return F.pad(self.rel_pos[:, self.index], (1, 0, 1, 0))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Mix tokens (B, N, C); ``bias`` is added to scores, (B or 1, heads, N, N)."""
        B, N, C = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


def distance_index(window_size: int) -> Tensor:
    """Where in the table the distance of two local tokens stands, (window^2, window^2).

    The released table begins with a distance of -(window // 2) in rows and columns and wraps around, where others begin
    with the smallest, 1 - window.
    """
    place = torch.arange(window_size)
    distance = (place[None, :] - place[:, None] + window_size // 2) % (2 * window_size - 1)
    index = distance[:, None, :, None] * (2 * window_size - 1) + distance[None, :, None, :]
    return index.reshape(window_size**2, window_size**2)


class Block(nn.Module):
    """Regional attention, local attention with the same weights, and an MLP: (B R, 1 + window^2, C) to the same.

    Args:
        dim: C.
        num_heads: heads.
        window_size: side of a region, in local tokens.
        mlp_ratio: hidden channels of the MLP over C.
        drop_path: stochastic depth.
        regional_attention: whether regional tokens attend to each other.
        position_bias: see :class:`Attention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        regional_attention: bool = True,
        position_bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(dim, eps=1e-6) if regional_attention else None
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, window_size, position_bias)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, images: int, allowed: Tensor | None = None) -> Tensor:
        """Mix the tokens ``x`` of so many ``images``; ``allowed`` is that of :func:`allowed_keys`."""
        if self.norm0 is not None:
            regional = x[:, 0].unflatten(0, (images, -1))
            regional = regional + self.drop_path(self.attn(self.norm0(regional)))
            x = torch.cat((regional.flatten(0, 1)[:, None], x[:, 1:]), dim=1)
        x = x + self.drop_path(self.attn(self.norm1(x), self._bias(images, allowed)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _bias(self, images: int, allowed: Tensor | None) -> Tensor | None:
        bias = self.attn.scores_by_distance()
        if allowed is None:
            return None if bias is None else bias[None]
        forbidden = torch.zeros_like(allowed, dtype=self.norm1.weight.dtype).masked_fill(~allowed, -torch.inf)
        scores = forbidden[:, None] if bias is None else forbidden[:, None] + bias
        return scores.repeat(images, 1, 1, 1)


def allowed_keys(regions: tuple[int, int], window_size: int, size: tuple[int, int], device: Any = None) -> Tensor:
    """Which tokens of its region each token may attend to, where H x W local tokens were padded below and right.

    Tokens that are padding are no keys, but, as released, in the last region of an image, where they are behind the
    end of one side alone.

    Returns:
        (R, 1 + window^2, 1 + window^2), of bool.
    """
    h, w = regions
    real_row = (torch.arange(h * window_size, device=device) < size[0]).view(h, 1, window_size, 1)
    real_column = (torch.arange(w * window_size, device=device) < size[1]).view(1, w, 1, window_size)
    pairs = []
    for real in (real_row, real_column):
        real = F.pad(real.expand(h, w, window_size, window_size).reshape(h * w, -1), (1, 0), value=True)
        pairs.append(real[:, :, None] & real[:, None, :])
    allowed = pairs[0] & pairs[1]
    allowed[-1] = pairs[0][-1] | pairs[1][-1]
    # Padding that has no key attends to all; nothing attends to it.
    return allowed | ~allowed.any(dim=-1, keepdim=True)


class Downsample(nn.Module):
    """Halves both maps and widens them by the same norm, GELU and 3x3 convolution of each channel by itself."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(dim, out, 3, stride=2, padding=1, groups=dim)
        self.proj = nn.Sequential(LayerNorm2d(dim, eps=1e-5), nn.GELU(), convolution)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out, H / 2, W / 2), rounded up."""
        return self.proj(x)


@register_notrace_module
class Stage(nn.Module):
    """Blocks on maps of regional and of local tokens.

    Args:
        blocks: of one width.
        window_size: side of a region, in local tokens.
        downsample: what is applied to both maps first.
        peg: channels of a position encoding by a depth-wise 3x3 convolution of both maps behind the first block (Chu
            et al., "Conditional Positional Encodings for Vision Transformers", 2021); 0 for none.
    """

    def __init__(self, blocks: Sequence[Block], window_size: int, downsample: nn.Module, peg: int = 0) -> None:
        super().__init__()
        self.block = nn.ModuleList([downsample, *blocks])
        self.window_size = window_size
        self.peg = nn.Conv2d(peg, peg, 3, padding=1, groups=peg, bias=False) if peg else None
        self.grad_checkpointing = False

    def forward(self, regional: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) of regional tokens and (B, C, H, W) of local ones to those of the stage."""
        regional, local = self.block[0](regional), self.block[0](local)
        regions, size = (regional.shape[2], regional.shape[3]), (local.shape[2], local.shape[3])
        fits = size == (regions[0] * self.window_size, regions[1] * self.window_size)
        allowed = None if fits else allowed_keys(regions, self.window_size, size, local.device)
        x = by_region(regional, local, self.window_size)
        for number, block in enumerate(self.block[1:]):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x, len(regional), allowed, use_reentrant=False)
            else:
                x = block(x, len(regional), allowed)
            if self.peg is not None and number == 0:
                regional, local = as_maps(x, regions, self.window_size, size)
                x = by_region(regional + self.peg(regional), local + self.peg(local), self.window_size)
        return as_maps(x, regions, self.window_size, size)


def by_region(regional: Tensor, local: Tensor, window_size: int) -> Tensor:
    """Maps (B, C, h, w) and (B, C, H, W) to (B R, 1 + window^2, C), local tokens padded with zeros below and right."""
    B, C, h, w = regional.shape
    local = F.pad(local, (0, w * window_size - local.shape[3], 0, h * window_size - local.shape[2]))
    local = local.view(B, C, h, window_size, w, window_size).permute(0, 2, 4, 3, 5, 1)
    regional = regional.permute(0, 2, 3, 1).reshape(B * h * w, 1, C)
    return torch.cat((regional, local.reshape(B * h * w, -1, C)), dim=1)


def as_maps(x: Tensor, regions: tuple[int, int], window_size: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`by_region` for h x w ``regions`` and H x W = ``size`` local tokens."""
    x = x.unflatten(0, (-1, *regions))  # B, h, w, 1 + window^2, C
    regional = x[:, :, :, 0].permute(0, 3, 1, 2)
    local = x[:, :, :, 1:].unflatten(3, (window_size, window_size)).permute(0, 5, 1, 3, 2, 4)
    return regional, local.flatten(4, 5).flatten(2, 3)[:, :, : size[0], : size[1]]


class RegionViT(HasClassifier):
    """The hierarchy, and a classifier of the mean regional token.

    Args:
        img_size: height and width; of no effect, since images of any size may be given at any time.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for the regional tokens as they are.
        embed_dim: C of the first stage; it doubles from stage to stage.
        depths: blocks of each stage.
        head_dim: channels of a head.
        window_size: side of a region, in local tokens.
        mlp_ratio: hidden channels of MLPs over C.
        patch_size: pixels a side for a local token, the stride of the stem.
        stem: a name of :data:`STEMS`, or what makes another from image channels and C.
        peg: see :class:`Stage`.
        regional_attention: see :class:`Block`.
        position_bias: see :class:`Attention`.
        map_norms: whether each stage's map of local tokens is normed, also for the next stage, as in released
            detectors (``norm0``, ``norm1``, ...).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0.

    Raises:
        UserError: an unknown stem, or channels that are no multiple of a head's.
    """

    architecture = "RegionViT"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 2, 8, 2),
        head_dim: int = 32,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        patch_size: int = 4,
        stem: str | Callable[[int, int], nn.Module] = "3conv",
        peg: bool = False,
        regional_attention: bool = True,
        position_bias: bool = True,
        map_norms: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(stem, str) and stem not in STEMS:
            raise UserError(f"RegionViT has no stem {stem!r}.{nearest(stem, STEMS)} It has {', '.join(STEMS)}.")
        if embed_dim % head_dim:
            raise UserError(f"embed_dim is {embed_dim}; use a multiple of a head's {head_dim} channels.")
        dims = [embed_dim * 2**stage for stage in range(len(depths))]
        self.img_size = to_2tuple(img_size)
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = dims[-1]
        self.feature_info = [
            {"module": f"layers.{stage}", "num_chs": dim, "reduction": patch_size * 2**stage}
            for stage, dim in enumerate(dims)
        ]

        self.patch_embed = PatchEmbed((STEMS[stem] if isinstance(stem, str) else stem)(in_chans, dims[0]))
        side = patch_size * window_size
        self.cls_token = PatchEmbed(nn.Conv2d(in_chans, dims[0], side, stride=side), side)
        rates_of_stages: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.layers = nn.ModuleList()
        for stage, (dim, rates) in enumerate(zip(dims, rates_of_stages, strict=True)):
            blocks = [
                Block(dim, dim // head_dim, window_size, mlp_ratio, rate, regional_attention, position_bias)
                for rate in rates
            ]
            halving = Downsample(dims[stage - 1], dim) if stage else nn.Identity()
            self.layers.append(Stage(blocks, window_size, halving, dim if peg else 0))
        self.map_norms = map_norms
        for stage, dim in enumerate(dims if map_norms else ()):
            self.add_module(f"norm{stage}", LayerNorm2d(dim, eps=1e-5))
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes > 0 else nn.Identity()
        for part in self.modules():
            if isinstance(part, nn.Linear):
                trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Any:
        """Layers for layer-wise learning rates."""
        blocks = r"^layers\.(\d+)" if coarse else [(r"^layers\.(\d+)\.block\.(\d+)", None), (r"^layers\.(\d+)", (99,))]
        return {"stem": r"^(?:patch_embed|cls_token)", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.modules():
            if isinstance(stage, Stage):
                stage.grad_checkpointing = enable

    def _stages(self, x: Tensor, stages: int) -> tuple[Tensor, list[Tensor]]:
        """Images to the last of ``stages``' map of regional tokens, and to each one's map of local tokens."""
        regional, local = self.cls_token(x), self.patch_embed(x)
        maps = []
        for number, stage in enumerate(self.layers[:stages]):
            regional, local = stage(regional, local)
            if self.map_norms:
                local = self.get_submodule(f"norm{number}")(local)
            maps.append(local)
        return regional, maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to the last stage's regional tokens (B, R, C)."""
        regional, _ = self._stages(x, len(self.layers))
        return self.norm(regional.flatten(2).transpose(1, 2))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Regional tokens (B, R, C) to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        x = self.head_drop(x.mean(dim=1) if self.global_pool else x)
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
        """Maps (B, C, H, W) of the local tokens of chosen stages, as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: stages; the last n for an int, all for None.
            norm: must be False: the final norm is of regional tokens.
            stop_early: whether to stop after the last chosen stage.
            output_fmt: NCHW.
            intermediates_only: whether the regional tokens of :meth:`forward_features` are left out.
        """
        if output_fmt != "NCHW" or norm:
            raise UserError("RegionViT gives maps of local tokens, as NCHW and without a norm.")
        take, last = feature_take_indices(len(self.layers), indices)
        regional, maps = self._stages(x, last + 1 if stop_early and intermediates_only else len(self.layers))
        chosen = [maps[index] for index in take]
        return chosen if intermediates_only else (self.norm(regional.flatten(2).transpose(1, 2)), chosen)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released tensors to ours: norms of maps as vectors, and the halving of both maps once; names of ours stay.

    A classifier's file has no norms behind the stages, with which a detector begins: they stay as they are.

    Raises:
        UserError: a file has two different ones for regional and for local tokens, which the release shares.
    """
    own = model.state_dict()
    ours: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        shared = name.replace(".proj_cls.", ".proj.")
        if name in own and own[name].ndim == 1 and value.ndim == 4 and value.numel() == value.shape[1]:
            value = value.flatten()
        elif shared != name and shared in own:
            halving = state_dict.get(shared, value)
            if value is halving or value.flatten().equal(halving.flatten()):
                continue
            raise UserError(f"{name} and {shared} differ; RegionViT halves regional and local tokens alike.")
        ours[name] = value
    norms = [name for name in own if re.match(r"norm\d+\.", name)]
    if not any(name in ours for name in norms):
        ours.update({name: own[name] for name in norms})
    return ours


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our tensors to released ones; the inverse of :func:`checkpoint_filter_fn`."""
    norms = {name for name, part in model.named_modules() if isinstance(part, LayerNorm2d)}
    released = {}
    for name, value in state_dict.items():
        if name.rpartition(".")[0] in norms:
            value = value[None, :, None, None]
        released[name] = value
        if ".block.0.proj." in name:
            released[name.replace(".proj.", ".proj_cls.")] = value
    return released


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: as released, without the size of images.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`RegionViT`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no RegionViT called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    settings = {**VARIANTS[name], **kwargs}
    first = "patch_embed.proj" if settings.get("stem") == "1conv" else "patch_embed.proj.0"
    cfg = settings.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": False,
        "pool_size": None, "crop_pct": 0.875, "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD, "first_conv": (first, "cls_token.proj"), "classifier": "head",
    }  # fmt: skip
    features = {"out_indices": settings.pop("out_indices", (0, 1, 2, 3)), "feature_cls": "getter"}
    return build_model_with_cfg(RegionViT, name, False, pretrained_cfg=cfg, feature_cfg=features, **settings)
