"""PosMLP: a gMLP whose gates mix tokens by relative positions, with a few numbers in place of a matrix of tokens.

Wang et al., "Parameterization of Cross-token Relations with Relative Positional Encoding for Vision MLP", ACM
Multimedia 2022, arXiv 2207.07284. A gMLP (Liu et al., "Pay Attention to MLPs", NeurIPS 2021) multiplies one half of its
channels by the other after a learned N x N matrix has mixed its tokens. PosMLP derives that matrix from where tokens
are, one for each group of channels: from a table over relative positions (LRPE), or from a quadratic form of them with
a centre and a spread (GQPE). What is learned grows with N, or not at all, where the matrix grows with N^2.

Shapes: B images, T windows, N tokens of a window, C channels, G groups of channels. A relative position is that of a
source token as its target sees it, counted to the right and upwards.

Names of modules and parameters are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, calculate_drop_path_rates, to_2tuple, trunc_normal_
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_function
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from common.classifier import HasClassifier
from common.errors import UserError, nearest

LayerNorm = partial(nn.LayerNorm, eps=1e-6)

#: One row a variant. Of B no configuration was released: its widths go on from T and S to the printed size.
VARIANTS: dict[str, dict[str, Any]] = {
    "posmlp_t": {},
    "posmlp_s": {"dims": (128, 256, 512, 1024)},
    "posmlp_b": {"dims": (192, 384, 768, 1536)},
    "posmlp_3t14": {"dims": (96, 192, 384), "depths": (2, 2, 20)},
    "posmlp_t_lrpe": {"encoding": "learned"},
    "posmlp_t_lrpe_weight": {"encoding": "learned", "token_weights": True},
}
#: timm's gMLP-S with gates of this paper, which the abstract compares it with, and what it is made of.
GMLP, GMLP_HOST, GMLP_GROUPS = "gmlp_s16_posgu_224", "gmlp_s16_224", 8


def relative_positions(window: int) -> tuple[Tensor, Tensor]:
    """How far each token of a window is to the right of each other one, and above it: two tensors (target, source)."""
    row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    row, column = row.flatten(), column.flatten()
    return column[None] - column[:, None], row[:, None] - row[None]


class QuadraticEncoding(nn.Module):
    r"""GQPE: a target looks at sources around a learned centre, as wide as a learned spread, group by group.

    With the relative position r of the source, a centre :math:`\delta` and a spread S, weights are

    .. math:: \mathrm{softmax}_\text{source}\bigl(-\tfrac12 (r - \delta)^\top S S^\top (r - \delta)\bigr).

    Args:
        window: tokens on a side.
        groups: G.
    """

    derived = ("rel_indices",)

    def __init__(self, window: int, groups: int) -> None:
        super().__init__()
        self.window = window
        self.attention_centers = nn.Parameter(0.01 * torch.randn(groups, 2))
        self.attention_spreads = nn.Parameter(torch.eye(2) + 0.01 * torch.randn(groups, 2, 2))
        self.token_proj_n_bias = nn.Parameter(torch.zeros(1, window**2, 1))
        self.register_buffer("rel_indices", torch.empty(window**2, window**2, 5))
        self.rel_indices: Tensor
        self.recompute_derived()

    def recompute_derived(self) -> None:
        """Set the monomials of relative positions that the quadratic form has."""
        x, y = relative_positions(self.window)
        self.rel_indices.copy_(torch.stack((x, y, x * x, y * y, x * y), dim=-1))

    def forward(self) -> Tensor:
        """Weights (G, target, source)."""
        form = self.attention_spreads @ self.attention_spreads.mT
        linear = (form @ self.attention_centers[:, :, None])[:, :, 0]
        squares = -0.5 * form.diagonal(dim1=1, dim2=2)
        # What the centre adds to all sources alike is nothing to a softmax.
        coefficients = torch.cat((linear, squares, -form[:, :1, 1]), dim=1)
        return torch.einsum("mnd,gd->gmn", self.rel_indices, coefficients).softmax(dim=-1)


class LearnedEncoding(nn.Module):
    """LRPE: a learned weight for every relative position, group by group.

    Args:
        window: tokens on a side.
        groups: G.
    """

    derived = ("window_relative_position_index",)

    def __init__(self, window: int, groups: int) -> None:
        super().__init__()
        self.window = window
        self.window_relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, groups))
        self.token_proj_n_bias = nn.Parameter(torch.zeros(1, window**2, 1))
        self.register_buffer("window_relative_position_index", torch.empty(window**2, window**2, dtype=torch.long))
        self.window_relative_position_index: Tensor
        self.recompute_derived()

    def recompute_derived(self) -> None:
        """Set the row of the table for each pair of tokens: from the lower right to the upper left."""
        x, y = relative_positions(self.window)
        self.window_relative_position_index.copy_((y + self.window - 1) * (2 * self.window - 1) + self.window - 1 - x)

    def forward(self) -> Tensor:
        """Weights (G, target, source)."""
        return self.window_relative_position_bias_table.mT[:, self.window_relative_position_index]


class NoEncoding(nn.Module):
    """gMLP's token mixing: a learned matrix for all channels, which starts as none, with a bias that starts at one.

    Args:
        window: tokens on a side.
        groups: of no effect; there is one.
    """

    def __init__(self, window: int, groups: int) -> None:
        super().__init__()
        self.token_proj_n_weight = nn.Parameter(1e-6 * torch.randn(1, window**2, window**2))
        self.token_proj_n_bias = nn.Parameter(torch.ones(1, window**2, 1))

    def forward(self) -> Tensor:
        """Weights (1, target, source)."""
        return self.token_proj_n_weight


#: What makes the weights of token mixing from a window and a number of groups.
ENCODINGS: dict[str, Callable[[int, int], nn.Module]] = {
    "quadratic": QuadraticEncoding,
    "learned": LearnedEncoding,
    "none": NoEncoding,
}


class PosGU(nn.Module):
    """PoSGU: the first half of the channels, mixed over tokens, times the second: (..., N, 2 C) -> (..., N, C).

    Args:
        window: tokens on a side, N = window^2.
        groups: G; channels c, c + G, c + 2 G, ... have weights in common.
        encoding: one of :data:`ENCODINGS`.
        token_weights: whether a learned matrix of tokens is added to the weights of all groups.
    """

    def __init__(self, window: int, groups: int, encoding: str = "quadratic", token_weights: bool = False) -> None:
        super().__init__()
        self.pos: Any = ENCODINGS[encoding](window, groups)
        self.token_proj_n_weight = None
        if token_weights:
            self.token_proj_n_weight = nn.Parameter(trunc_normal_(torch.empty(1, window**2, window**2), std=1e-6))

    def weights(self) -> Tensor:
        """Weights of token mixing (G, target, source)."""
        weights: Tensor = self.pos()
        return weights if self.token_proj_n_weight is None else weights + self.token_proj_n_weight

    def forward(self, x: Tensor) -> Tensor:
        """Mix and gate ``x``."""
        mixed, gate = x.chunk(2, dim=-1)
        weights = self.weights()
        grouped = mixed.unflatten(-1, (-1, weights.shape[0]))
        mixed = torch.einsum("gmn,...ncg->...mcg", weights, grouped).flatten(-2)
        return (mixed + self.pos.token_proj_n_bias) * gate


class PosMLPLayer(nn.Module):
    """A gMLP block with a :class:`PosGU`: (B, T, N, C) -> (B, T, N, C).

    Args:
        dim: C.
        window: tokens on a side of a window.
        groups: see :class:`PosGU`.
        mlp_ratio: channels before the gate, which halves them, over C.
        encoding, token_weights: see :class:`PosGU`.
        drop: dropout of the output.
        drop_path: stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        window: int,
        groups: int,
        mlp_ratio: float,
        encoding: str,
        token_weights: bool,
        drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm = LayerNorm(dim)
        self.proj_c_e = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.gate_unit = PosGU(window, groups, encoding, token_weights)
        self.proj_c_s = nn.Linear(hidden // 2, dim)
        self.drop = nn.Dropout(drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens."""
        gated = self.gate_unit(self.act(self.proj_c_e(self.norm(x))))
        return x + self.drop_path(self.drop(self.proj_c_s(gated)))


class Downsample(nn.Module):
    """Half the resolution: (B, C, H, W) -> (B, out, H / 2, W / 2), each output seeing one input channel."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out, 3, stride=2, padding=1, groups=dim)
        self.norm = LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of ``x``."""
        return self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@register_notrace_function
def check_windows(height: int, width: int, side: int) -> None:
    """Refuse a map that cannot be cut into whole windows."""
    if height % side or width % side:
        raise UserError(
            f"A map of {height}x{width} positions cannot be cut into windows of {side}x{side}; give images whose sides "
            "are multiples of the model's img_size, or build it with other windows."
        )


class Level(nn.Module):
    """Blocks of one resolution, over windows that do not overlap: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, pool: nn.Module, window: int, blocks: Sequence[PosMLPLayer]) -> None:
        super().__init__()
        self.pool, self.window = pool, window
        self.encoder = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks.

        Raises:
            UserError: windows do not fit into the map.
        """
        x = self.pool(x)
        _, _, height, width = x.shape
        side = self.window
        check_windows(height, width, side)
        x = x.unflatten(2, (-1, side)).unflatten(4, (-1, side))  # (B, C, H / side, side, W / side, side)
        x = x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)
        x = checkpoint_seq(self.encoder, x) if self.grad_checkpointing else self.encoder(x)
        x = x.unflatten(2, (side, side)).unflatten(1, (height // side, -1))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class Stem(nn.Module):
    """Three convolutions with batch norms: images (B, in_chans, height, width) to (B, C, height / 4, width / 4)."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.projs = nn.Sequential(
            nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
            nn.Conv2d(dim, dim, 1),
        )
        self.norms = nn.Sequential(*(nn.BatchNorm2d(width, eps=1e-6) for width in (dim // 2, dim, dim)))
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        for step, (proj, norm) in enumerate(zip(self.projs, self.norms, strict=True)):
            x = norm(proj(self.act(x) if step else x))
        return x


class PosMLP(HasClassifier):
    """PosMLP: levels of :class:`PosMLPLayer` at strides 4, 8, 16 and 32.

    Args:
        img_size: height and width in pixels; every level's windows must fit. Images of its multiples may be given.
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for features as they are.
        dims: C of each level.
        depths: blocks of each level.
        windows: tokens on a side of a window, of each level.
        groups: G of each level.
        mlp_ratios: see :class:`PosMLPLayer`, of each level.
        encoding: one of :data:`ENCODINGS`.
        token_weights: see :class:`PosGU`.
        drop_rate: dropout of each block's output and before the classifier.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0.
        stem: makes the first level's map, at ``stem_stride``, from ``(in_chans, dim)``.
        stem_stride: pixels between tokens of the first level.

    Raises:
        UserError: windows do not fit ``img_size``, or the encoding is unknown.
    """

    architecture = "PosMLP"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 18, 2),
        windows: Sequence[int] = (14, 14, 14, 7),
        groups: Sequence[int] = (8, 16, 32, 64),
        mlp_ratios: Sequence[float] = (4.0, 4.0, 4.0, 2.0),
        encoding: str = "quadratic",
        token_weights: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        stem: Callable[[int, int], nn.Module] = Stem,
        stem_stride: int = 4,
    ) -> None:
        super().__init__()
        if encoding not in ENCODINGS:
            raise UserError(f"There is no encoding {encoding!r}.{nearest(encoding, ENCODINGS)}")
        self.img_size = to_2tuple(img_size)
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = dims[-1]
        strides = [stem_stride * 2**level for level in range(len(dims))]
        for stride, window in zip(strides, windows, strict=False):
            if any(size % (stride * window) for size in self.img_size):
                raise UserError(
                    f"img_size is {self.img_size[0]}x{self.img_size[1]}; both must be multiples of {stride * window} "
                    f"pixels, the windows of {window} tokens at stride {stride}. Give windows= for another size."
                )
        self.feature_info = [
            {"module": f"levels.{level}", "num_chs": dim, "reduction": strides[level]} for level, dim in enumerate(dims)
        ]
        self.patch_embed = stem(in_chans, dims[0])
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.levels = nn.Sequential()
        for level, dim in enumerate(dims):
            blocks = [
                PosMLPLayer(
                    dim, windows[level], groups[level], mlp_ratios[level], encoding, token_weights, drop_rate, rate
                )
                for rate in rates[level]
            ]
            pool = Downsample(dims[level - 1], dim) if level else nn.Identity()
            self.levels.append(Level(pool, windows[level], blocks))
        self.norm = LayerNorm(dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes > 0 else nn.Identity()
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays: none, as released."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise learning rates: levels where ``coarse``, else blocks."""
        fine = [(r"^levels\.(\d+)\.pool", (0,)), (r"^levels\.(\d+)\.encoder\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^patch_embed", "blocks": r"^levels\.(\d+)" if coarse else fine}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for part in self.levels:
            if isinstance(part, Level):
                part.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to normalised features (B, C, H, W)."""
        return self._normalised(self.levels(self.patch_embed(x)))

    def _normalised(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C, H, W) to logits (B, num_classes), or to what the classifier gets when ``pre_logits``."""
        x = x.mean(dim=(2, 3)) if self.global_pool else x.permute(0, 2, 3, 1)
        x = self.head_drop(x)
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
        """Features (B, C, H, W) of chosen levels, as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: levels; the last n for an int, all for None.
            norm: whether the final norm is applied to the last level's.
            stop_early: whether to stop after the last chosen level.
            output_fmt: NCHW.
            intermediates_only: whether the final features are left out.
        """
        if output_fmt != "NCHW":
            raise UserError(f"PosMLP gives features as NCHW, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.levels), indices)
        x, features = self.patch_embed(x), []
        for index, level in enumerate(self.levels):
            if stop_early and index > last:
                break
            x = level(x)
            if index in take:
                features.append(self._normalised(x) if norm and index == len(self.levels) - 1 else x)
        return features if intermediates_only else (self._normalised(x), features)


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`, or :data:`GMLP`.

    Args:
        name: as released, in lower case.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`PosMLP`, and timm's ``features_only`` and ``out_indices``; of timm's gMLP for :data:`GMLP`.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in (*VARIANTS, GMLP):
        raise UserError(f"There is no PosMLP called {name!r}.{nearest(name, (*VARIANTS, GMLP))}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    if name == GMLP:
        return gmlp(**kwargs)
    settings = {**VARIANTS[name], **kwargs}
    levels = range(len(settings.get("dims", (0, 1, 2, 3))))
    side = 224 // (4 * 2 ** levels[-1])
    cfg = settings.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": True,
        "pool_size": (side, side), "crop_pct": 0.9, "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD, "first_conv": "patch_embed.projs.0", "classifier": "head",
    }  # fmt: skip
    features = {"out_indices": settings.pop("out_indices", tuple(levels)), "feature_cls": "getter"}
    return build_model_with_cfg(PosMLP, name, False, pretrained_cfg=cfg, feature_cfg=features, **settings)


def gmlp(**kwargs: Any) -> Any:
    """The gMLP-S of timm with a :class:`PosGU` (GQPE) for each gate; ``kwargs`` are those of timm's."""
    kwargs.pop("pretrained_cfg", None)
    model: Any = timm.create_model(GMLP_HOST, **kwargs)
    for block in model.blocks:
        tokens = len(block.mlp_channels.gate.proj.weight)
        block.mlp_channels.gate = PosGU(round(tokens**0.5), GMLP_GROUPS)
    return model
