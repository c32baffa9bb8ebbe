"""Training steps whose cost is compared: CutMix, and TL-Align."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor

from common.training.mixing import Mixing
from papers.tl_align.method import TokenBoxes, token_labels

NAMES = ("cutmix", "tl_align")


def steps(images: Tensor) -> dict[str, Callable[[], None]]:
    """Forward and backward pass of DeiT-Ti with CutMix, by name, on images (B, 3, 224, 224), B even."""
    models = {name: timm.create_model("deit_tiny_patch16_224").to(images.device).train() for name in NAMES}
    labels = torch.arange(len(images), device=images.device)
    mixing = Mixing(TokenBoxes(grid=(14, 14), mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=1000))
    loss, followed = SoftTargetCrossEntropy(), token_labels(models["tl_align"])

    def step(name: str) -> Callable[[], None]:
        def run() -> None:
            mixed_images, targets, mixed = mixing(images.clone(), labels)
            logits = models[name](mixed_images)
            if name == "tl_align":
                targets = mixed.labels(followed.take(mixed.mask))
            loss(logits, targets).backward()
            models[name].zero_grad(set_to_none=True)

        return run

    return {name: step(name) for name in NAMES}
