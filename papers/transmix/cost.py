"""Training steps whose cost is compared: CutMix, and TransMix with two ways to come by the attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor

from common.attention import LastAttention
from common.training.mixing import Mixed, Mixing
from papers.transmix.method import mix_labels

GRID = (14, 14)


def steps(images: Tensor) -> dict[str, Callable[[], None]]:
    """Forward and backward pass of DeiT-Ti with mixing, by name, on images (B, 3, 224, 224), B even.

    ``cutmix`` keeps the labels by area; ``transmix`` reads the row of the class token from queries and keys;
    ``transmix.released`` computes the whole map of the last block, without a fused kernel.
    """
    models = {name: timm.create_model("deit_tiny_patch16_224").to(images.device).train() for name in _NAMES}
    labels = torch.arange(len(images), device=images.device)
    mixing = Mixing(Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=1000))
    loss = SoftTargetCrossEntropy()

    attention = LastAttention(models["transmix"])
    blocks: Any = models["transmix.released"].blocks
    last = blocks[-1].attn
    last.fused_attn = False
    maps: list[Tensor] = []
    # What dropout acts on is the map.
    last.attn_drop.register_forward_hook(lambda module, args, output: maps.append(args[0].detach()))

    def whole_map(mixed: Mixed) -> Tensor:
        return mix_labels(mixed, maps.pop()[:, :, 0, 1:].mean(dim=1).unflatten(1, GRID))

    def row(mixed: Mixed) -> Tensor:
        return mix_labels(mixed, attention.take(*GRID))

    def step(name: str, relabel: Callable[[Mixed], Tensor] | None) -> Callable[[], None]:
        def run() -> None:
            mixed_images, targets, mixed = mixing(images.clone(), labels)
            logits = models[name](mixed_images)
            loss(logits, targets if relabel is None else relabel(mixed)).backward()
            models[name].zero_grad(set_to_none=True)

        return run

    return {name: step(name, relabel) for name, relabel in zip(_NAMES, (None, row, whole_map), strict=True)}


_NAMES = ("cutmix", "transmix", "transmix.released")
