"""DynamicViT: vision transformers, ConvNeXt and Swin that spend their computation on the places that matter.

Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification", NeurIPS 2021, arXiv
2106.02034; journal version "Dynamic Spatial Sparsification for Efficient Vision Transformers and Convolutional Neural
Networks", arXiv 2207.01580. Small predictors (`selection`) score the places of an image at three depths of a network
that has been trained before. Transformers drop the tokens with low scores (`vit`); ConvNeXt and Swin send them along a
fast path (`hierarchies`). All that is not about selection is timm's.
"""

from __future__ import annotations

from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models._builder import build_model_with_cfg

from common.errors import UserError, nearest
from papers.dynamicvit.hierarchies import DynamicConvNeXt, DynamicSwin
from papers.dynamicvit.vit import DynamicLVViT, DynamicViT

_CONVNEXT_TINY: dict[str, Any] = {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), "locations": (1, 2, 3)}
_CONVNEXT_SMALL = {**_CONVNEXT_TINY, "depths": (3, 3, 27, 3), "locations": (3, 6, 9)}
_CONVNEXT_BASE = {**_CONVNEXT_SMALL, "dims": (128, 256, 512, 1024)}

#: One row a variant. Another keep rate than 0.7 is part of a name where the release has weights for both.
VARIANTS: dict[str, tuple[type, dict[str, Any]]] = {
    "dynamicvit_deit_256": (DynamicViT, {"embed_dim": 256, "num_heads": 4}),
    "dynamicvit_deit_small": (DynamicViT, {"embed_dim": 384, "num_heads": 6}),
    "dynamicvit_deit_base": (DynamicViT, {"embed_dim": 768, "num_heads": 12}),
    "dynamicvit_lvvit_small": (
        DynamicLVViT, {"embed_dim": 384, "depth": 16, "num_heads": 6, "mlp_ratio": 3.0, "locations": (4, 8, 12)},
    ),
    "dynamicvit_lvvit_small_keep50": (
        DynamicLVViT,
        {"embed_dim": 384, "depth": 16, "num_heads": 6, "mlp_ratio": 3.0, "locations": (4, 8, 12), "keep_rate": 0.5},
    ),
    "dynamicvit_lvvit_medium": (
        DynamicLVViT, {"embed_dim": 512, "depth": 20, "num_heads": 8, "mlp_ratio": 3.0, "locations": (5, 10, 15)},
    ),
    "dynamicvit_convnext_tiny": (DynamicConvNeXt, _CONVNEXT_TINY),
    "dynamicvit_convnext_tiny_keep90": (DynamicConvNeXt, {**_CONVNEXT_TINY, "keep_rate": 0.9}),
    "dynamicvit_convnext_small": (DynamicConvNeXt, _CONVNEXT_SMALL),
    "dynamicvit_convnext_small_keep90": (DynamicConvNeXt, {**_CONVNEXT_SMALL, "keep_rate": 0.9}),
    "dynamicvit_convnext_base": (DynamicConvNeXt, _CONVNEXT_BASE),
    "dynamicvit_convnext_base_keep90": (DynamicConvNeXt, {**_CONVNEXT_BASE, "keep_rate": 0.9}),
    "dynamicvit_swin_tiny": (
        DynamicSwin,
        {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "locations": (1, 2, 3)},
    ),
    "dynamicvit_swin_small": (
        DynamicSwin,
        {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24), "locations": (2, 4, 6)},
    ),
    "dynamicvit_swin_base": (
        DynamicSwin,
        {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "locations": (2, 4, 6)},
    ),
}  # fmt: skip

_CONFIGURATIONS: dict[type, dict[str, Any]] = {
    DynamicViT: {"pool_size": None, "fixed_input_size": True, "first_conv": "patch_embed.proj", "classifier": "head"},
    DynamicLVViT: {
        "pool_size": None, "fixed_input_size": True, "first_conv": "patch_embed.proj.conv1",
        "classifier": ("head", "aux_head"),
    },
    DynamicConvNeXt: {
        "pool_size": (7, 7), "fixed_input_size": False, "first_conv": "stem.0", "classifier": "head.fc",
    },
    DynamicSwin: {
        "pool_size": (7, 7), "fixed_input_size": True, "first_conv": "patch_embed.proj", "classifier": "head.fc",
    },
}  # fmt: skip


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: the network and its size; ``keep50`` and ``keep90`` are the keep rates of further released weights.
        pretrained: must be False; nothing is downloaded.
        **kwargs: ``keep_rate`` and ``locations``, those of timm's class of the host, and, for ConvNeXt and Swin,
            ``features_only`` and ``out_indices``.

    Raises:
        UserError: an unknown name, ``pretrained``, or features of a transformer, which has no maps of them.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no DynamicViT called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load its released file with --checkpoint.")
    kind, variant = VARIANTS[name]
    if issubclass(kind, DynamicViT) and kwargs.get("features_only"):
        raise UserError(f"{name} drops tokens, so it has no feature maps; take a sparsified ConvNeXt or Swin.")
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "crop_pct": 0.875,
        "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
        **_CONFIGURATIONS[kind],
    }  # fmt: skip
    features = {"out_indices": kwargs.pop("out_indices", (0, 1, 2, 3)), "flatten_sequential": True}
    if issubclass(kind, DynamicViT):
        features["feature_cls"] = "getter"
    return build_model_with_cfg(kind, name, False, pretrained_cfg=cfg, feature_cfg=features, **{**variant, **kwargs})
