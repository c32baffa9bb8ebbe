"""What is recorded of each image: a few numbers, from which every metric is computed at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from common.errors import UserError
from common.robustness.benchmarks.classes import IMAGENET_CLASSES, sixteen_class_scores, sixteen_classes
from common.robustness.metrics.sequences import flip_probability, ranks, top5_distance, zipf_distance


class Score(Protocol):
    """Turns outputs into numbers to record; ``columns`` names them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the recorded numbers."""
        ...

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``(B, len(columns))`` float32 from logits ``(B, K)`` (or ``(B, T, K)``) and labels ``(B,)``."""
        ...


class Classification:
    """Right or wrong, also among the best five, and how confident.

    Args:
        accepted: for each label the model outputs that count as right.
        kept: outputs among which the largest is sought (the others are masked), or None for all.
        outputs: of the model, where it has other classes than ImageNet-1k's.
        subsets: further sets of outputs by name; the column ``top1/NAME`` says whether the largest among these is
            right, and is -1 for images of other classes.
    """

    def __init__(
        self,
        accepted: Sequence[Sequence[int]],
        kept: Sequence[int] | None = None,
        subsets: Mapping[str, Sequence[int]] | None = None,
        outputs: int = IMAGENET_CLASSES,
    ) -> None:
        self.table = torch.zeros(len(accepted), outputs, dtype=torch.bool)
        for label, right in enumerate(accepted):
            self.table[label, list(right)] = True
        self.kept = None if kept is None else torch.tensor(list(kept))
        self.subsets = {name: torch.tensor(list(among)) for name, among in (subsets or {}).items()}
        self.columns = ("top1", "top5", "confidence", *(f"top1/{name}" for name in self.subsets))

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``Score``."""
        _check_classes(logits, self.table.shape[1])
        logits = logits.float()
        right = self.table.to(logits.device)[labels]
        columns = []
        for outputs in self.subsets.values():
            outputs = outputs.to(logits.device)
            among = right[:, outputs]
            hit = among.gather(1, logits[:, outputs].argmax(1, keepdim=True))[:, 0]
            columns.append(torch.where(among.any(1), hit.float(), -1.0))
        if self.kept is not None:
            kept = self.kept.to(logits.device)
            logits, right = logits[:, kept], right[:, kept]
        hits = right.gather(1, logits.topk(min(5, logits.shape[1]), dim=1).indices)
        confidence = logits.softmax(1).amax(1)
        return torch.stack([hits[:, 0].float(), hits.any(1).float(), confidence, *columns], dim=1)


class CueConflict:
    """The decision among 16 categories; a label is ``16 * shape + texture``."""

    columns = ("decision", "shape", "texture")

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``Score``."""
        _check_classes(logits, IMAGENET_CLASSES)
        decision = sixteen_class_scores(logits.float()).argmax(1)
        categories = len(sixteen_classes())
        return torch.stack([decision, labels // categories, labels % categories], dim=1).float()


class Stability:
    """Flips and rank distances of a sequence.

    Args:
        noise: whether frames are compared with the first one.
    """

    columns = ("flip", "top5_distance", "zipf_distance")

    def __init__(self, noise: bool) -> None:
        self.noise = noise

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``Score``; logits ``(B, T, K)``."""
        if logits.ndim != 3:
            raise UserError(f"outputs of sequences have shape {tuple(logits.shape)} where (B, T, K) is needed.")
        rank = ranks(logits.float())
        values = (
            flip_probability(logits.argmax(-1), noise=self.noise),
            top5_distance(rank, noise=self.noise),
            zipf_distance(rank, noise=self.noise),
        )
        return torch.stack(values, dim=1).float()


def _check_classes(logits: Tensor, classes: int) -> None:
    if logits.ndim != 2 or logits.shape[1] != classes:
        whose = "ImageNet-1k's classes" if classes == IMAGENET_CLASSES else "an output for each class folder"
        raise UserError(
            f"the model's output has shape {tuple(logits.shape)} where this benchmark needs {classes} classes an "
            f"image; give a model with {whose}."
        )
