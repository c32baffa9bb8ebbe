"""Where the salient patches of an image are: the attention of DINO's class token (Caron et al., arXiv 2104.14294)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from common.checkpoints import load_released
from common.robustness.normalisation import Normalized


class Saliency:
    """The attention map by which Naseer et al. (arXiv 2105.10497) choose patches: DINO ViT-S/16, last block, head 1.

    Args:
        checkpoint: DINO's released weights of ViT-S/16, the backbone alone (``dino_deitsmall16_pretrain.pth``).

    Raises:
        UserError: the file holds other weights.
    """

    #: Counted from 0.
    head = 1
    size = 224

    def __init__(self, checkpoint: Path) -> None:
        model: Any = timm.create_model("vit_small_patch16_224", num_classes=0)
        load_released(model, checkpoint)
        self.model = Normalized(model, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD).eval().requires_grad_(False)
        self.attention = model.blocks[-1].attn
        self._kept: Tensor | None = None
        self.attention.qkv.register_forward_hook(self._keep)
        self._last: tuple[Tensor, Tensor] | None = None

    def __str__(self) -> str:
        return f"head {self.head} of DINO ViT-S/16's last block"

    def __call__(self, images: Tensor) -> Tensor:
        """What the class token takes from each of the 14 x 14 patches.

        Args:
            images: ``(B, 3, H, W)`` uint8, square. The map of the last batch is kept, since many cells ask for it.

        Returns:
            ``(B, 196)``, not negative; less than 1 in all, since the class token keeps a share for itself.
        """
        if self._last is None or self._last[0] is not images:
            self._last = images, self._map(images)
        return self._last[1]

    @torch.no_grad()
    def _map(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255
        if pixels.shape[-1] != self.size:
            pixels = resize(pixels, [self.size, self.size], antialias=True).clamp(0, 1)
        self.model.to(images.device)(pixels)
        assert self._kept is not None
        # (B, N, 3 C) to queries and keys of one head, (B, N, C / heads).
        qkv = self._kept.unflatten(2, (3, self.attention.num_heads, -1))[:, :, :, self.head]
        query, key = qkv[:, :1, 0], qkv[:, :, 1]
        self._kept = None
        return (self.attention.scale * query @ key.transpose(1, 2)).softmax(dim=-1)[:, 0, 1:]

    def _keep(self, module: object, args: object, output: Tensor) -> None:
        self._kept = output
