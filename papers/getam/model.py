"""DPT with a classifier: the network that GETAM trains from image-level labels.

Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021 (DPT), as Sun et al., arXiv 2112.02841, use it:
four blocks of a vision transformer are reassembled to maps of strides 4, 8, 16 and 32 and fused from coarse to fine.
The coarsest map, averaged, gives the logits of classes; the finest, excited by squeeze and excitation, gives those of
pixels. Backbones are timm's.

Axes: B images, C channels, K classes, H x W pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import StdConv2dSame, pad_same, to_2tuple
from timm.models._features_fx import register_notrace_function
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import UserError, nearest

#: Channels of the fused maps.
FEATURES = 256

#: One row a variant: timm's backbone, and the blocks that are read; of the hybrid, stages of its ResNet come first.
VARIANTS: dict[str, dict[str, Any]] = {
    "getam_vit_hybrid": {"backbone": "vit_base_r50_s16_384", "blocks": (8, 11), "widths": (256, 512, 768, 768)},
    "getam_vit": {"backbone": "vit_base_patch16_384", "blocks": (2, 5, 8, 11), "widths": (96, 192, 384, 768)},
    "getam_deit": {"backbone": "deit_base_patch16_384", "blocks": (2, 5, 8, 11), "widths": (96, 192, 384, 768)},
    "getam_deit_distilled": {
        "backbone": "deit_base_distilled_patch16_384", "blocks": (2, 5, 8, 11), "widths": (96, 192, 384, 768),
    },
}  # fmt: skip


class StandardisedConv(StdConv2dSame):
    """A convolution with standardised weights as the release's timm had it: epsilon is added to the deviation."""

    @classmethod
    def convert(cls, module: nn.Module) -> None:
        """Let all standardised convolutions in ``module`` compute so."""
        for conv in module.modules():
            if isinstance(conv, StdConv2dSame):
                conv.__class__ = cls

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution."""
        if self.same_pad:
            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / (deviation + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Readout(nn.Module):
    """Tell every patch what the class token knows: tokens (B, N, C) to patches (B, C, rows, columns)."""

    def __init__(self, dim: int, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.project = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Join, project, and put on the grid."""
        patches = x[:, self.prefix :]
        joined = torch.cat([patches, x[:, :1].expand_as(patches)], dim=-1)
        return F.gelu(self.project(joined)).transpose(1, 2).unflatten(2, grid)


class Reassemble(nn.Module):
    """Patches of a block, at stride 16, as a map of ``width`` channels and another stride."""

    def __init__(self, dim: int, width: int, prefix: int, stride: int) -> None:
        super().__init__()
        self.readout = Readout(dim, prefix)
        self.project = nn.Conv2d(dim, width, 1)
        self.resample: nn.Module = nn.Identity()
        if stride < 16:
            self.resample = nn.ConvTranspose2d(width, width, 16 // stride, 16 // stride)
        elif stride > 16:
            self.resample = nn.Conv2d(width, width, 3, stride=stride // 16, padding=1)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Apply to tokens (B, N, C)."""
        return self.resample(self.project(self.readout(x, grid)))


class ResidualUnit(nn.Module):
    """Two convolutions behind ReLU, beside a shortcut: (B, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        inner = self.bn1(self.conv1(x.relu()))
        return x + self.bn2(self.conv2(inner.relu()))


class Fusion(nn.Module):
    """Add a finer map to what comes from the coarser ones, and double the size; the coarsest has nothing to add."""

    def __init__(self, width: int, *, coarsest: bool) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, FEATURES, 3, padding=1, bias=False)
        self.skip = None if coarsest else ResidualUnit(FEATURES)
        self.refine = ResidualUnit(FEATURES)
        self.out = nn.Conv2d(FEATURES, FEATURES, 1)

    def forward(self, x: Tensor, coarser: Tensor | None) -> Tensor:
        """Fuse ``x`` (B, width, H, W) with (B, 256, H, W) to (B, 256, 2H, 2W)."""
        x = self.reduce(x)
        if self.skip is not None:
            assert coarser is not None
            x = coarser + self.skip(x)
        x = F.interpolate(self.refine(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.out(x)


class Excitation(nn.Module):
    """Two convolutions whose channels are weighted by squeeze and excitation, beside a shortcut."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.weights = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (B, C, H, W)."""
        inner = self.body(x)
        return x + inner * self.weights(inner.mean(dim=(2, 3)))[:, :, None, None]


@register_notrace_function
def check_size(height: int, width: int) -> None:
    """Refuse images whose sides are no multiples of 32."""
    if height % 32 or width % 32:
        raise UserError(f"Images of {(height, width)} pixels: sides must be multiples of 32.")


@register_notrace_function
def resized_positions(positions: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
    """A position embedding (1, prefix + N, C), its square grid resized bilinearly to ``rows`` x ``columns``."""
    own = math.isqrt(positions.shape[1] - prefix)
    if (rows, columns) == (own, own):
        return positions
    of_grid = positions[:, prefix:].transpose(1, 2).unflatten(2, (own, own))
    of_grid = F.interpolate(of_grid, size=(rows, columns), mode="bilinear", align_corners=False)
    return torch.cat([positions[:, :prefix], of_grid.flatten(2).transpose(1, 2)], dim=1)


class DPT(nn.Module):
    """A classifier of images that can also label their pixels.

    Args:
        img_size: side of the squares that positions are kept for; images of other sizes and shapes do, too.

    Attributes:
        segmenting: whether training mode returns the logits of pixels beside those of classes.

    Raises:
        UserError: ``img_size`` is no square.
    """

    def __init__(
        self,
        backbone: str = "vit_base_patch16_384",
        blocks: tuple[int, ...] = (2, 5, 8, 11),
        widths: tuple[int, ...] = (96, 192, 384, 768),
        *,
        num_classes: int = 20,
        img_size: int | tuple[int, int] = 384,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        sides = set(to_2tuple(img_size))
        if len(sides) > 1:
            raise UserError(f"Positions are kept for squares, not for img_size={img_size}: give one side.")
        (img_size,) = sides
        vit: Any = timm.create_model(
            backbone, num_classes=0, img_size=img_size, in_chans=in_chans, drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )  # fmt: skip
        vit.norm = nn.Identity()  # blocks are read before it
        StandardisedConv.convert(vit)
        self.backbone: Any = vit
        self.num_classes, self.num_features, self.blocks = num_classes, widths[-1], blocks
        self.head_hidden_size = self.num_features
        dim, prefix = vit.embed_dim, vit.num_prefix_tokens
        from_stages = len(widths) - len(blocks)
        self.reassemble = nn.ModuleList(
            Reassemble(dim, widths[place], prefix, stride)
            for place, stride in enumerate((4, 8, 16, 32))
            if place >= from_stages
        )
        self.fusion = nn.ModuleList(Fusion(width, coarsest=place == 3) for place, width in enumerate(widths))
        self.excitation = Excitation(FEATURES)
        self.segmentation = nn.Sequential(
            nn.Conv2d(FEATURES, FEATURES, 3, padding=1, bias=False),
            nn.BatchNorm2d(FEATURES),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(FEATURES, 1 + num_classes, 1),
        )
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.segmenting = self.grad_checkpointing = False
        stem = "backbone.stem.conv" if from_stages else "proj"
        self.default_cfg = self.pretrained_cfg = {
            "num_classes": num_classes, "input_size": (in_chans, img_size, img_size), "fixed_input_size": False,
            "pool_size": None, "crop_pct": 1.0, "interpolation": "bilinear", "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD, "first_conv": f"backbone.patch_embed.{stem}", "classifier": "head",
        }  # fmt: skip

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Maps of strides 4, 8, 16 and 32 of images (B, 3, H, W) whose sides are multiples of 32.

        Raises:
            UserError: they are not.
        """
        check_size(x.shape[-2], x.shape[-1])
        grid = (x.shape[-2] // 16, x.shape[-1] // 16)
        embed, maps = self.backbone.patch_embed, []
        if hasattr(embed, "backbone"):
            x = embed.backbone.stem(x)
            for place, stage in enumerate(embed.backbone.stages):
                x = stage(x)
                if place < len(self.fusion) - len(self.blocks):
                    maps.append(x)
        x = embed.proj(x).flatten(2).transpose(1, 2)
        tokens = [self.backbone.cls_token, getattr(self.backbone, "dist_token", None)]
        before = [token.expand(x.shape[0], -1, -1) for token in tokens if token is not None]
        x = self.backbone.pos_drop(torch.cat([*before, x], dim=1) + self._positions(*grid))
        reassemble = dict(zip(self.blocks, self.reassemble, strict=True))
        for number, block in enumerate(self.backbone.blocks):
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing and self.training else block(x)
            if number in reassemble:
                maps.append(reassemble[number](x, grid))
        return maps

    def forward_head(self, x: list[Tensor], pre_logits: bool = False) -> Tensor:
        """Logits (B, K) of classes, or the features (B, C) that they are made of."""
        pooled = x[-1].mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def segment(self, maps: list[Tensor]) -> Tensor:
        """Logits of pixels (B, 1 + K, H, W), background first."""
        fused: Tensor | None = None
        for fusion, x in zip(reversed(self.fusion), reversed(maps), strict=True):
            fused = fusion(x, fused)
        assert fused is not None
        return F.interpolate(
            self.segmentation(self.excitation(fused)), scale_factor=2, mode="bilinear", align_corners=True
        )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of classes; those of pixels beside them where ``segmenting`` in training mode."""
        maps = self.forward_features(x)
        logits = self.forward_head(maps)
        return (logits, self.segment(maps)) if self.segmenting and self.training else logits

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The position embedding, for this grid."""
        return resized_positions(self.backbone.pos_embed, self.backbone.num_prefix_tokens, rows, columns)

    def get_classifier(self) -> nn.Module:
        """The classifier of images."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Classify other classes, of images and of pixels."""
        self.num_classes = num_classes
        device = next(self.segmentation.parameters()).device
        self.head = nn.Linear(self.num_features, num_classes).to(device) if num_classes else nn.Identity()
        self.segmentation[4] = nn.Conv2d(FEATURES, 1 + num_classes, 1).to(device)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks twice instead of keeping what is in them."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """As of the backbone."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> DPT:
    """Build a variant.

    Args:
        name: a key of ``VARIANTS``.
        pretrained: must be False; nothing is downloaded.
        kwargs: of `DPT`.

    Raises:
        UserError: there is no such variant, or pretrained weights are asked for.
    """
    if name not in VARIANTS:
        raise UserError(f"there is no GETAM called {name!r}.{nearest(name, VARIANTS)} There are {', '.join(VARIANTS)}.")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    if kwargs.pop("features_only", False):
        raise UserError(f"{name} has no features_only: its forward_features returns the maps of strides 4 to 32.")
    for unused in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # timm's, for weights that it fetches
        kwargs.pop(unused, None)
    return DPT(**{**VARIANTS[name], **kwargs})


#: Our names and the released ones; the first number of a released name counts from 1.
_NAMES = (
    (r"backbone\.", "pretrained.model."),
    (r"reassemble\.(\d)\.readout\.project\.", "pretrained.act_postprocess{}.0.project.0."),
    (r"reassemble\.(\d)\.project\.", "pretrained.act_postprocess{}.3."),
    (r"reassemble\.(\d)\.resample\.", "pretrained.act_postprocess{}.4."),
    (r"fusion\.(\d)\.reduce\.", "scratch.layer{}_rn."),
    (r"fusion\.(\d)\.skip\.", "scratch.refinenet{}.resConfUnit1."),
    (r"fusion\.(\d)\.refine\.", "scratch.refinenet{}.resConfUnit2."),
    (r"fusion\.(\d)\.out\.", "scratch.refinenet{}.out_conv."),
    (r"segmentation\.", "scratch.output_conv."),
    (r"excitation\.body\.", "cam_module.body."),
    (r"excitation\.weights\.", "cam_module.fc."),
    (r"head\.", "cls_head."),
)
#: What the release stores and never reads: ImageNet's classifier and last norm, and a skip that has nothing to skip.
_UNREAD = re.compile(r"pretrained\.model\.(head|head_dist|norm)\.|scratch\.refinenet4\.resConfUnit1\.")


def released_name(name: str, model: DPT) -> str:
    """The release's name of one of our tensors."""
    first = 1 + len(model.fusion) - len(model.reassemble)
    for pattern, released in _NAMES:
        if match := re.match(pattern, name):
            number = int(match[1]) + (first if "act_postprocess" in released else 1) if match.groups() else 0
            return released.format(number) + name[match.end() :]
    raise UserError(f"{name} is no tensor of GETAM's network.")


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to ours; what the release never reads is left out. Our own names stay."""
    assert isinstance(model, DPT)
    if not any(name.startswith(("pretrained.model.", "scratch.", "cls_head.")) for name in state_dict):
        return dict(state_dict)
    ours = {released_name(name, model): name for name in model.state_dict()}
    return {ours.get(name, name): value for name, value in state_dict.items() if not _UNREAD.match(name)}


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our names to released ones, without what the release never reads."""
    assert isinstance(model, DPT)
    return {released_name(name, model): value for name, value in state_dict.items()}
