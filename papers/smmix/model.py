"""DeiT with a second head, which classifies the mean of some patches: what SMMix's fine-grained labels are learnt by.

Chen et al., "SMMix: Self-Motivated Image Mixing for Vision Transformers", ICCV 2023, arXiv 2212.12977. At inference the
second head is not used: the network is DeiT.
"""

from __future__ import annotations

from typing import Any

from timm.models._builder import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from common.errors import UserError, nearest

#: One row a variant, as DeiT's.
VARIANTS: dict[str, dict[str, int]] = {
    "smmix_deit_tiny_patch16_224": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "smmix_deit_small_patch16_224": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "smmix_deit_base_patch16_224": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}


class TokenHeadViT(VisionTransformer):
    """A vision transformer with ``token_head`` beside ``head``; arguments are those of timm's ``VisionTransformer``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.token_head = self._new_token_head()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace both heads."""
        super().reset_classifier(num_classes, global_pool)
        self.token_head = self._new_token_head().to(next(self.parameters()).device)

    def _new_token_head(self) -> nn.Module:
        if not self.num_classes:
            return nn.Identity()
        head = nn.Linear(self.num_features, self.num_classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build the variant ``name`` of :data:`VARIANTS`; keyword arguments are those of timm's ``VisionTransformer``.

    Raises:
        UserError: there is no such variant, or ``pretrained`` is set: nothing is downloaded.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no DeiT of SMMix called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(
            f"There is nothing to download for {name}; create it with pretrained=False and load a released file with "
            f"common.checkpoints.load_released(model, path)."
        )
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": True,
        "pool_size": None, "crop_pct": 0.875, "interpolation": "bicubic", "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225), "first_conv": "patch_embed.proj", "classifier": ("head", "token_head"),
    }  # fmt: skip
    features = {"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"}
    arguments = {"patch_size": 16, **VARIANTS[name], **kwargs}
    return build_model_with_cfg(TokenHeadViT, name, False, pretrained_cfg=cfg, feature_cfg=features, **arguments)
