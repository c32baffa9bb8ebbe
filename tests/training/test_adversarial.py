"""Adversarial training: images are replaced by adversarial ones, within epsilon, against the network as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

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


class MeanLabels(nn.Module):
    """Logits that a grey level alone decides: class 0 wins where images are dark, class 1 where they are bright."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grey = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-self.scale * grey, self.scale * grey], dim=1)


def test_mixed_images_are_attacked_by_their_mixed_labels() -> None:
    """An image that is mostly of the dark class becomes brighter, one that is mostly of the bright class darker."""
    images, shares = torch.full((2, 3, 4, 4), 0.5), torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    attack = Pgd(epsilon=EPSILON, step=EPSILON, steps=1)
    change = attack(MeanLabels(), images, shares) - images
    torch.testing.assert_close(change[:, 0, 0, 0], torch.tensor([EPSILON, -EPSILON]))
    hard = attack(MeanLabels(), images, torch.tensor([0, 1])) - images
    torch.testing.assert_close(change, hard)
    # Of a half of each, with logits that are equal, there is no way up.
    assert torch.equal(attack(MeanLabels(), images, torch.full((2, 2), 0.5)), images)
    with pytest.raises(UserError, match=r"labels have shape \(2, 3\) and logits \(2, 2\)"):
        attack(MeanLabels(), images, torch.full((2, 3), 1 / 3))


def test_a_recipe_that_mixes_is_trained_adversarially() -> None:
    images = torch.randint(60, 200, (16, 3, 28, 28), dtype=torch.uint8)
    data = TensorData(images, torch.arange(16) % 10, images[:8], torch.arange(8))
    steps = ("epochs=1", "epoch_images=16", "total_batch=8", "warmup_epochs=0", "evaluate_every=1")
    recipe = load_recipe(RECIPE, "embedded", changes=(*steps, "mixup=0.8", "mix_probability=1.0"))
    seen: list[torch.Tensor] = []

    class Recorded(Pgd):
        def __call__(self, model, images, labels, **draws):
            seen.append(labels)
            return super().__call__(model, images, labels, **draws)

    recorded = Recorded(epsilon=EPSILON, step=EPSILON, steps=1)
    hook = AdversarialTraining(recorded, bench.per_channel(recipe.mean), bench.per_channel(recipe.std))
    train(bench.hosts.resnet_mini(), recipe, data, hooks=[hook])
    assert all(labels.shape == (8, 10) for labels in seen)
    torch.testing.assert_close(torch.cat(seen).sum(dim=1), torch.ones(16))
