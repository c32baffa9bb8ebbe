"""Adversarial training: images are replaced by adversarial ones, within epsilon, against the network as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common import bench
from common.errors import UserError
from common.robustness.attacks import Pgd
from common.training.adversarial import AdversarialTraining
from common.training.batch import Batch
from common.training.data import TensorData
from common.training.hooks import Hook, Training
from common.training.loop import train
from common.training.recipe import load_recipe

RECIPE = Path(bench.__file__).with_name("recipe.toml")
EPSILON = 8 / 255


class Watch(Hook):
    """Keeps images before or after the attack, and the mode of the network."""

    def __init__(self) -> None:
        self.images: list[torch.Tensor] = []

    def on_batch(self, run: Training, batch: Batch) -> None:
        assert run.plain_model.training
        self.images.append(batch.images.clone())


def test_images_move_up_to_epsilon_and_raise_the_loss() -> None:
    torch.manual_seed(0)
    images = torch.randint(60, 200, (16, 3, 28, 28), dtype=torch.uint8)
    data = TensorData(images, torch.arange(16) % 10, images[:8], torch.arange(8))
    steps = ("epochs=1", "epoch_images=16", "total_batch=8", "warmup_epochs=0", "evaluate_every=1")
    recipe = load_recipe(RECIPE, "embedded", changes=steps)
    attack = Pgd(epsilon=EPSILON, step=EPSILON / 2, steps=2, random_start=True)
    hook = AdversarialTraining(attack, bench.per_channel(recipe.mean), bench.per_channel(recipe.std))
    assert hook.copies == 3
    before, after = Watch(), Watch()
    train(bench.hosts.resnet_mini(), recipe, data, hooks=[before, hook, after])
    for clean, adversarial in zip(before.images, after.images, strict=True):
        change = (adversarial - clean).abs() * recipe.std[0]
        assert change.max() == pytest.approx(EPSILON, rel=1e-3)
        assert change.mean() > EPSILON / 4
    mixing = recipe.with_changes("mixup=0.8", "mix_probability=1.0")
    with pytest.raises(UserError, match="set mix_probability=0"):
        train(bench.hosts.resnet_mini(), mixing, data, hooks=[hook])
