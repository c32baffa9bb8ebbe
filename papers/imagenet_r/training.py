"""What the paper changes about training: Noise2Net on half of each batch. Distorted copies are made before training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.errors import UserError
from common.training.hooks import Batch, Hook, Training
from common.training.recipe import Recipe
from papers.augmix import training as augmix
from papers.imagenet_r.draws import Draws
from papers.imagenet_r.noise2net import Noise2Net


def hooks(recipe: Recipe) -> Sequence[Hook]:
    """The hooks of a recipe's method settings: ``noise2net``, the largest strength (0: off), and AugMix's.

    A recipe without such settings trains as it says, on whatever copies there are.

    Raises:
        UserError: a value is out of range.
    """
    if not recipe.method:
        return ()
    strength = float(recipe.method["noise2net"])
    if strength < 0:
        raise UserError(f"noise2net is the largest strength of Noise2Net, at least 0, not {strength}.")
    chosen = list(augmix.hooks(recipe))
    return [NoisyHalf(strength), *chosen] if strength else chosen


class NoisyHalf(Hook):
    """Pass the first half of each batch through a network with new random weights.

    Args:
        strength: the largest; each batch has one between half of it and all of it. Kernel sizes are drawn once an
            epoch.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self._network: tuple[tuple[int, int], Noise2Net] | None = None  # of an epoch and a number of images

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Change the batch's images."""
        count = len(batch.images) // 2
        if count == 0:
            return
        generator = np.random.default_rng(np.random.randint(0, 2**32, 4, dtype=np.uint32))  # noqa: NPY002
        key = (run.epoch, count)
        if self._network is None or self._network[0] != key:
            network = Noise2Net(count, Draws(int(generator.integers(2**32)))).to(run.device).requires_grad_(False)
            self._network = (key, network)
        network = self._network[1]
        network.reset()
        with torch.no_grad():
            changed = network(batch.images[:count], float(generator.uniform(self.strength / 2, self.strength)))
        batch.images = torch.cat([changed, batch.images[count:]])
