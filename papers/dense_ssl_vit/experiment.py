"""A small vision transformer that is pre-trained on scenes without labels, and what segmentation and depth gain.

Depth is the order of what is seen: 0 for the background, 1 for a garment, 2 for one that is placed before another. Of
two garments that do not touch nothing shows which is before the other; that error is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.bench import hosts, scenes
from common.bench.scenes import Scenes
from common.training.batch import Batch
from common.training.data import TensorData
from common.training.hooks import Hook, Training
from common.training.preparation import Preparation
from common.training.recipe import Recipe
from papers.dense_ssl_vit.model import DenseViT
from papers.dense_ssl_vit.training import AcrossViews

#: Scenes whose masks and depths a network learns from, and how often it sees each.
LABELLED, EPOCHS = 2000, 6
QUICK_LABELLED, QUICK_EPOCHS = 256, 1
BATCH = 100
#: Learning rates of AdamW, for the linear layer and for what it stands on.
HEAD_RATE, NETWORK_RATE = 5e-2, 2e-3
METRICS = ("frozen_miou", "frozen_depth_rmse", "finetuned_miou", "finetuned_depth_rmse")


def encoder() -> DenseViT:
    """The bench's ``vit_mini`` with projection heads."""
    model = hosts.vit_mini(kind=DenseViT)
    assert isinstance(model, DenseViT)
    return model


class OnScenes(AcrossViews):
    """The same on scenes, whose labels are numbers: the classifier that watches learns the class of most pixels."""

    def on_batch(self, run: Training, batch: Batch) -> None:
        """Look up the classes."""
        batch.labels = largest_classes()[batch.labels.cpu()].to(run.device)
        super().on_batch(run, batch)


@lru_cache(maxsize=1)
def largest_classes() -> Tensor:
    """The class of most pixels of each training scene."""
    return scenes.training_scenes()[slice(0, scenes.TRAINING)].largest()


def pretraining(recipe: Recipe) -> Sequence[Hook]:
    """The hook of pre-training on scenes."""
    return [OnScenes(recipe)]


@lru_cache(maxsize=1)
def scenes_with_classes() -> TensorData:
    """Training scenes with the class of most pixels as label, for a network that is not pre-trained."""
    plain = scenes.training_data()
    return TensorData(plain.train[0], largest_classes(), *plain.validation)


# -- what is measured


class Dense(nn.Module):
    """An encoder and a linear layer that tells every token's 4 x 4 pixels: images (B, 3, 28, 28) to (B, K, 28, 28)."""

    def __init__(self, encoder: DenseViT, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = nn.BatchNorm1d(encoder.embed_dim, affine=False)  # features of all scales get one rate
        self.head = nn.Linear(encoder.embed_dim, channels * hosts.PATCH**2)

    def tokens(self, x: Tensor) -> Tensor:
        """The encoder's patches (B, N, C)."""
        return self.encoder.forward_features(x)[:, self.encoder.num_prefix_tokens :]

    def pixels(self, tokens: Tensor) -> Tensor:
        """What is told of them."""
        x = self.head(self.norm(tokens.transpose(1, 2)).transpose(1, 2)).transpose(1, 2)
        side = hosts.SIDE // hosts.PATCH
        return F.pixel_shuffle(x.unflatten(2, (side, side)), hosts.PATCH)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        return self.pixels(self.tokens(x))


def segmentation_loss(told: Tensor, some: Scenes) -> Tensor:
    """Cross-entropy of the classes of pixels."""
    return F.cross_entropy(told, some.semantic.to(told.device).long())


def depth_loss(told: Tensor, some: Scenes) -> Tensor:
    """Mean squared error of depth."""
    return F.mse_loss(told[:, 0], some.order.to(told.device).float())


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """The metrics of ``METRICS``: mean IoU, and root mean squared error of depth, on test scenes.

    ``frozen``: a linear layer is trained on the encoder's features; ``finetuned``: with the encoder. Both learn from
    the same few labelled scenes, which pre-training has seen without labels.
    """
    assert isinstance(model, DenseViT)
    found: dict[str, np.ndarray | float] = {}
    for name, frozen in (("frozen", True), ("finetuned", False)):
        told = told_after_learning(model, scenes.SEMANTIC, segmentation_loss, recipe, quick, frozen)
        found[f"{name}_miou"] = scenes.miou(told.argmax(dim=1), scenes.test_scenes(quick).semantic)
        told = told_after_learning(model, 1, depth_loss, recipe, quick, frozen)
        found[f"{name}_depth_rmse"] = float(depth_loss(told, scenes.test_scenes(quick)).sqrt())
    return {metric: found[metric] for metric in METRICS}


def told_after_learning(
    model: DenseViT, channels: int, loss: Callable[[Tensor, Scenes], Tensor], recipe: Recipe, quick: bool, frozen: bool
) -> Tensor:
    """What a network that has learnt from labelled scenes tells of the test scenes, (n, channels, 28, 28)."""
    count, epochs = (QUICK_LABELLED, QUICK_EPOCHS) if quick else (LABELLED, EPOCHS)
    labelled, test = scenes.training_scenes()[slice(0, count)], scenes.test_scenes(quick)
    device = next(model.parameters()).device
    prepare = Preparation(recipe, device)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Dense(deepcopy(model), channels).to(device)

    def images(some: Scenes) -> Tensor:
        return prepare.normalise(some.images.to(device))

    features: Tensor | None = None
    if frozen:
        network.encoder.eval().requires_grad_(False)
        with torch.no_grad():
            features = torch.cat([network.tokens(part) for part in images(labelled).split(BATCH)])
    else:
        network.train()
    groups = [{"params": network.head.parameters()}]
    if not frozen:
        groups.append({"params": network.encoder.parameters()})
    rates = [HEAD_RATE, NETWORK_RATE][: len(groups)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = epochs * (count // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=max(steps, 2))
    for _ in range(epochs):
        for index in torch.randperm(count, generator=generator).split(BATCH)[: count // BATCH]:
            some = labelled[index]
            told = network(images(some)) if features is None else network.pixels(features[index.to(device)])
            error = loss(told, some)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        parts = [test[slice(start, start + BATCH)] for start in range(0, len(test), BATCH)]
        return torch.cat([network(images(part)).cpu() for part in parts])
