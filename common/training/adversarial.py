"""Adversarial training: on adversarial images in place of clean ones (Madry et al., arXiv 1706.06083, equation 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from common.robustness.attacks import Pgd
from common.robustness.normalisation import Normalized
from common.training.batch import Batch
from common.training.hooks import Hook, Training


class AdversarialTraining(Hook):
    """Replace each image by an adversarial one against the network as it is, in eval mode.

    Args:
        attack: in pixel units; its random numbers follow torch's global generator.
        mean, std: with which the images of a batch are normalised.

    Where the recipe mixes images, the attack raises the loss of the mixed labels.
    """

    def __init__(self, attack: Pgd, mean: Sequence[float], std: Sequence[float]) -> None:
        self.attack, self.copies = attack, 1 + attack.steps
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def start(self, run: Training) -> None:
        """Have the statistics on the run's device, and the network behind its normalisation."""
        mean, std = self._mean.flatten().tolist(), self._std.flatten().tolist()
        self._mean, self._std = self._mean.to(run.device), self._std.to(run.device)
        self._classifier = Normalized(run.plain_model, mean, std).to(run.device)

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Attack the images."""
        pixels = (batch.images * self._std + self._mean).clamp(0, 1)
        labels = batch.targets if run.recipe.mixes else batch.labels
        adversarial = self.attack(self._classifier, pixels, labels, generator=torch.default_generator)
        batch.images = (adversarial - self._mean) / self._std
