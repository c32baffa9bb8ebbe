"""Accuracy and loss on the validation set during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.outputs import logits_of


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    prepare: Callable[[Tensor], Tensor],
    *,
    classes: int,
    images: int = 0,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> dict[str, float]:
    """Measure a classifier.

    Args:
        model: images to logits (B, classes); put in eval mode, and back into the mode it was in.
        batches: images uint8 (B, C, H, W) and labels (B,); label -1 is left out. A process may have none.
        prepare: images to the model's input.
        classes: that the model tells apart.
        images: in the validation set over all processes; 0: unknown.
        total: sums (4,) of this process, float64 on the CPU, to those of all processes.

    Returns:
        ``top1`` and ``top5`` in percent and ``loss``, the mean cross-entropy. ``top5`` only where there are more
        than five classes.

    Raises:
        UserError: not as many images have been judged as there are, so that the metrics would be those of another set.
    """
    was_training = model.training
    model.eval()
    parts = [torch.zeros(4)]
    for batch, labels in batches:
        logits = logits_of(model(prepare(batch))).float()
        valid = labels >= 0
        ranked = logits.topk(min(5, classes), dim=1).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        parts.append(torch.stack([ranked[:, 0].sum(), ranked.any(dim=1).sum(), loss, valid.sum()]))
    model.train(was_training)
    top1, top5, loss_sum, count = total(torch.stack([part.cpu().double() for part in parts]).sum(dim=0)).tolist()
    if not count or (images and count != images):
        raise UserError(
            f"The validation set has {count:.0f} images with labels, where its split or --validation-images states "
            f"{images}: correct the count, or get the damaged part again."
        )
    metrics = {"top1": 100 * top1 / count, "loss": loss_sum / count}
    if classes > 5:
        metrics["top5"] = 100 * top5 / count
    return metrics


def in_step(
    batches: Iterable[tuple[Tensor, Tensor]],
    padding: tuple[Tensor, Tensor],
    total: Callable[[Tensor], Tensor],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield as many batches on every process, as a model needs that is sharded over them.

    Args:
        batches: of this process; none at all, perhaps.
        padding: a batch of label -1 for a process that has no more.
        total: sums of this process to those of all processes.
    """
    own = iter(batches)
    while True:
        batch = next(own, None)
        if not total(torch.tensor([batch is not None], dtype=torch.float64)).any():
            return
        yield batch or padding
