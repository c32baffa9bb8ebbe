"""The small vision transformer of the embedded experiment, and what it is trained with."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from common.robustness import embedded
from common.robustness.embedded.images import test_set
from common.training.attention import LastAttention
from common.training.preparation import Preparation
from common.training.randomness import preserved_global_state, seed_global
from common.training.recipe import Recipe
from papers.transmix.method import attention_share
from papers.transmix.training import hooks

PLAIN, CUTMIX, TRANSMIX, ATTENTION = (f"vit_mini{suffix}" for suffix in ("", "+cutmix", "+transmix", "+attention"))
#: Garments are brighter than this, of 255; the rest of an image is black.
GARMENT = 25


class Stem(nn.Module):
    """Two 3x3 convolutions with stride 2: images (B, in_chans, 28, 28) to tokens (B, 49, C).

    A plain projection of patches takes more steps than there are here to be of use.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **unused: Any) -> None:
        super().__init__()
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, embed_dim // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(embed_dim // 2),
            nn.GELU(),
            nn.Conv2d(embed_dim // 2, embed_dim, 3, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Embed images as tokens."""
        return self.proj(x).flatten(2).transpose(1, 2)


def build() -> nn.Module:
    """A vision transformer with class token for 28x28 images: 7x7 patches, three blocks of 48 channels."""
    return timm.create_model(
        "deit_tiny_patch16_224",
        img_size=28,
        patch_size=4,
        num_classes=10,
        embed_dim=48,
        depth=3,
        num_heads=3,
        embed_layer=Stem,
    )


def contenders(*names: str) -> list[embedded.Contender]:
    """The same network trained without mixing, with CutMix, with TransMix, and with attention alone."""
    changes = {
        PLAIN: ("mix_probability=0.0", "method.label_mixing=area"),
        CUTMIX: ("method.label_mixing=area",),
        TRANSMIX: (),
        ATTENTION: ("method.area_share=0.0",),
    }
    return [embedded.Contender(name, build, hooks=hooks, changes=changes[name]) for name in names]


def share_errors(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, float]:
    """How far shares of labels are from what is seen of two garments in CutMix images, in points.

    What is seen: the partner's garment pixels of all garment pixels in the mixed image. Test images are mixed 20 a
    box, the same for every model.

    Returns:
        Mean absolute error of the share by ``area``, by ``attention`` and by the ``mean`` of both.
    """
    always = recipe.with_changes("cutmix=1.0", "mixup=0.0", "mix_probability=1.0", "mix_switch_probability=1.0")
    tests = test_set(quick)
    device = next(model.parameters()).device
    prepare, attention = Preparation(always, device), LastAttention(model)
    errors: dict[str, list[Tensor]] = {"area": [], "attention": [], "mean": []}
    with preserved_global_state(), torch.inference_mode():
        seed_global(0, "visible objects")
        for images, labels in zip(tests.clean.split(20), tests.clean_labels.split(20), strict=True):
            batch = prepare.training(images.to(device), labels.to(device))
            assert batch.mixed is not None
            garment = (images[:, 0] > GARMENT).to(device)
            first = (garment * (1 - batch.mixed.mask)).sum(dim=(1, 2))
            second = (garment.flip(0) * batch.mixed.mask).sum(dim=(1, 2))
            seen = second / (first + second).clamp(min=1)
            model(batch.images)
            by_attention = attention_share(batch.mixed.mask, attention.take(*images.shape[-2:]))
            by_area = batch.mixed.share
            shares = {"area": by_area, "attention": by_attention, "mean": (by_area + by_attention) / 2}
            for name, share in shares.items():
                errors[name].append(100 * (share - seen).abs()[first + second > 0])
    attention.close()
    return {name: float(torch.cat(values).mean()) for name, values in errors.items()}
