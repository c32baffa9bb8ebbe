"""A network with a head for each task, that remembers how it was when each task was done."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from papers.vit_continual.model import Intermediates
from papers.vit_continual.tasks import Tasks


class Learner(nn.Module):
    """Features and a linear head for each task: images to logits (B, classes) in the order of the classes.

    Axes: B images, T tasks, S numbers of a snapshot.

    Args:
        backbone: with ``forward_features(images, seen)``, ``forward_head(tokens, pre_logits=True)`` and
            ``num_features``, such as `papers.vit_continual.model.EarlyConvViT` of no classes.
        tasks: the heads' classes.

    Attributes:
        notes: whether the forward pass in training mode returns what attentions compute beside the logits.
        snapshots: (T, S), all parameters and statistics when each task was done; saved with the weights, so that
            accuracies after each task can be measured at any time.
    """

    def __init__(self, backbone: nn.Module, tasks: Tasks) -> None:
        super().__init__()
        features: Any = backbone.num_features
        self.backbone, self.tasks = backbone, tasks
        self.heads = nn.ModuleList(nn.Linear(features, len(own)) for own in tasks.classes)
        self.notes = False
        order = torch.tensor([one for own in tasks.classes for one in own])
        self.register_buffer("places", order.argsort(), persistent=False)  # of each class among the heads' outputs
        self.register_buffer("snapshots", torch.zeros(len(tasks), sum(x.numel() for x in self._remembered())))

    def features(self, x: Tensor, seen: Intermediates | None = None) -> Tensor:
        """What the heads read, (B, num_features), of images; ``seen`` notes what every attention computes."""
        backbone: Any = self.backbone
        return backbone.forward_head(backbone.forward_features(x, seen), pre_logits=True)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of features."""
        places: Any = self.places
        return torch.cat([head(features) for head in self.heads], dim=1)[:, places]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Intermediates]:
        """Logits (B, classes); in training mode with ``notes`` also what the attentions computed."""
        if not (self.notes and self.training):
            return self.classify(self.features(x))
        seen = Intermediates()
        return self.classify(self.features(x, seen)), seen

    def open_head(self, task: int) -> None:
        """Train the head of ``task`` and no other: those of earlier tasks stay, those of later ones wait."""
        for number, head in enumerate(self.heads):
            head.requires_grad_(number == task)

    def remember(self, task: int) -> None:
        """Note all weights and statistics as those with which ``task`` was done."""
        snapshots: Any = self.snapshots
        snapshots[task] = torch.cat([x.detach().flatten() for x in self._remembered()])

    def recall(self, task: int) -> None:
        """Become again what this was when ``task`` was done."""
        snapshots: Any = self.snapshots
        remembered = self._remembered()
        for x, value in zip(remembered, snapshots[task].split([x.numel() for x in remembered]), strict=True):
            x.data.copy_(value.view_as(x))

    def _remembered(self) -> list[Tensor]:
        state = self.state_dict(keep_vars=True)
        return [x for name, x in state.items() if x.is_floating_point() and name != "snapshots"]
