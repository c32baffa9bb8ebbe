"""CMT: a pyramid whose blocks are a depth-wise convolution, attention to few keys, and an MLP with one in its middle.

Guo et al., "CMT: Convolutional Neural Networks Meet Vision Transformers", CVPR 2022, arXiv 2107.06263. A block sees
neighbours by convolutions (the local perception unit, and the depth-wise convolution of the inverted residual MLP) and
everything by lightweight attention, whose keys and values are of a map that is reduced by a strided depth-wise
convolution. Every query has its own learned score for every key.

Shapes: B images, C channels of H x W positions, N = H W queries, M = H W / r^2 keys for a reduction r.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerNorm2d, Mlp, calculate_drop_path_rates, to_2tuple, trunc_normal_
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_function, register_notrace_module
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from common.classifier import HasClassifier
from common.errors import UserError, nearest

#: One row a variant, with the size of images that it is trained on, to which its scores by position are tied.
VARIANTS: dict[str, dict[str, Any]] = {
    "cmt_ti": {"img_size": 160},
    "cmt_xs": {"img_size": 192, "dims": (52, 104, 208, 416), "depths": (3, 3, 12, 3), "mlp_ratio": 3.77},
    "cmt_s": {
        "img_size": 224,
        "dims": (64, 128, 256, 512),
        "depths": (3, 3, 16, 3),
        "mlp_ratio": 4.0,
        "stem_channels": 32,
    },
    "cmt_b": {
        "img_size": 256,
        "dims": (76, 152, 304, 608),
        "depths": (4, 4, 20, 4),
        "mlp_ratio": 4.0,
        "stem_channels": 38,
        "drop_rate": 0.3,
    },
}


class LightweightAttention(nn.Module):
    """Self-attention of a map with fewer keys than queries: (B, C, H, W) to the same.

    Args:
        dim: C.
        num_heads: heads.
        reduction: r; keys and values are of a map that a depth-wise convolution of r x r positions gives. 1 for all.
    """

    def __init__(self, dim: int, num_heads: int, reduction: int = 1) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.reduce: nn.Module = nn.Identity()
        if reduction > 1:
            convolution = nn.Conv2d(dim, dim, reduction, stride=reduction, groups=dim)
            self.reduce = nn.Sequential(convolution, nn.BatchNorm2d(dim))

    def forward(self, x: Tensor, position_bias: Tensor) -> Tensor:
        """Mix the positions of ``x``; ``position_bias`` (heads, N, M) is added to the scores."""
        B, C, H, W = x.shape
        q = self.q(x.flatten(2).transpose(1, 2)).view(B, H * W, self.num_heads, self.head_dim).transpose(1, 2)
        kv = self.kv(self.reduce(x).flatten(2).transpose(1, 2))
        k, v = kv.view(B, -1, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=position_bias.to(q.dtype))
        return self.proj(x.transpose(1, 2).reshape(B, H * W, C)).transpose(1, 2).reshape(B, C, H, W)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, (B, C, H, W) to (B, out, H, W), as a product of matrices: faster with channels last."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Project every position of ``x``."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class InvertedResidualMlp(nn.Module):
    """An MLP of every position with a residual depth-wise 3x3 convolution in its middle: (B, C, H, W) to the same.

    Activations come before batch norms.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(Pointwise(dim, hidden), nn.GELU(), nn.BatchNorm2d(hidden))
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.mix = nn.Sequential(nn.GELU(), nn.BatchNorm2d(hidden))
        self.project = nn.Sequential(Pointwise(hidden, dim), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Transform features ``x``."""
        x = self.expand(x)
        return self.project(self.mix(x + self.depthwise(x)))


class Block(nn.Module):
    """Local perception, lightweight attention and the MLP, all residual: (B, C, H, W) to the same.

    Args:
        dim: C.
        num_heads: heads.
        reduction: of the keys, see :class:`LightweightAttention`.
        mlp_ratio: hidden channels of the MLP over C.
        drop_path: stochastic depth of attention and MLP.
        local_perception: whether the depth-wise 3x3 convolution before attention is there.
        inverted_residual: whether the MLP has a convolution in its middle, or is a plain one.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        reduction: int = 1,
        mlp_ratio: float = 3.6,
        drop_path: float = 0.0,
        local_perception: bool = True,
        inverted_residual: bool = True,
    ) -> None:
        super().__init__()
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if local_perception else None
        self.norm1 = LayerNorm2d(dim, eps=1e-6)
        self.attn = LightweightAttention(dim, num_heads, reduction)
        self.norm2 = LayerNorm2d(dim, eps=1e-6)
        hidden = int(dim * mlp_ratio)
        self.mlp = InvertedResidualMlp(dim, hidden) if inverted_residual else Mlp(dim, hidden, use_conv=True)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, position_bias: Tensor) -> Tensor:
        """Transform features ``x``; ``position_bias`` is that of :class:`LightweightAttention`."""
        if self.local is not None:
            x = x + self.local(x)
        x = x + self.drop_path(self.attn(self.norm1(x), position_bias))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """A projection of patches, normed: (B, C, H, W) to (B, out, H / patch, W / patch)."""

    def __init__(self, dim: int, out: int, patch_size: int = 2) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, out, patch_size, stride=patch_size)
        self.norm = LayerNorm2d(out, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Embed the patches of ``x``."""
        return self.norm(self.proj(x))


@register_notrace_module
class Stage(nn.Module):
    """Blocks of one resolution, which share their scores by position.

    Args:
        patch_embed: what brings features to this resolution.
        blocks: of one width and reduction.
        grid: H and W of the features.
        dynamic: whether features of other sizes are taken, for which the scores are interpolated.

    Attributes:
        position_bias: scores (heads, N, M).
    """

    def __init__(
        self, patch_embed: nn.Module, blocks: Sequence[Block], grid: tuple[int, int], reduction: int, dynamic: bool
    ) -> None:
        super().__init__()
        self.patch_embed, self.blocks = patch_embed, nn.ModuleList(blocks)
        self.grid, self.reduction, self.dynamic = grid, reduction, dynamic
        self.key_grid = (grid[0] // reduction, grid[1] // reduction)
        queries, keys = grid[0] * grid[1], self.key_grid[0] * self.key_grid[1]
        self.position_bias = nn.Parameter(torch.randn(blocks[0].attn.num_heads, queries, keys))
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) of the stage before to those of this one."""
        x = self.patch_embed(x)
        size = (x.shape[2], x.shape[3])
        bias: Tensor = self.position_bias
        if self.dynamic and size != self.grid:
            bias = resized_bias(bias, self.grid, size, self.reduction)
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x, bias, use_reentrant=False)
            else:
                x = block(x, bias)
        return x


def resized_bias(bias: Tensor, old: tuple[int, int], new: tuple[int, int], reduction: int) -> Tensor:
    """Scores (heads, N, M) of a map of ``old`` positions as those of one of ``new``: queries, then keys, bilinearly."""
    heads = bias.shape[0]
    bias = bias.view(heads, old[0], old[1], -1).permute(0, 3, 1, 2)
    bias = F.interpolate(bias, size=new, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    bias = bias.unflatten(2, (old[0] // reduction, old[1] // reduction))
    keys = (new[0] // reduction, new[1] // reduction)
    return F.interpolate(bias, size=keys, mode="bilinear", align_corners=False).flatten(2)


@register_notrace_function
def check_size(height: int, width: int, multiple: int) -> None:
    """Refuse images whose sides are no multiples of ``multiple``."""
    if height % multiple or width % multiple or not height or not width:
        raise UserError(
            f"Images are {height}x{width} pixels; CMT takes sides that are multiples of {multiple}, so that every "
            "stage's map divides into patches and keys."
        )


@register_notrace_function
def check_fixed_size(height: int, width: int, fixed: tuple[int, int]) -> None:
    """Refuse images of another size than the scores by position are for."""
    if (height, width) != fixed:
        raise UserError(
            f"Images are {height}x{width} pixels; CMT has a score for every pair of positions of "
            f"{fixed[0]}x{fixed[1]}. Build it with this img_size, or with dynamic_img_size=True, which interpolates "
            "the scores."
        )


class CMT(HasClassifier):
    """The hierarchy: a stem of three 3x3 convolutions, stages at strides 4 to 32, a wide last layer, and a classifier.

    Args:
        img_size: height and width in pixels that scores by position are for.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for the last layer's map as it is.
        dims: C of each stage.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        reductions: r of each stage's attention.
        mlp_ratio: see :class:`Block`.
        stem_channels: channels of the stem.
        head_channels: channels of the last layer.
        patch_sizes: by how much each stage halves the map before it (the stem halves images).
        local_perception: see :class:`Block`.
        inverted_residual: see :class:`Block`.
        dynamic_img_size: whether images of other sizes are taken, for which scores are interpolated in every pass.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0.
        initialise: whether weights start as released (convolutions by their fan-out, linear layers 0.02 large), or as
            PyTorch's do, right for narrow models.

    Raises:
        UserError: a size of images that stages or reductions do not divide.
    """

    architecture = "CMT"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (46, 92, 184, 368),
        depths: Sequence[int] = (2, 2, 10, 2),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        mlp_ratio: float = 3.6,
        stem_channels: int = 16,
        head_channels: int = 1280,
        patch_sizes: Sequence[int] = (2, 2, 2, 2),
        local_perception: bool = True,
        inverted_residual: bool = True,
        dynamic_img_size: bool = False,
        drop_rate: float = 0.1,
        drop_path_rate: float = 0.0,
        initialise: bool = True,
    ) -> None:
        super().__init__()
        self.img_size, self.dynamic_img_size = to_2tuple(img_size), dynamic_img_size
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = head_channels
        strides = [2 * patch_sizes[0]]
        for patch_size in patch_sizes[1:]:
            strides.append(strides[-1] * patch_size)
        #: Sides of images are multiples of it.
        self.multiple = max(stride * reduction for stride, reduction in zip(strides, reductions, strict=True))
        check_size(*self.img_size, self.multiple)
        self.feature_info = [
            {"module": f"stages.{stage}", "num_chs": dim, "reduction": stride}
            for stage, (dim, stride) in enumerate(zip(dims, strides, strict=True))
        ]

        layers: list[nn.Module] = []
        for before, stride in ((in_chans, 2), (stem_channels, 1), (stem_channels, 1)):
            convolution = nn.Conv2d(before, stem_channels, 3, stride=stride, padding=1)
            layers += [convolution, nn.GELU(), nn.BatchNorm2d(stem_channels)]
        self.stem = nn.Sequential(*layers)
        rates_of_stages: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.ModuleList()
        before = stem_channels
        for stage, (dim, rates) in enumerate(zip(dims, rates_of_stages, strict=True)):
            heads, reduction = num_heads[stage], reductions[stage]
            blocks = [
                Block(dim, heads, reduction, mlp_ratio, rate, local_perception, inverted_residual) for rate in rates
            ]
            grid = (self.img_size[0] // strides[stage], self.img_size[1] // strides[stage])
            embed = PatchEmbed(before, dim, patch_sizes[stage])
            self.stages.append(Stage(embed, blocks, grid, reduction, dynamic_img_size))
            before = dim
        self.final: nn.Module = nn.Sequential(
            Pointwise(dims[-1], head_channels), nn.BatchNorm2d(head_channels), nn.SiLU()
        )
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(head_channels, num_classes) if num_classes > 0 else nn.Identity()
        if initialise:
            self.apply(_start_as_released)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Any:
        """Layers for layer-wise learning rates."""
        blocks = [
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.(?:patch_embed|position_bias)", (0,)),
            (r"^final", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        stages: Any = self.stages
        for stage in stages:
            stage.grad_checkpointing = enable

    def _embed(self, x: Tensor) -> Tensor:
        """Images to the stem's features; images of a wrong size are refused."""
        if not torch.jit.is_scripting():
            if self.dynamic_img_size:
                check_size(x.shape[2], x.shape[3], self.multiple)
            else:
                check_fixed_size(x.shape[2], x.shape[3], self.img_size)
        return self.stem(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to the last layer's features (B, head_channels, H, W)."""
        x = self._embed(x)
        for stage in self.stages:
            x = stage(x)
        return self.final(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C, H, W) to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        if self.global_pool:
            x = self.head_drop(x.mean(dim=(2, 3)))
            return x if pre_logits else self.head(x)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

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
        """Features (B, C, H, W) of chosen stages, as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: stages; the last n for an int, all for None.
            norm: of no effect, since no norm follows the last stage.
            stop_early: whether to stop after the last chosen stage.
            output_fmt: NCHW.
            intermediates_only: whether the features of :meth:`forward_features` are left out.
        """
        if output_fmt != "NCHW":
            raise UserError(f"CMT gives features as NCHW, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.stages), indices)
        x = self._embed(x)
        features = []
        for index, stage in enumerate(self.stages):
            if stop_early and index > last:
                break
            x = stage(x)
            if index in take:
                features.append(x)
        return features if intermediates_only else (self.final(x), features)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Leave out what comes after the last of the chosen stages; returns their indices."""
        take, last = feature_take_indices(len(self.stages), indices)
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.final = nn.Identity()
            self.reset_classifier(0)
        return take


def _start_as_released(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        assert module.bias is not None
        nn.init.zeros_(module.bias)


#: Parts of released names and what they are here.
_NAMES = (
    *((f"stem_conv{n + 1}.", f"stem.{3 * n}.") for n in range(3)),
    *((f"stem_norm{n + 1}.", f"stem.{3 * n + 2}.") for n in range(3)),
    *((f"patch_embed_{letter}.", f"stages.{n}.patch_embed.") for n, letter in enumerate("abcd")),
    *((f"relative_pos_{letter}", f"stages.{n}.position_bias") for n, letter in enumerate("abcd")),
    *((f"blocks_{letter}.", f"stages.{n}.blocks.") for n, letter in enumerate("abcd")),
    (".attn.sr.", ".attn.reduce."),
    (".mlp.conv1.", ".mlp.expand."),
    (".mlp.proj.", ".mlp.depthwise."),
    (".mlp.proj_bn.", ".mlp.mix.1."),
    (".mlp.conv2.", ".mlp.project."),
    ("_fc.", "final.0."),
    ("_bn.", "final.1."),
)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released tensors to ours: keys' and values' projections become one; names of ours stay."""
    ours = {}
    for name, value in state_dict.items():
        for released, own in _NAMES:
            name = name.replace(released, own)
        ours[re.sub(r"(blocks\.\d+)\.proj\.", r"\1.local.", name)] = value
    for keys in [name for name in ours if ".attn.k." in name]:
        values = keys.replace(".k.", ".v.")
        if values in ours and ours[values].shape == ours[keys].shape:
            ours[keys.replace(".k.", ".kv.")] = torch.cat((ours.pop(keys), ours.pop(values)))
    return ours


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our tensors to released ones; the inverse of :func:`checkpoint_filter_fn`."""
    released = {}
    for name, value in state_dict.items():
        name = name.replace(".local.", ".proj.")
        for theirs, own in _NAMES:
            name = name.replace(own, theirs)
        if ".attn.kv." in name:
            released[name.replace(".kv.", ".k.")], released[name.replace(".kv.", ".v.")] = value.chunk(2)
        else:
            released[name] = value
    return released


def resize_grid(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our tensors with scores by position in the size of the model's; files are of square images."""
    fitting = dict(state_dict)
    for number, stage in enumerate(getattr(model, "stages", ())):
        name = f"stages.{number}.position_bias"
        stored = fitting.get(name)
        if stored is None or stored.ndim != 3 or stored.shape == stage.position_bias.shape:
            continue
        side = round(stored.shape[1] ** 0.5)
        if stored.shape[1] == side**2 and stored.shape[2] == (side // stage.reduction) ** 2:
            fitting[name] = resized_bias(stored, (side, side), stage.grid, stage.reduction)
    return fitting


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: as released.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`CMT`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no CMT called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    size = VARIANTS[name]["img_size"]
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, size, size), "fixed_input_size": True,
        "pool_size": (size // 32, size // 32), "crop_pct": 0.875, "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "first_conv": "stem.0", "classifier": "head",
    }  # fmt: skip
    features = {"out_indices": kwargs.pop("out_indices", (0, 1, 2, 3)), "feature_cls": "getter"}
    return build_model_with_cfg(
        CMT, name, False, pretrained_cfg=cfg, feature_cfg=features, **{**VARIANTS[name], **kwargs}
    )
