"""Training steps whose cost is compared: CutMix, and SMMix with all of its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.data.mixup import Mixup, mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor

from common.attention import LastAttention
from common.training.mixing import Mixed, Mixing
from papers.smmix.method import consistency_loss, corners, fine_grained_loss, paste, window_attention

GRID, SIDE = (14, 14), 7  # the middle of the sides that are drawn


def steps(images: Tensor) -> dict[str, Callable[[], None]]:
    """Forward and backward pass of DeiT-Ti, by name, on images (B, 3, 224, 224), B even; each batch is mixed."""
    labels = torch.arange(len(images), device=images.device)
    mixing = Mixing(Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=1000))
    loss = SoftTargetCrossEntropy()
    plain = timm.create_model("deit_tiny_patch16_224").to(images.device).train()
    model: Any = timm.create_model("smmix_deit_tiny_patch16_224").to(images.device).train()
    attention, kept = LastAttention(model, token=None), []
    model.norm.register_forward_hook(lambda module, args, output: kept.append(output))

    def cutmix() -> None:
        mixed_images, targets, _ = mixing(images.clone(), labels)
        loss(plain(mixed_images), targets).backward()
        plain.zero_grad(set_to_none=True)

    def smmix() -> None:
        with torch.no_grad():
            unmixed = model.eval()(images)
        model.train()
        kept.clear()
        scores = window_attention(attention.take(*images.shape[2:]), SIDE)
        mixed_images, mask = paste(images, corners(scores, True), corners(scores, False), SIDE, GRID)
        first = mixup_target(labels, 1000)
        mixed = Mixed(first, first.flip(0), mask)
        logits = model(mixed_images)
        at_patches = mask[:, ::16, ::16].flatten(1)
        fine = fine_grained_loss(kept.pop()[:, 1:], at_patches, model.token_head, mixed.first, mixed.second)
        whole = loss(logits, mixed.labels(mixed.share)) + fine + consistency_loss(logits, unmixed, mixed.share)
        whole.backward()
        model.zero_grad(set_to_none=True)

    return {"cutmix": cutmix, "smmix": smmix}
