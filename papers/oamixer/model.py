"""OAMixer: networks whose patches mix the more, the more alike the objects are that they show.

Kang et al., "OAMixer: Object-aware Mixing Layer for Vision Transformers", CVPRW 2022, arXiv 2212.06595. Beside an image
a network gets labels of its patches: distributions over objects, from a segmenter, or from a classifier's map. Every
layer that mixes patches is reweighted by a mask that falls with the distance of labels, at a rate that the layer learns
(`mask`, `layers`). Without labels a network is its host.

Shapes: B images, N patches in row-major order, K objects; labels are (B, N, K).
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models._builder import build_model_with_cfg
from timm.models._features_fx import register_notrace_function
from timm.models._manipulate import checkpoint
from timm.models.convit import ConVit
from timm.models.convmixer import ConvMixer
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common.errors import UserError, nearest
from papers.oamixer.layers import (
    MaskedAttention,
    MaskedConv,
    MaskedConViTBlock,
    MaskedGPSA,
    MaskedMHSA,
    MaskedMixerBlock,
    MaskedTokenMlp,
    RelativeAttention,
    SharedConv,
)
from papers.oamixer.mask import DISTANCES, distances


@register_notrace_function  # a graph is for images with labels and without
def distances_of(labels: Tensor | None, kind: str) -> Tensor | None:
    """Distances (B, N, N) of labels (B, N, K), see `mask.distances`; None where there are none."""
    return None if labels is None else distances(labels, kind)


class ObjectAware(nn.Module):
    """What the networks have in common, beside their hosts, which are timm's classes.

    Attributes:
        distance: how labels are compared, see `mask.distances`.
        masked: whether the layers have masks.
    """

    distance: str
    masked: bool
    forward_head: Any
    patches_first: int  # tokens before those of patches
    grad_checkpointing: bool

    def set_distance(self, distance: str) -> None:
        """Choose how labels are compared.

        Raises:
            UserError: an unknown way.
        """
        if distance not in DISTANCES:
            ways = ", ".join(DISTANCES)
            raise UserError(f"Labels are compared by one of {ways}, not {distance!r}.{nearest(distance, DISTANCES)}")
        self.distance = distance

    def add_token_classifier(self, classes: int) -> None:
        """Have patches classified, too, as token labelling asks (Jiang et al., NeurIPS 2021); 0: not."""
        if classes:
            self.tok_head = nn.Linear(self.num_features, classes)  # type: ignore[arg-type]

    def apart(self, labels: Tensor | None) -> Tensor | None:
        """Distances (B, N, N) of labels; None where there are none, or no layer asks."""
        return distances_of(labels, self.distance) if self.masked else None

    def run(self, block: Callable[[Tensor, Tensor], Tensor], x: Tensor, distance: Tensor) -> Tensor:
        """Apply a block, and recompute it in the backward pass where ``set_grad_checkpointing`` asks for it."""
        return checkpoint(block, x, distance) if self.grad_checkpointing else block(x, distance)

    def tokens(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images to features behind the last block, (B, n, C) or (B, C, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W), with labels of their patches, to logits (B, classes)."""
        return self.forward_head(self.tokens(x, labels))

    def forward_features(self, x: Tensor) -> Tensor:
        """Features of images without labels."""
        return self.tokens(x)

    def forward_tokens(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of images (B, classes), and of their patches (B, N, K); see `add_token_classifier`."""
        features = self.tokens(x, labels)
        patches = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features[:, self.patches_first :]
        return self.forward_head(features), self.tok_head(patches)


class ObjectAwareViT(ObjectAware, VisionTransformer):  # type: ignore[misc]  # takes labels, and no mask of attention
    """A vision transformer.

    Args:
        form: of the mask, see `mask.ObjectMask`; empty for none.
        distance: see `mask.distances`.
        token_classes: classes of patches; 0 for no classifier of patches.
        relative: whether attention is replaced by `RelativeAttention`, without class token and positions.
        **kwargs: of timm's ``VisionTransformer``.
    """

    def __init__(
        self, form: str = "exp", distance: str = "l1", token_classes: int = 0, relative: bool = False, **kwargs: Any
    ) -> None:
        if relative:
            kwargs = {"class_token": False, "pos_embed": "none", "global_pool": "avg", "fc_norm": False, **kwargs}
        super().__init__(**kwargs)
        self.patches_first = self.num_prefix_tokens
        self.masked = bool(form)
        self.set_distance(distance)
        self.add_token_classifier(token_classes)
        blocks: Any = self.blocks
        for block in blocks:
            if relative:
                heads, grid = block.attn.num_heads, math.isqrt(self.patch_embed.num_patches)
                block.attn = RelativeAttention(self.embed_dim, heads, grid, mask=bool(form))
            elif form:
                MaskedAttention.convert(block.attn, form)

    def tokens(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images to normed features (B, n, C)."""
        distance = self.apart(labels)
        if distance is None:
            return VisionTransformer.forward_features(self, x)
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        for block in self.blocks:
            x = self.run(block, x, distance)
        return self.norm(x)


class ObjectAwareConViT(ObjectAware, ConVit):
    """ConViT (d'Ascoli et al., "ConViT", ICML 2021).

    Args:
        form, distance: as of `ObjectAwareViT`.
        **kwargs: of timm's ``ConVit``.
    """

    def __init__(self, form: str = "exp", distance: str = "l1", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patches_first, self.masked = 1, bool(form)
        self.set_distance(distance)
        blocks: Any = self.blocks
        for block in blocks if form else ():
            block.__class__ = MaskedConViTBlock
            block.attn.__class__ = MaskedGPSA if block.use_gpsa else MaskedMHSA
            block.attn.add_mask(form)

    def tokens(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images to normed features (B, 1 + N, C); the class token joins before the first block of plain attention."""
        distance = self.apart(labels)
        if distance is None:
            return ConVit.forward_features(self, x)
        x = self.pos_drop(self.patch_embed(x) + self.pos_embed)
        for index, block in enumerate(self.blocks):
            if index == self.local_up_to_layer:
                x = self.with_class_token(x)
            x = block(x, distance)
        return self.norm(x)

    def with_class_token(self, x: Tensor) -> Tensor:
        """Patches with the class token in front."""
        return torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)


class ObjectAwareMixer(ObjectAware, MlpMixer):
    """MLP-Mixer.

    Args:
        form, distance: as of `ObjectAwareViT`.
        **kwargs: of timm's ``MlpMixer``.
    """

    def __init__(self, form: str = "exp", distance: str = "l1", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_masks(form, distance)

    @classmethod
    def convert(cls, mixer: Any, form: str) -> None:
        """Turn timm's mixer into an object-aware one; the rest of it stays as it is."""
        mixer.__class__ = cls
        mixer.add_masks(form, "l1")

    def add_masks(self, form: str, distance: str) -> None:
        """Give every block's MLP over patches its mask, where there is a form of it."""
        self.patches_first, self.masked = 0, bool(form)
        self.set_distance(distance)
        blocks: Any = self.blocks
        for block in blocks if form else ():
            block.__class__ = MaskedMixerBlock
            block.mlp_tokens.__class__ = MaskedTokenMlp
            block.mlp_tokens.add_mask(form)

    def tokens(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images to normed features (B, N, C)."""
        distance = self.apart(labels)
        if distance is None:
            return MlpMixer.forward_features(self, x)
        x = self.stem(x)
        for block in self.blocks:
            x = self.run(block, x, distance)
        return self.norm(x)


class ObjectAwareConvMixer(ObjectAware, ConvMixer):
    """ConvMixer, whose convolutions have one kernel for all channels.

    Args:
        shared: whether they have; if not, they are ConvMixer's own, and cannot be masked.
        form, distance: as of `ObjectAwareViT`.
        **kwargs: of timm's ``ConvMixer``.

    Raises:
        UserError: a mask for convolutions that are not shared.
    """

    def __init__(
        self, shared: bool = True, form: str = "exp", distance: str = "l1", kernel_size: int = 9, **kwargs: Any
    ) -> None:
        if form and not shared:
            raise UserError("Only convolutions with one kernel for all channels can be masked: set form='' or shared.")
        super().__init__(kernel_size=kernel_size, **kwargs)
        self.patches_first, self.masked = 0, bool(form)
        self.set_distance(distance)
        blocks: Any = self.blocks
        for block in blocks:
            if not shared:
                block[0].fn[0] = nn.Sequential(OrderedDict(conv=block[0].fn[0]))  # its name in the release
            else:
                block[0].fn[0] = MaskedConv(kernel_size, form) if form else SharedConv(kernel_size)

    def tokens(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images to features (B, C, H, W)."""
        distance = self.apart(labels)
        if distance is None:
            return ConvMixer.forward_features(self, x)
        x = self.stem(x)
        for block in self.blocks:
            x = self.run(partial(masked_block, block), x, distance)
        return x


def masked_block(block: Any, x: Tensor, distance: Tensor) -> Tensor:
    """A block of ConvMixer, which has no place for distances, on features (B, C, H, W)."""
    convolution, *rest = block[0].fn
    mixed = convolution(x, distance)
    for layer in rest:
        mixed = layer(mixed)
    x = x + mixed
    for layer in list(block)[1:]:
        x = layer(x)
    return x


_EPS6 = partial(nn.LayerNorm, eps=1e-6)
_DEIT_TINY: dict[str, Any] = {"embed_dim": 192, "num_heads": 3}
_CONVIT_TINY: dict[str, Any] = {
    "embed_dim": 64, "num_heads": 3, "depth": 12, "local_up_to_layer": 10, "qkv_bias": True, "norm_layer": _EPS6,
}  # fmt: skip
_CONVMIXER: dict[str, Any] = {"dim": 512, "depth": 8}

#: One row a variant. ``host`` are networks without masks that timm does not have.
VARIANTS: dict[str, tuple[type, dict[str, Any]]] = {
    "oamixer_deit_tiny": (ObjectAwareViT, _DEIT_TINY),
    "oamixer_deit_tiny_cosine": (ObjectAwareViT, {**_DEIT_TINY, "distance": "cosine"}),
    "oamixer_deit_tiny_minus": (ObjectAwareViT, {**_DEIT_TINY, "form": "minus"}),
    "oamixer_deit_tiny_tokens": (ObjectAwareViT, {**_DEIT_TINY, "token_classes": 10}),
    "oamixer_deit_small": (ObjectAwareViT, {"embed_dim": 384, "num_heads": 6}),
    "oamixer_coatnet_tiny": (ObjectAwareViT, {**_DEIT_TINY, "relative": True}),
    "oamixer_convit_tiny": (ObjectAwareConViT, _CONVIT_TINY),
    "oamixer_convit_tiny_host": (ObjectAwareConViT, {**_CONVIT_TINY, "form": ""}),
    "oamixer_mixer_s32": (ObjectAwareMixer, {"patch_size": 32}),
    "oamixer_mixer_s16": (ObjectAwareMixer, {}),
    "oamixer_mixer_b32": (ObjectAwareMixer, {"patch_size": 32, "num_blocks": 12, "embed_dim": 768}),
    "oamixer_mixer_b16": (ObjectAwareMixer, {"num_blocks": 12, "embed_dim": 768}),
    "oamixer_convmixer_s32": (ObjectAwareConvMixer, {**_CONVMIXER, "patch_size": 32}),
    "oamixer_convmixer_s32_host": (ObjectAwareConvMixer, {**_CONVMIXER, "patch_size": 32, "form": ""}),
    "oamixer_convmixer_s16": (ObjectAwareConvMixer, {**_CONVMIXER, "patch_size": 16}),
    "oamixer_convmixer_s16_host": (ObjectAwareConvMixer, {**_CONVMIXER, "patch_size": 16, "form": ""}),
    "oamixer_convmixer_s16_unshared": (
        ObjectAwareConvMixer, {**_CONVMIXER, "patch_size": 16, "form": "", "shared": False},
    ),
}  # fmt: skip

#: The release's names of ConvMixer's blocks, of which a module of its own holds the parts.
_BLOCK, _OUR_BLOCK = re.compile(r"^blocks\.(\d+)\.block\."), re.compile(r"^blocks\.(\d+)\.")
#: Stored by the release though it follows from the sizes.
_DERIVED = "relative_index"


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released names to ours; names of ours stay."""
    return {_BLOCK.sub(r"blocks.\1.", name): value for name, value in state_dict.items() if not name.endswith(_DERIVED)}


def released_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Our names to released ones; the inverse of `checkpoint_filter_fn`."""
    if not isinstance(model, ConvMixer):
        return dict(state_dict)
    return {_OUR_BLOCK.sub(r"blocks.\1.block.", name): value for name, value in state_dict.items()}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: the host's architecture, with what differs from OAMixer's default.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of the network's class here, and of timm's class of the host.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no OAMixer called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load a file with --checkpoint.")
    kind, variant = VARIANTS[name]
    stem = {ObjectAwareMixer: "stem.proj", ObjectAwareConvMixer: "stem.0"}.get(kind, "patch_embed.proj")
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": None, "crop_pct": 0.875,
        "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "first_conv": stem,
        "classifier": "head", "fixed_input_size": kind is not ObjectAwareConvMixer,
    }  # fmt: skip
    features = {"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"}
    return build_model_with_cfg(kind, name, False, pretrained_cfg=cfg, feature_cfg=features, **{**variant, **kwargs})
