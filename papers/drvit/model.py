"""Dr. ViT: code words of a vector-quantised encoder as tokens, alone or beside pixels.

Mao et al., "Discrete Representations Strengthen Vision Transformer Robustness", ICLR 2022, arXiv 2111.10493. The
networks are timm's ViT, hybrid and MLP-Mixer; only what makes tokens of an image differs. A frozen encoder
(:mod:`papers.drvit.vq`) finds for each place the nearest word of a codebook, and the word's embedding is

- projected to the width of the network, where tokens are discrete alone, or
- put beside a narrow projection of the place's pixels and zeros, [pixels, word, zeros], where both are fused. The zeros
  are room that only positions and blocks write to.

Shapes: B images, N = h x w places, C channels of a token, K words of D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GELUTanh, PatchEmbed, StdConv2dSame
from timm.models._builder import build_model_with_cfg
from timm.models._features_fx import register_notrace_module
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from common.errors import UserError, nearest
from papers.drvit.released import checkpoint_filter_fn, released_state_dict  # noqa: F401  (found here)
from papers.drvit.vq import Encoder, nearest_code

#: The released encoder of images in 16 x 16 pixels a place, and its codebook; that of ImageNet-21k has 8192 words.
VQGAN: dict[str, Any] = {"code_dim": 256, "filters": 128, "multipliers": (1, 1, 2, 2, 4), "depth": 2}
WORDS, WORDS_21K = 1024, 8192
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}
#: One row a variant: discrete tokens alone (fusion_dim 0), and beside 32 channels of pixels.
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"discrete_vit_{size}_patch16_224": {**_SIZES[size], "fusion_dim": 0} for size in _SIZES},
    # 192 channels are fewer than a code word has.
    **{f"drvit_{size}_patch16_224": {**_SIZES[size], "fusion_dim": 32} for size in ("small", "base", "large")},
    "discrete_vit_base_patch16_224_21k": {**_SIZES["base"], "fusion_dim": 0, "words": WORDS_21K},
    "drvit_base_patch16_224_21k": {**_SIZES["base"], "fusion_dim": 32, "words": WORDS_21K},
    "drvit_base_r50_s16_224": {**_SIZES["base"], "fusion_dim": 32, "hybrid": True},
    "drmixer_base_patch16_224": {
        "embed_dim": 768, "num_blocks": 12, "mlp_ratio": (0.5, 4.0), "fusion_dim": 32, "mixer": True,
    },
}  # fmt: skip


class Codes(nn.Module):
    """Embeddings of the code words that a frozen encoder finds in images.

    Args:
        encoder: images in [0, 1] to features (B, D, h, w).
        words: K.
        tuned: whether an offset of each word is learned; the codebook itself stays.
        discrete: False for the features themselves in place of the words, an option of the release for comparison.
        mean, std: of the images that come in, which are undone: the encoder sees [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        words: int = WORDS,
        tuned: bool = True,
        discrete: bool = True,
        mean: Sequence[float] = (0.5,) * 3,
        std: Sequence[float] = (0.5,) * 3,
    ) -> None:
        super().__init__()
        self.discrete = discrete
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.encoder = encoder.requires_grad_(False)
        dim = encoder.conv_out.out_channels
        bound = (3 / words) ** 0.5
        self.codebook = nn.Parameter(torch.empty(words, dim).uniform_(-bound, bound), requires_grad=False)
        self.delta = nn.Parameter(torch.zeros(words, dim)) if tuned else None

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What the encoder makes of normalised images: (B, h, w, D), always in float32.

        Which word is nearest is a decision; rounding in half precision would change some.
        """
        autocast = not images.is_meta and torch.is_autocast_enabled(images.device.type)
        with torch.autocast(images.device.type, enabled=False) if autocast else nullcontext():
            return self.encoder(images.float() * self.std + self.mean).permute(0, 2, 3, 1)

    def indices(self, images: Tensor) -> Tensor:
        """The word of each place of normalised images (B, 3, H, W): (B, h, w)."""
        return nearest_code(self.features(images), self.codebook)

    def forward(self, images: Tensor) -> Tensor:
        """The embedding of each place: (B, D, h, w). No gradient comes back to the images."""
        if not self.discrete:
            return self.features(images).permute(0, 3, 1, 2)
        words = self.codebook if self.delta is None else self.codebook + self.delta
        return F.embedding(self.indices(images), words).permute(0, 3, 1, 2)


@register_notrace_module  # sizes are checked
class CodeEmbed(PatchEmbed):
    """Images (B, 3, H, W) to tokens (B, N, C) with code words; it stands for timm's ``PatchEmbed``.

    Args:
        fusion_dim: channels of a token that hold pixels; 0 for code words alone. Where code words and these channels
            would leave no zeros, one channel of zeros is left.
        codes: makes a :class:`Codes`.
        backbone: maps images to features (B, ``features``, h, w) that take the place of pixels, in hybrids.
        features: of ``backbone``.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        *,
        fusion_dim: int,
        codes: Codes,
        backbone: nn.Module | None = None,
        features: int = 0,
        **kwargs: Any,
    ) -> None:
        code_dim = codes.codebook.shape[1]
        if in_chans != 3:
            raise UserError(f"The encoder of code words takes images of 3 channels, not {in_chans}.")
        if fusion_dim and embed_dim - code_dim < 2:
            raise UserError(
                f"Tokens of {embed_dim} channels have no room for pixels beside code words of {code_dim}: choose a "
                "wider network, or code words alone (fusion_dim=0)."
            )
        room = embed_dim - code_dim
        pixels = fusion_dim if room > fusion_dim else room - 1
        super().__init__(img_size, patch_size, in_chans, pixels if fusion_dim else embed_dim, **kwargs)
        self.fusion_dim, self.embed_dim = fusion_dim, embed_dim
        if backbone is not None:
            self.backbone: nn.Module | None = backbone
            self.proj = nn.Conv2d(features, pixels, 1)
        else:
            self.backbone = None
            if not fusion_dim:
                self.proj = nn.Conv2d(code_dim, embed_dim, 1)
        self.codes = codes

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """Expect images of ``img_size``; the encoder fixes the pixels of a place."""
        if patch_size is not None and tuple(nn.modules.utils._pair(patch_size)) != self.patch_size:
            raise UserError(f"Code words stand for {self.patch_size[0]} pixels on a side: leave patch_size out.")
        super().set_input_size(img_size)

    def forward(self, images: Tensor) -> Tensor:
        """Embed normalised images."""
        for size, expected, patch in zip(images.shape[2:], self.img_size, self.patch_size, strict=True):
            if size % patch or (self.strict_img_size and size != expected):
                raise UserError(
                    f"Images are of {images.shape[2]}x{images.shape[3]} pixels where the model takes "
                    f"{self.img_size[0]}x{self.img_size[1]}; build it with img_size=<the size you use>, a multiple of "
                    f"{patch}."
                )
        codes = self.codes(images)
        if not self.fusion_dim:
            tokens = self.proj(codes)
        else:
            pixels = self.proj(images if self.backbone is None else self.backbone(images))
            tokens = torch.cat([pixels, codes.to(pixels.dtype)], dim=1)
            tokens = F.pad(tokens, (0, 0, 0, 0, 0, self.embed_dim - tokens.shape[1]))
        tokens = tokens.permute(0, 2, 3, 1)
        return tokens.flatten(1, 2) if self.flatten else tokens


def code_embed(
    fusion_dim: int, words: int = WORDS, vqgan: dict[str, Any] = VQGAN, *, hybrid: bool = False, **kwargs: Any
) -> CodeEmbed:
    """A :class:`CodeEmbed` with the encoder ``vqgan``; ``kwargs`` are its own, and timm's.

    Raises:
        UserError: a place of the encoder is not a patch of the network.
    """
    codes = Codes(Encoder(**vqgan), words, tuned=fusion_dim > 0)
    if kwargs.get("patch_size", codes.encoder.patch_size) != codes.encoder.patch_size:
        raise UserError(
            f"Code words of this encoder stand for {codes.encoder.patch_size} pixels on a side, patches are to be of "
            f"{kwargs['patch_size']}: choose patch_size={codes.encoder.patch_size}, or an encoder with other vqgan "
            "multipliers."
        )
    if hybrid:  # the convolutional part of timm's vit_base_r50_s16_224
        backbone = ResNetV2(
            [3, 4, 9], num_classes=0, global_pool="", preact=False, stem_type="same", conv_layer=StdConv2dSame
        )
        kwargs |= {"backbone": backbone, "features": backbone.num_features}
    return CodeEmbed(fusion_dim=fusion_dim, codes=codes, **kwargs)


class DiscreteVisionTransformer(VisionTransformer):
    """timm's vision transformer on tokens with code words; arguments are those of :func:`code_embed`, and timm's."""

    def __init__(
        self, *, fusion_dim: int, words: int = WORDS, vqgan: dict[str, Any] = VQGAN, hybrid: bool = False, **kwargs: Any
    ) -> None:
        embed = partial(code_embed, fusion_dim, words, vqgan, hybrid=hybrid)
        super().__init__(**{"embed_layer": embed, "act_layer": GELUTanh, **kwargs})


class DiscreteMixer(MlpMixer):
    """timm's MLP-Mixer, likewise."""

    def __init__(self, *, fusion_dim: int, words: int = WORDS, vqgan: dict[str, Any] = VQGAN, **kwargs: Any) -> None:
        super().__init__(**{"act_layer": GELUTanh, **kwargs})
        given = self.stem
        self.stem = code_embed(
            fusion_dim, words, vqgan, img_size=given.img_size, patch_size=given.patch_size[0],
            in_chans=given.proj.in_channels, embed_dim=self.embed_dim,
        )  # fmt: skip


def create(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Build a variant of :data:`VARIANTS`.

    Args:
        name: as in the table.
        pretrained: must be False; nothing is downloaded.
        **kwargs: of :class:`DiscreteVisionTransformer` or :class:`DiscreteMixer`.

    Raises:
        UserError: an unknown name, or ``pretrained``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no network on code words called {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"Nothing is downloaded for {name}; load a file of yours with --checkpoint.")
    settings = {**VARIANTS[name], **kwargs}
    mixer = settings.pop("mixer", False)
    embed = "stem" if mixer else "patch_embed"
    cfg = settings.pop("pretrained_cfg", None) or {
        "architecture": name, "num_classes": 1000, "input_size": (3, 224, 224), "fixed_input_size": True,
        "pool_size": None, "crop_pct": 0.875, "interpolation": "bilinear",
        "mean": (0.5,) * 3, "std": (0.5,) * 3, "classifier": "head",
        "first_conv": (f"{embed}.backbone.stem.conv" if settings.get("hybrid") else f"{embed}.codes.encoder.conv_in"),
    }  # fmt: skip
    kind = DiscreteMixer if mixer else DiscreteVisionTransformer
    settings = {"patch_size": 16, **settings}
    features = {"out_indices": settings.pop("out_indices", 3), "feature_cls": "getter"}
    return build_model_with_cfg(kind, name, False, pretrained_cfg=cfg, feature_cfg=features, **settings)
