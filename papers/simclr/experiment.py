"""The small encoder of the embedded experiment, how it is trained, and the linear probe."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from common.data.fashion_mnist import load_fashion_mnist
from common.robustness.embedded import Contender
from common.training.data import TensorData
from common.training.preparation import Preparation
from common.training.recipe import Recipe
from papers.simclr.model import SimCLR
from papers.simclr.training import hooks

PRETRAINED, SUPERVISED, RANDOM = "resnet_mini.simclr", "resnet_mini.supervised", "resnet_mini.random"
#: The last test images show how a training goes; the others measure.
VALIDATION = 1000
#: Labelled images of a probe: 1 %, 10 % and all of the training set.
SHARES = {"1pct": 600, "10pct": 6000, "all": 60000}


def build() -> SimCLR:
    """A ResNet of four blocks for grey images of 28 x 28 pixels, 128 features, and a head of two layers."""
    return SimCLR(
        layers=(1, 1, 1, 1),
        channels=(16, 32, 64, 128),
        cifar_stem=True,
        stem_stride=2,
        in_chans=1,
        num_classes=10,
        projection_layers=2,
    )


def build_random() -> SimCLR:
    """The same with residual branches that are switched on: training starts with them at zero."""
    model = build()
    for module in model.modules():
        if isinstance(module, BasicBlock):
            nn.init.ones_(module.bn2.weight)
    return model


@lru_cache(maxsize=1)
def garments() -> TensorData:
    """Fashion-MNIST, grey."""
    data = load_fashion_mnist()
    return TensorData(
        data.train_images[:, None],
        data.train_labels,
        data.test_images[-VALIDATION:, None],
        data.test_labels[-VALIDATION:],
    )


@torch.inference_mode()
def features(model: SimCLR, recipe: Recipe, images: Tensor) -> np.ndarray:
    """Features (N, 128) of uint8 images (N, 1, 28, 28)."""
    device = next(model.parameters()).device
    prepare = Preparation(recipe, device)
    return torch.cat([model.encode(prepare.normalise(part.to(device))) for part in images.split(1000)]).cpu().numpy()


def probe(model: nn.Module, recipe: Recipe, shares: tuple[str, ...]) -> dict[str, float]:
    """Top-1 accuracy in per cent, on 9,000 test images, of logistic regression on features of labelled images.

    Args:
        model: of ``build``, in eval mode.
        recipe: with which it was trained, for the preprocessing.
        shares: keys of ``SHARES``; the first images of the training set, whose order is random, are the labelled ones.
    """
    assert isinstance(model, SimCLR)
    data = load_fashion_mnist()
    most = max(SHARES[share] for share in shares)
    train, labels = features(model, recipe, data.train_images[:most, None]), data.train_labels.numpy()
    test = features(model, recipe, data.test_images[:-VALIDATION, None])
    truth = data.test_labels[:-VALIDATION].numpy()
    accuracy = {}
    for share in shares:
        count = SHARES[share]
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))
        classifier.fit(train[:count], labels[:count])
        accuracy[f"top1/{share}"] = 100 * float((classifier.predict(test) == truth).mean())
    return accuracy


def contenders() -> tuple[Contender, ...]:
    """The encoder pre-trained without labels, trained with them on as many images, and not trained at all."""
    supervised = ("method.stage=supervised", "train_crop=padded", "crop_padding=2")
    return (
        Contender(PRETRAINED, build, hooks),
        Contender(SUPERVISED, build, hooks, supervised),
        # Without a rate, training gives the random weights the batch statistics of the data and nothing else.
        Contender(RANDOM, build_random, hooks, (*supervised, "learning_rate=0.0", "epochs=1", "evaluate_every=1")),
    )
