"""Swin with class attention (CA-Swin), the form in which a model without class token takes part in TransMix.

Chen et al., "TransMix: Attend to Mix for Vision Transformers", CVPR 2022, arXiv 2111.09833, section 4.5, to which the
authors point for Swin; nothing of it is in the released code. The last Swin block gives way to a block of class
attention (Touvron et al., CaiT, arXiv 2103.17239, section 3), which has as many parameters, and the classifier reads
the class token instead of the mean of all tokens. All other models of the paper are timm's.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models._builder import build_model_with_cfg
from timm.models._features import feature_take_indices
from timm.models.cait import ClassAttn
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from common.errors import UserError, nearest

#: One row a variant, as Swin's.
VARIANTS: dict[str, dict[str, Any]] = {
    "ca_swin_tiny_patch4_window7_224": {
        "patch_size": 4, "window_size": 7, "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24),
    },
}  # fmt: skip


class ClassBlock(Block):
    """A transformer block whose attention is the class token's alone: the class token (B, 1, C) moves on."""

    def __init__(self, dim: int, num_heads: int, drop_path: float) -> None:
        super().__init__(dim, num_heads, qkv_bias=True, drop_path=drop_path)
        self.attn = ClassAttn(dim, num_heads, qkv_bias=True)

    def forward(self, token: Tensor, patches: Tensor) -> Tensor:  # type: ignore[override]
        """Move the class token (B, 1, C) by what it takes from itself and the patches (B, N, C)."""
        token = token + self.drop_path1(self.attn(self.norm1(torch.cat((token, patches), dim=1))))
        return token + self.drop_path2(self.mlp(self.norm2(token)))


class ClassAttentionSwin(SwinTransformer):
    """Swin whose last block is class attention; arguments are those of timm's ``SwinTransformer``."""

    def __init__(self, *, depths: tuple[int, ...], num_heads: tuple[int, ...], **kwargs: Any) -> None:
        if depths[-1] < 2:
            raise UserError(f"Class attention takes the place of the last block; the last stage has {depths[-1]}.")
        super().__init__(depths=depths, num_heads=num_heads, **kwargs)
        stage: Any = self.layers[-1]
        dropped = float(getattr(stage.blocks[-1].drop_path1, "drop_prob", 0.0))
        stage.blocks = stage.blocks[:-1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.num_features))
        self.class_block = ClassBlock(self.num_features, num_heads[-1], dropped)
        for parameter in (self.cls_token, *(m.weight for m in self.class_block.modules() if isinstance(m, nn.Linear))):
            nn.init.trunc_normal_(parameter, std=0.02)
        for linear in (m for m in self.class_block.modules() if isinstance(m, nn.Linear)):
            nn.init.zeros_(linear.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The class token, beside Swin's tables of relative positions."""
        return {*super().no_weight_decay(), "cls_token"}

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) to the class token (B, 1, 1, C) as a picture of one pixel."""
        return self._class_token(self.layers(self.patch_embed(x)).flatten(1, 2))

    def _class_token(self, patches: Tensor) -> Tensor:
        """What class attention makes of the last stage's patches (B, N, C), normed: (B, 1, 1, C)."""
        token = self.class_block(self.cls_token.expand(patches.shape[0], -1, -1), patches)
        return self.norm(token).unsqueeze(1)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Maps (B, C, H, W) of the patches of chosen stages, and the class token; arguments are those of timm's Swin.

        The final norm is the class token's, so that ``norm`` must be False.
        """
        if norm:
            raise UserError("CA-Swin gives maps of patches without a norm: its final norm is the class token's.")
        if intermediates_only:
            return super().forward_intermediates(x, indices, norm, stop_early, output_fmt, intermediates_only)
        take, _ = feature_take_indices(len(self.layers), indices)
        maps: Any = super().forward_intermediates(x, output_fmt=output_fmt, intermediates_only=True)
        return self._class_token(maps[-1].flatten(2).transpose(1, 2)), [maps[index] for index in take]


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build the variant ``name`` of :data:`VARIANTS`; keyword arguments are those of timm's ``SwinTransformer``.

    Raises:
        UserError: there is no such variant, or ``pretrained`` is set: nothing was released.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no CA-Swin called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"No weights were released for {name}; create it with pretrained=False.")
    arguments = {**VARIANTS[name], **kwargs}
    cfg = arguments.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": True,
        "pool_size": (1, 1), "crop_pct": 0.9, "interpolation": "bicubic", "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225), "first_conv": "patch_embed.proj", "classifier": "head.fc",
    }  # fmt: skip
    features = {"out_indices": arguments.pop("out_indices", (0, 1, 2, 3)), "flatten_sequential": True}
    return build_model_with_cfg(ClassAttentionSwin, name, False, pretrained_cfg=cfg, feature_cfg=features, **arguments)
