"""Hire-MLP: an MLP whose layers see rearranged positions, first within regions of an axis, then across them.

Guo et al., "Hire-MLP: Vision MLP via Hierarchical Rearrangement", CVPR 2022, arXiv 2108.13341. A linear map of channels
sees other positions when they are laid beside the channels. Along each axis, neighbours form regions, whose positions
become channels of one place (inner-region rearrangement); a cyclic shift beforehand lets regions exchange what they
know (cross-region rearrangement). Both are permutations that are undone afterwards, so any size of image works.

Shapes: B images, C channels, H x W positions; a region has R positions of one axis.

Names of modules and parameters are those of the released checkpoints.
"""

# Without postponed annotations, which torch.fx would write as names that TorchScript does not know.
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, trunc_normal_
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_function
from timm.models._manipulate import checkpoint_seq
from torch import Tensor, nn

from common.classifier import HasClassifier
from common.errors import UserError, nearest

#: One row a variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "hire_mlp_tiny": {"depths": (2, 2, 4, 2), "dims": (64, 128, 320, 512)},
    "hire_mlp_small": {"depths": (3, 4, 10, 3), "dims": (64, 128, 320, 512)},
    "hire_mlp_base": {"depths": (4, 6, 24, 3), "dims": (64, 128, 320, 512)},
    "hire_mlp_large": {"depths": (4, 6, 24, 3), "dims": (96, 192, 384, 768)},
}


@register_notrace_function
def rearrange(x: Tensor, axis: int, region: int, shift: int) -> Tensor:
    """Shift an axis and lay the positions of each region beside the channels.

    Args:
        x: (B, C, H, W).
        axis: 2 for rows, 3 for columns.
        region: R; an axis that it does not divide is continued from its beginning.
        shift: positions that the axis is rolled by.

    Returns:
        (B, C R, H / R, W) for rows, (B, C R, H, W / R) for columns; channel c of the r-th position is channel c R + r.
    """
    if shift:
        x = x.roll(shift, axis)
    size = x.shape[axis]
    missing = -size % region
    if missing:
        x = torch.cat([x] * (1 + missing // size) + [x.narrow(axis, 0, missing % size)], dim=axis)
    return x.unflatten(axis, [-1, region]).movedim(axis + 1, 2).flatten(1, 2)


def restore(x: Tensor, axis: int, region: int, shift: int, size: int) -> Tensor:
    """Undo :func:`rearrange`: (B, C R, ...) to (B, C, H, W), with ``size`` positions along ``axis``."""
    x = x.unflatten(1, [-1, region]).movedim(2, axis + 1).flatten(axis, axis + 1).narrow(axis, 0, size)
    return x.roll(-shift, axis) if shift else x


class HireMLP(nn.Module):
    r"""Mixes positions along both axes, and channels: (B, C, H, W) -> (B, C, H, W).

    With MLPs f of rearranged rows and columns and a linear map of channels, weighted by channel as in ViP (Hou et al.,
    "Vision Permutator", 2021) with w a softmax over the three of what an MLP makes of their mean,

    .. math:: w_h \odot f_h(x) + w_w \odot f_w(x) + w_c \odot f_c(x).

    Args:
        dim: C.
        region: R.
        shift: positions that axes are rolled by; 0 for regions that exchange nothing.
    """

    def __init__(self, dim: int, region: int, shift: int = 0) -> None:
        super().__init__()
        self.region, self.shift = region, shift
        hidden = dim // 2
        self.mlp_h1 = nn.Conv2d(dim * region, hidden, 1, bias=False)
        self.mlp_h1_norm = nn.BatchNorm2d(hidden)
        self.mlp_h2 = nn.Conv2d(hidden, dim * region, 1)
        self.mlp_w1 = nn.Conv2d(dim * region, hidden, 1, bias=False)
        self.mlp_w1_norm = nn.BatchNorm2d(hidden)
        self.mlp_w2 = nn.Conv2d(hidden, dim * region, 1)
        self.mlp_c = nn.Conv2d(dim, dim, 1)
        self.act = nn.ReLU()
        self.reweight = Mlp(dim, dim // 4, 3 * dim, use_conv=True)
        self.proj = nn.Conv2d(dim, dim, 1)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What mixes rows, columns and channels, each (B, C, H, W)."""
        rows = self.mlp_h1(rearrange(x, 2, self.region, self.shift))
        rows = self.mlp_h2(self.act(self.mlp_h1_norm(rows)))
        columns = self.mlp_w1(rearrange(x, 3, self.region, self.shift))
        columns = self.mlp_w2(self.act(self.mlp_w1_norm(columns)))
        rows = restore(rows, 2, self.region, self.shift, x.shape[2])
        return rows, restore(columns, 3, self.region, self.shift, x.shape[3]), self.mlp_c(x)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``x``."""
        rows, columns, channels = self.branches(x)
        mean = (rows + columns + channels).mean(dim=(2, 3), keepdim=True)
        # The three weights of a channel lie beside each other.
        weights = self.reweight(mean).unflatten(1, [-1, 3]).softmax(dim=2)
        return self.proj(rows * weights[:, :, 0] + columns * weights[:, :, 1] + channels * weights[:, :, 2])


class Block(nn.Module):
    """Mixes positions, then channels, each normalised and residual: (B, C, H, W) -> (B, C, H, W).

    Args:
        dim: C.
        region: R.
        shift: see :class:`HireMLP`.
        mlp_ratio: hidden channels of the MLP over C.
        drop_path: stochastic depth.
    """

    def __init__(self, dim: int, region: int, shift: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = HireMLP(dim, region, shift)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), use_conv=True)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform features ``x``."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Sequential):
    """Blocks of one resolution."""

    def __init__(self, *blocks: Block) -> None:
        super().__init__(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self, x)
        for block in self:
            x = block(x)
        return x


class Embedding(nn.Module):
    """A convolution with batch norm that gives a stage its resolution: (B, C, H, W) -> (B, dim, H', W')."""

    def __init__(self, in_chans: int, dim: int, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride, padding)
        self.norm = nn.BatchNorm2d(dim)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x``."""
        return self.act(self.norm(self.proj(x)))


def overlapping_patches(in_chans: int, dim: int) -> nn.Module:
    """The stem: patches of 7 pixels, 4 apart."""
    return Embedding(in_chans, dim, kernel_size=7, stride=4, padding=2)


class HireMLPNet(HasClassifier):
    """Hire-MLP: stages of :class:`Block` at strides 4, 8, 16 and 32.

    Block k of a stage shifts by ``(k mod shift_period) * shift_step`` positions, so the first one of each exchanges
    nothing across regions.

    Args:
        in_chans: image channels.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: ``avg``, or empty for features as they are.
        depths: blocks of each stage.
        dims: C of each stage.
        regions: R of each stage.
        shift_periods: see above, for each stage.
        shift_steps: see above, for each stage.
        mlp_ratio: see :class:`Block`.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0.
        stem: makes the first stage's features, at ``stem_stride``, from ``(in_chans, dim)``.
        stem_stride: pixels between positions of the first stage.
        map_norms: whether the features of each stage, as a pyramid, have a batch norm, as released for UPerNet.
    """

    architecture = "Hire-MLP"

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (2, 2, 4, 2),
        dims: Sequence[int] = (64, 128, 320, 512),
        regions: Sequence[int] = (4, 3, 3, 2),
        shift_periods: Sequence[int] = (2, 2, 3, 2),
        shift_steps: Sequence[int] = (2, 2, 1, 1),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        stem: Callable[[int, int], nn.Module] = overlapping_patches,
        stem_stride: int = 4,
        map_norms: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.global_pool = num_classes, in_chans, global_pool
        self.num_features = self.head_hidden_size = dims[-1]
        self.feature_info = [
            {"module": f"network.{2 * stage}", "num_chs": dim, "reduction": stem_stride * 2**stage}
            for stage, dim in enumerate(dims)
        ]
        self.patch_embed = stem(in_chans, dims[0])
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.network = nn.ModuleList()
        for stage, dim in enumerate(dims):
            if stage:
                self.network.append(Embedding(dims[stage - 1], dim, kernel_size=3, stride=2, padding=1))
            shifts = [k % shift_periods[stage] * shift_steps[stage] for k in range(depths[stage])]
            blocks = (
                Block(dim, regions[stage], shift, mlp_ratio, rate)
                for shift, rate in zip(shifts, rates[stage], strict=True)
            )
            self.network.append(Stage(*blocks))
        self.map_norms = nn.ModuleList(nn.BatchNorm2d(dim) for dim in dims) if map_norms else None
        self.norm = nn.BatchNorm2d(dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes > 0 else nn.Identity()
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed, beyond vectors, which timm never decays: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise learning rates: stages where ``coarse``, else blocks."""
        blocks: Any = r"^network\.(\d+)" if coarse else [(r"^network\.(\d+)\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^patch_embed", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for part in self.network:
            if isinstance(part, Stage):
                part.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to normalised features (B, C, H, W)."""
        x = self.patch_embed(x)
        for part in self.network:
            x = part(x)
        return self.norm(x)

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
        """Features (B, C, H, W) of chosen stages, as timm's models return them.

        Args:
            x: images (B, in_chans, height, width).
            indices: stages; the last n for an int, all for None.
            norm: whether the final norm is applied to the last stage's.
            stop_early: whether to stop after the last chosen stage.
            output_fmt: NCHW.
            intermediates_only: whether the final features are left out.
        """
        if output_fmt != "NCHW":
            raise UserError(f"Hire-MLP gives features as NCHW, not as {output_fmt}.")
        take, last = feature_take_indices(len(self.feature_info), indices)
        x, features = self.patch_embed(x), []
        for index, part in enumerate(self.network):
            if stop_early and index > 2 * last:
                break
            x = part(x)
            stage = index // 2
            if index % 2 == 0 and stage in take:
                normed = norm and stage == len(self.feature_info) - 1
                x_of_stage = self.map_norms[stage](x) if self.map_norms is not None else x
                features.append(self.norm(x) if normed else x_of_stage)
        return features if intermediates_only else (self.norm(x), features)


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: as released.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`HireMLPNet`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no Hire-MLP called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": False,
        "pool_size": (7, 7), "crop_pct": 0.875, "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD, "first_conv": "patch_embed.proj", "classifier": "head",
    }  # fmt: skip
    features = {"out_indices": kwargs.pop("out_indices", (0, 1, 2, 3)), "feature_cls": "getter"}
    return build_model_with_cfg(
        HireMLPNet, name, False, pretrained_cfg=cfg, feature_cfg=features, **{**VARIANTS[name], **kwargs}
    )
