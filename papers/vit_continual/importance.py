"""Which weights a new task may move: elastic weight consolidation and the path integral.

- Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017 (EWC), Eq. 3.
- Zenke et al., "Continual Learning Through Synaptic Intelligence", ICML 2017, Eqs. 3 to 5.

Both find an importance for each weight when a task is done and hold weights to where they were by it: `drift`. Heads
have none. Tables of weights are by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError, nearest

Weights: TypeAlias = Mapping[str, Tensor]

#: Whose labels Fisher's information is of: the model's own decisions, the true ones, or drawn from its probabilities.
LABELS = ("predicted", "true", "sampled")


def drift(weights: Weights, anchors: Weights, importance: Weights) -> Tensor:
    """Squared distance of weights from where they were, weighted by importance: a scalar."""
    return torch.stack([(importance[n] * (weights[n] - anchors[n]).square()).sum() for n in importance]).sum()


def fisher_information(
    logits_of: Callable[[Tensor], Tensor],
    weights: Weights,
    batches: Iterable[tuple[Tensor, Tensor]],
    labels: str = "predicted",
) -> dict[str, Tensor]:
    """The diagonal of Fisher's information as the release estimates it.

    It is the square of a batch's mean gradient, times the images of the batch; not the mean of the squared gradients of
    single images, which the definition has and which is larger.

    Args:
        logits_of: images to logits (B, classes) of all heads beside each other.
        weights: what the gradient is of.
        batches: images and labels (B,).
        labels: one of `LABELS`.

    Raises:
        UserError: there are no such labels, or no batches.
    """
    if labels not in LABELS:
        raise UserError(f"Labels are {', '.join(LABELS)}, not {labels!r}.{nearest(labels, LABELS)}")
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    count = 0
    for images, truth in batches:
        logits = logits_of(images)
        if labels == "predicted":
            truth = logits.argmax(dim=1)
        elif labels == "sampled":
            truth = logits.softmax(dim=1).multinomial(1)[:, 0]
        gradients = torch.autograd.grad(F.cross_entropy(logits, truth), list(weights.values()), allow_unused=True)
        for name, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                total[name] += len(truth) * gradient.square()
        count += len(truth)
    if not count:
        raise UserError("Fisher's information is estimated from images, and there are none.")
    return {name: value / count for name, value in total.items()}


def merged(old: Weights, new: Weights, alpha: float = 0.5) -> dict[str, Tensor]:
    """One importance of all tasks so far: ``alpha`` of the old and the rest of the new, from the first task on."""
    return {name: alpha * old[name] + (1 - alpha) * new[name] for name in old}


class PathIntegral:
    """What each weight has brought down the loss by on its way through the tasks, and its importance by it.

    Args:
        weights: where they start.
        damping: keeps the importance of weights that hardly moved finite.

    Attributes:
        anchors: the weights where the last task ended.
        brought: the running sum of this task, Eq. 3.
        importance: of all tasks that have ended, Eq. 5.
    """

    def __init__(self, weights: Weights, damping: float = 0.1) -> None:
        self.damping = damping
        self.anchors = {name: value.detach().clone() for name, value in weights.items()}
        self.importance = {name: torch.zeros_like(value) for name, value in self.anchors.items()}
        self.brought = {name: torch.zeros_like(value) for name, value in self.anchors.items()}

    def add(self, gradients: Weights, before: Weights, after: Weights) -> None:
        """Count a step: gradients of the loss without penalty where it began, and weights before and after it."""
        for name, brought in self.brought.items():
            brought -= gradients[name] * (after[name].detach() - before[name].detach())

    def end_task(self, weights: Weights) -> None:
        """Add the task's importance, and begin the next one at ``weights``."""
        for name, brought in self.brought.items():
            moved = weights[name].detach() - self.anchors[name]
            self.importance[name] += brought / (moved.square() + self.damping)
            brought.zero_()
            self.anchors[name] = weights[name].detach().clone()
