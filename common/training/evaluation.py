"""Accuracy and loss on the validation set during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    prepare: Callable[[Tensor], Tensor],
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> dict[str, float]:
    """Measure a classifier.

    Args:
        model: images to logits (B, classes); put in eval mode, and back into the mode it was in.
        batches: images uint8 (B, C, H, W) and labels (B,); label -1 is left out.
        prepare: images to the model's input.
        total: sums (4,) of this process to those of all processes.

    Returns:
        ``top1`` and ``top5`` in percent and ``loss``, the mean cross-entropy. ``top5`` only where there are more
        than five classes.
    """
    was_training = model.training
    model.eval()
    sums: Tensor | None = None
    classes = 0
    for images, labels in batches:
        logits = model(prepare(images)).float()
        classes = logits.shape[1]
        valid = labels >= 0
        ranked = logits.topk(min(5, classes), dim=1).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        part = torch.stack([ranked[:, 0].sum(), ranked.any(dim=1).sum(), loss.double(), valid.sum()]).double()
        sums = part if sums is None else sums + part
    model.train(was_training)
    if sums is None:
        return {}
    top1, top5, loss_sum, count = total(sums).tolist()
    metrics = {"top1": 100 * top1 / count, "loss": loss_sum / count}
    if classes > 5:
        metrics["top5"] = 100 * top5 / count
    return metrics
