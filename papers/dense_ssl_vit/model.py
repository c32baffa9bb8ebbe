"""A vision transformer with what pre-training adds to it: two projection heads, and a classifier that watches.

Rabarisoa et al., arXiv 2205.15173. The transformer is timm's; the class token is the global representation, the patches
are the local features.
"""

from __future__ import annotations

from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models._builder import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common.errors import UserError, nearest

#: One row a variant; the abstract names none, and ViT-S/16 is ours.
VARIANTS: dict[str, dict[str, Any]] = {
    "dense_ssl_vit_small_patch16_224": {
        "img_size": 224, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6, "projection": (2048, 256),
    },
}  # fmt: skip


class DenseViT(VisionTransformer):
    """timm's vision transformer with class token; arguments are its own, and the widths of the projection heads.

    Attributes:
        pretraining: whether training mode returns logits, whose gradient stops at the class token, the projected class
            token (B, D) and the projected patches (B, N, D).
    """

    def __init__(self, projection: tuple[int, int] = (96, 64), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        hidden, out = projection
        self.global_projection = _projection(self.embed_dim, hidden, out)
        self.local_projection = _projection(self.embed_dim, hidden, out)
        self.pretraining = False

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Any:
        """Logits (B, K); in pre-training beside both projections."""
        tokens = self.forward_features(x, attn_mask, is_causal)
        if not (self.pretraining and self.training):
            return self.forward_head(tokens)
        logits = self.forward_head(tokens.detach())
        return (
            logits,
            self.global_projection(tokens[:, 0]),
            self.local_projection(tokens[:, self.num_prefix_tokens :]),
        )


def _projection(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, out))


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant.

    Args:
        name: a key of ``VARIANTS``.
        pretrained: must be False; nothing was released.
        kwargs: of `DenseViT`, and timm's ``features_only`` and ``out_indices``.

    Raises:
        UserError: there is no such variant, or pretrained weights are asked for.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no dense-ssl-vit called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"No weights of {name} were released: pre-train it, see papers/dense_ssl_vit/README.md.")
    cfg = kwargs.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": True,
        "pool_size": None, "crop_pct": 0.9, "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD, "first_conv": "patch_embed.proj", "classifier": "head",
    }  # fmt: skip
    features = {"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"}
    return build_model_with_cfg(
        DenseViT, name, False, pretrained_cfg=cfg, feature_cfg=features, **{**VARIANTS[name], **kwargs}
    )
