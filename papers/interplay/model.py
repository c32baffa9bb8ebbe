"""The way from a ResNet to a ConvNeXt in steps, isotropic networks, and stems of convolutions.

Croce and Hein, "On the interplay of adversarial robustness and architecture components: patches, convolution and
attention", arXiv 2209.06953. ``STEPS`` is the way as data: each step says what it changes in the network before it. The
first network is ResNet-50, the last one ConvNeXt-T (Liu et al., "A ConvNet for the 2020s", CVPR 2022), both to the last
digit. `Network` is all of them, at full size and small.

Networks called ``cvst`` are those of the follow-up (Singh, Croce, Hein, "Revisiting Adversarial Training for ImageNet",
NeurIPS 2023, arXiv 2303.01870): transformers and ConvNeXts of timm whose stem of patches is one of convolutions.

Shapes: B images, C channels, H x W positions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import DropPath, LayerNorm2d, PatchEmbed, calculate_drop_path_rates, to_2tuple, trunc_normal_
from timm.models._builder import build_model_with_cfg
from timm.models._manipulate import checkpoint_seq
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from common.cifar_networks import without_weights
from common.classifier import HasClassifier
from common.errors import UserError, nearest

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}
NORMS = {"batch": nn.BatchNorm2d, "layer": LayerNorm2d}


@dataclass(frozen=True)
class Design:
    """What the steps change.

    Attributes:
        stem: ``convolution``: one that overlaps, its norm, activation and pooling; ``patch``: one whose stride is its
            size, and its norm.
        depthwise: a block's spatial convolution has a kernel for each channel, and there are half as many more.
        kernel: side of that convolution.
        inverted: a block is wide in the middle, not at its ends, and its spatial convolution comes first.
        activation, norm: see ``ACTIVATIONS`` and ``NORMS``.
        sparse: a block has one norm, one activation and a learned scale, and stages are parted by a norm and a strided
            convolution of their own.
    """

    stem: str = "convolution"
    depthwise: bool = False
    kernel: int = 3
    inverted: bool = False
    activation: str = "relu"
    norm: str = "batch"
    sparse: bool = False


#: The steps, each by what it changes in the design before it.
STEPS: dict[str, dict[str, Any]] = {
    "resnet": {},
    "patch_stem": {"stem": "patch"},
    "depthwise": {"depthwise": True, "kernel": 7},
    "inverted": {"inverted": True},
    "gelu": {"activation": "gelu"},
    "layer_norm": {"norm": "layer"},
    "convnext": {"sparse": True},
}


def designs() -> dict[str, Design]:
    """The design that each step leads to, by its name."""
    found, design = {}, Design()
    for name, changes in STEPS.items():
        design = found[name] = replace(design, **changes)
    return found


class Block(nn.Module):
    """Three convolutions, each with its norm, beside a shortcut: (B, C, H, W) to (B, out, H/stride, W/stride).

    Args:
        channels, hidden, out: of the ends and of the middle.
        stride: of the spatial convolution.
        design: see `Design`.
        drop_path: share of images whose convolutions are left out in training.
    """

    def __init__(
        self, channels: int, hidden: int, out: int, *, stride: int, design: Design, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        activation = ACTIVATIONS[design.activation]
        spatial = channels if design.inverted else hidden
        mixing = _convolution(
            spatial, spatial, design, size=design.kernel, stride=stride, groups=spatial if design.depthwise else 1
        )
        widening = _convolution(channels, hidden, design)
        first, second = (mixing, widening) if design.inverted else (widening, mixing)
        self.body = nn.Sequential(*first, activation(), *second, activation(), *_convolution(hidden, out, design))
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(channels, out, design, stride=stride))
        self.drop_path = DropPath(drop_path)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.activation(self.drop_path(self.body(x)) + self.shortcut(x))


def _convolution(
    channels: int, out: int, design: Design, *, size: int = 1, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias, and its norm."""
    convolution = nn.Conv2d(channels, out, size, stride, padding=size // 2, groups=groups, bias=False)
    return convolution, _norm(out, design)


def _norm(channels: int, design: Design) -> nn.Module:
    return NORMS[design.norm](channels, **({"eps": 1e-6} if design.norm == "layer" else {}))


class Network(HasClassifier):
    """A network of blocks in stages: images (B, 3, H, W) to logits (B, classes).

    The spatial convolution of stage i, from 0, has ``width * 2**i`` channels, half as many more where it is depth-wise;
    the wide part of a block has four times as many.

    Args:
        design: see `Design`.
        width: see above.
        depths: blocks of each stage.
        patch: pixels, on a side, of a place of the first stage.
        stem: in place of the design's; its output has the channels of the first spatial convolution.
        layer_scale: where a block's learned scale starts; None: blocks have none. Of ``sparse`` designs alone.
        num_classes: 0: no classifier.
        in_chans: of images.
        drop_rate: before the classifier.
        drop_path_rate: of the last block; that of others rises to it.
        global_pool: ``avg``, or empty for none.

    Attributes:
        num_features: channels of ``forward_features``, (B, C, H/32, W/32) of four stages.
    """

    architecture = "The way from ResNet to ConvNeXt"

    def __init__(
        self,
        design: Design,
        width: int = 64,
        depths: Sequence[int] = (3, 4, 6, 3),
        patch: int = 4,
        *,
        stem: nn.Module | None = None,
        layer_scale: float | None = 1e-6,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.num_classes, self.global_pool, self.grad_checkpointing = num_classes, global_pool, False
        width = width * 3 // 2 if design.depthwise else width
        self.stem = stem or _stem(design, in_chans, width, patch)
        rates: Any = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        stages, channels = [], width
        self.feature_info: list[dict[str, Any]] = []
        for stage, depth in enumerate(depths):
            narrow = width * 2**stage
            out, hidden = (narrow, 4 * narrow) if design.inverted else (4 * narrow, narrow)
            blocks: list[nn.Module] = []
            if design.sparse and stage > 0:
                blocks += [_norm(channels, design), nn.Conv2d(channels, out, 2, 2)]
            for block in range(depth):
                if design.sparse:
                    scaled = partial(ConvNeXtBlock, out, kernel_size=design.kernel, ls_init_value=layer_scale)
                    blocks.append(scaled(act_layer=design.activation, drop_path=next(rates)))
                else:
                    stride = 2 if stage > 0 and block == 0 else 1
                    blocks.append(Block(channels, hidden, out, stride=stride, design=design, drop_path=next(rates)))
                channels = out
            stages.append(nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": out, "reduction": patch * 2**stage, "module": f"stages.{stage}"})
        self.stages = nn.Sequential(*stages)
        self.num_features = self.head_hidden_size = channels
        self.norm = nn.LayerNorm(channels, eps=1e-6) if design.sparse else nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks again in the backward pass in place of keeping what is inside."""
        self.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map (B, C, H/32, W/32) of images (B, 3, H, W)."""
        x = self.stem(x)
        for stage in self.stages:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_seq(stage, x)
            else:
                x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, classes) of a feature map, or the pooled features (B, C); of every place without pooling."""
        x = x.mean(dim=(2, 3)) if self.global_pool else x.permute(0, 2, 3, 1)
        x = self.head_drop(self.norm(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images."""
        return self.forward_head(self.forward_features(x))


def _stem(design: Design, in_chans: int, width: int, patch: int) -> nn.Module:
    if design.stem == "patch":
        return nn.Sequential(nn.Conv2d(in_chans, width, patch, patch, bias=design.sparse), _norm(width, design))
    # ResNet's; where a place has two pixels, only what halves the side, and no more than it can see there.
    size = 7 if patch == 4 else 3
    first = nn.Conv2d(in_chans, width, size, 2, padding=size // 2, bias=False)
    pooling = [nn.MaxPool2d(3, 2, padding=1)] if patch == 4 else []
    return nn.Sequential(first, _norm(width, design), ACTIVATIONS[design.activation](), *pooling)


class ConvolutionStem(nn.Module):
    """3x3 convolutions, each with a norm and GELU, in place of a stem of patches: (B, 3, H, W) to (B, out, h, w).

    Args:
        in_chans: of images.
        widths, strides: of the convolutions.
        out: of a last convolution of single places; 0: none.
    """

    def __init__(self, in_chans: int, widths: Sequence[int], strides: Sequence[int], out: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width, stride in zip((in_chans, *widths), widths, strides, strict=False):
            layers += [nn.Conv2d(before, width, 3, stride, padding=1), LayerNorm2d(width, eps=1e-6), nn.GELU()]
        if out:
            layers.append(nn.Conv2d(widths[-1], out, 1))
        self.stem = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        return self.stem(x)


def stem_of_16(in_chans: int, out: int) -> ConvolutionStem:
    """The follow-up's stem for patches of 16 pixels."""
    return ConvolutionStem(in_chans, (48, 96, 192, 384), (2, 2, 2, 2), out)


class ConvolutionEmbed(PatchEmbed):
    """Tokens of a vision transformer from `stem_of_16`.

    Raises:
        UserError: patches are not of 16 pixels, or sides of images no multiples of them.
    """

    def __init__(self, *, in_chans: int = 3, embed_dim: int = 768, **kwargs: Any) -> None:
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, **kwargs)
        if self.patch_size != (16, 16) or any(side % 16 for side in self.img_size or ()):
            raise UserError(
                f"A stem of convolutions makes tokens of 16 x 16 pixels: images of {self.img_size} and patches of "
                f"{self.patch_size} do not fit; choose an img_size that is a multiple of 16, and leave patch_size out."
            )
        self.proj = stem_of_16(in_chans, embed_dim)  # type: ignore[assignment]


#: How images are evaluated: resized to 256 bicubically and cropped to 224; pixels as they are.
_EVALUATION: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "test_input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "test_crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}
_NORMALISED = {**_EVALUATION, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

#: Networks of the way, by name: design, and what else differs from ResNet-50.
CHAIN: dict[str, tuple[Design, dict[str, Any]]] = {
    f"chain_{name}": (design, {} if name == "resnet" else {"depths": (3, 3, 9, 3)})
    for name, design in designs().items()
}
#: Isotropic ConvNeXts: all blocks at the places of a transformer's tokens. The width is that before the step
#: ``depthwise``, which brings 384 channels.
_ISOTROPIC = {"width": 256, "depths": (18,), "patch": 16, "layer_scale": None}
ISOTROPIC: dict[str, bool] = {"convnext_iso": False, "convnext_iso_cvst": True}
#: Transformers of the follow-up: timm's architecture, how images are evaluated.
TRANSFORMERS = {
    "vit_s_cvst": ("deit_small_patch16_224", _NORMALISED),
    "vit_m_cvst": ("deit3_medium_patch16_224", _EVALUATION),
    "vit_b_cvst": ("vit_base_patch16_224", _EVALUATION),
}
#: ConvNeXts of the follow-up: timm's architecture; widths and strides of the stem.
CONVNEXTS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "convnext_t_cvst": ("convnext_tiny", (48, 96), (2, 2)),
    "convnext_s_cvst": ("convnext_small", (48, 96), (2, 2)),
    "convnext_b_cvst": ("convnext_base", (64, 96, 128), (2, 2, 1)),
    "convnext_l_cvst": ("convnext_large", (96, 144, 192), (2, 2, 1)),
}
VARIANTS = (*CHAIN, *ISOTROPIC, *TRANSFORMERS, *CONVNEXTS)


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a network by its name.

    Args:
        name: one of ``VARIANTS``.
        pretrained: must be False; released files are given as ``--checkpoint``.
        kwargs: of `Network`, or of timm's network with whose stem the follow-up changes; ``img_size`` of any.

    Raises:
        UserError: there is no such network, weights are asked for, or a transformer's tokens do not fit ``img_size``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no network {name!r}.{nearest(name, VARIANTS)}")
    kwargs = without_weights(name, pretrained, kwargs)
    if name in TRANSFORMERS:
        architecture, evaluation = TRANSFORMERS[name]
        overlay = {**evaluation, "architecture": name, "first_conv": "patch_embed.proj.stem.0"}
        return timm.create_model(
            architecture, pretrained_cfg_overlay=overlay, **{"embed_layer": ConvolutionEmbed, **kwargs}
        )
    size = kwargs.pop("img_size", None)  # a network of convolutions takes any
    evaluation = _EVALUATION if size is None else {**_EVALUATION, "input_size": (3, *to_2tuple(size))}
    if name in CONVNEXTS:
        architecture, widths, strides = CONVNEXTS[name]
        overlay = {**evaluation, "architecture": name, "first_conv": "stem.stem.0"}
        return build_model_with_cfg(
            partial(_with_stem, architecture, widths, strides),
            name,
            False,
            pretrained_cfg=timm.get_pretrained_cfg(architecture),  # type: ignore[arg-type]  # of which timm takes both
            pretrained_cfg_overlay=overlay,
            feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
            **kwargs,
        )
    return _build(name, evaluation, **kwargs)


def _with_stem(architecture: str, widths: Sequence[int], strides: Sequence[int], **kwargs: Any) -> nn.Module:
    """A ConvNeXt of timm with a stem of convolutions."""
    model = timm.create_model(architecture, **kwargs)
    model.stem = ConvolutionStem(kwargs.get("in_chans", 3), widths, strides)
    return model


def _build(name: str, evaluation: Mapping[str, Any], **kwargs: Any) -> nn.Module:
    """A `Network` of full size, with the first weights of a network of its norm."""
    if name in CHAIN:
        design, changes = CHAIN[name]
        first = "stem.0"
    else:
        design, changes = designs()["convnext"], _ISOTROPIC
        in_chans, first = kwargs.get("in_chans", 3), "stem.stem.0" if ISOTROPIC[name] else "stem"
        stem = stem_of_16(in_chans, 384) if ISOTROPIC[name] else nn.Conv2d(in_chans, 384, 16, 16)
        changes = {**changes, "stem": stem}
    model = build_model_with_cfg(
        Network,
        name,
        False,
        pretrained_cfg={**evaluation, "num_classes": 1000, "first_conv": first, "classifier": "head"},
        feature_cfg={"out_indices": tuple(range(len(changes.get("depths", (3, 4, 6, 3))))), "flatten_sequential": True},
        design=design,
        **{**changes, **kwargs},
    )
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if design.norm == "layer":
                trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


#: Released names of isotropic networks, and ours.
_NAMES = (
    (r"^blocks\.(\d+)\.", r"stages.0.\1."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv1\.", ".mlp.fc1."),
    (r"\.pwconv2\.", ".mlp.fc2."),
)
_RELEASED_NAMES = (
    (r"^stages\.0\.(\d+)\.", r"blocks.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc1\.", ".pwconv1."),
    (r"\.mlp\.fc2\.", ".pwconv2."),
)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to ours: a normalisation in front of the network is left out, isotropic blocks are renamed."""
    plain = {}
    for name, value in state_dict.items():
        name = name.removeprefix("base_model.")
        if not name.startswith("normalize."):
            plain[name.removeprefix("model.")] = value
    return _renamed(plain, _NAMES) if isinstance(model, Network) and len(model.stages) == 1 else plain


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our names to released ones; the inverse of :func:`checkpoint_filter_fn` on networks without normalisation."""
    isotropic = isinstance(model, Network) and len(model.stages) == 1
    return _renamed(state_dict, _RELEASED_NAMES) if isotropic else dict(state_dict)


def _renamed(state: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
