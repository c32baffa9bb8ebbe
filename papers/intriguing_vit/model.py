"""DeiT-Ti without position embedding, and with larger patches: the networks that the authors trained for this paper.

The architecture is timm's vision transformer. Larger patches do not divide 224 pixels evenly; what is left over at the
right and at the bottom is not seen, as in the released code, whose patch embedding is the same strided convolution.
"""

from __future__ import annotations

from typing import Any

from timm.models._builder import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer

from common.errors import UserError, nearest

_DEIT_TINY: dict[str, Any] = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}

#: One row a variant: what differs from DeiT-Ti.
VARIANTS: dict[str, dict[str, Any]] = {
    "deit_tiny_no_position_patch16_224": {"pos_embed": "none", "dynamic_img_size": True},
    **{f"deit_tiny_patch{patch}_224": {"patch_size": patch} for patch in (22, 28, 32, 38)},
}


class Transformer(VisionTransformer):
    """timm's vision transformer, whose released files load as they are.

    timm's own conversion would resample the patches of a file for another variant; here such a file is refused.
    """


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build the variant ``name`` of :data:`VARIANTS`; keyword arguments are those of timm's ``VisionTransformer``.

    Raises:
        UserError: there is no such variant, or ``pretrained`` is set: pass the released file as ``--checkpoint``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no variant {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"{name} is created without weights; load the released file with --checkpoint FILE.")
    arguments = {**_DEIT_TINY, **VARIANTS[name], **kwargs}
    cfg = arguments.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": None, "crop_pct": 0.875,
        "interpolation": "bicubic", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed.proj", "classifier": "head", "fixed_input_size": "pos_embed" not in VARIANTS[name],
    }  # fmt: skip
    features = {"out_indices": arguments.pop("out_indices", 3), "feature_cls": "getter"}
    return build_model_with_cfg(Transformer, name, False, pretrained_cfg=cfg, feature_cfg=features, **arguments)
