"""The bench's residual network as an encoder to pre-train, and the linear probe."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from common import bench
from common.training.preparation import Preparation
from common.training.recipe import Recipe
from papers.simclr.model import ProjectionHead

#: Labelled images of a probe: about 1 % and 10 % of the training set.
SHARES = {"1pct": 600, "10pct": 6000}
#: Images of a forward pass.
BATCH = 1000


class Encoder(nn.Module):
    """The bench's ``resnet_mini`` with a classifier and a projection head, to be trained as `model.SimCLR` is.

    It is a classifier unless ``pretraining`` is set; then it returns logits, whose gradient stops at the features, and
    embeddings in training mode.
    """

    kept_layers = 0

    def __init__(self) -> None:
        super().__init__()
        self.encoder = bench.hosts.resnet_mini(num_classes=0)
        self.fc = nn.Linear(self.encoder.num_features, bench.hosts.CLASSES)
        self.projection = ProjectionHead(self.encoder.num_features, layers=2)
        self.pretraining = False

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature map (B, 64, 7, 7) of images (B, 3, 28, 28)."""
        return self.encoder.forward_features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, 10) of a feature map, or the pooled features (B, 64), which the publication calls h."""
        features = self.encoder.forward_head(x, pre_logits=True)
        return features if pre_logits else self.fc(features)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, 10); in pre-training logits and embeddings (B, 128)."""
        features = self.forward_head(self.forward_features(x), pre_logits=True)
        if not (self.pretraining and self.training):
            return self.fc(features)
        return self.fc(features.detach()), self.projection(features)

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.fc


def probe(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """Whether logistic regression on frozen features is right on the bench's test images.

    Args:
        model: in eval mode, with ``forward_features`` and ``forward_head``.
        recipe: with which it was trained, for the preprocessing.
        quick: whether the run is.

    Returns:
        ``linear_probe_top1/SHARE`` for each of ``SHARES``, (subsets, images) of 0 and 1. The first images of the
        training set, whose order is random, are the labelled ones.
    """
    images, labels = bench.training_data().train
    tests = bench.test_set(quick)
    train = features(model, recipe, images[: max(SHARES.values())])
    test, truth = features(model, recipe, tests.clean.flatten(0, 1)), tests.labels.flatten().numpy()
    right: dict[str, np.ndarray | float] = {}
    for share, count in SHARES.items():
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))
        classifier.fit(train[:count], labels[:count].numpy())
        right[f"linear_probe_top1/{share}"] = (classifier.predict(test) == truth).reshape(tests.labels.shape)
    return right


@torch.inference_mode()
def features(model: nn.Module, recipe: Recipe, images: Tensor) -> np.ndarray:
    """Features (N, 64) of uint8 images (N, 3, 28, 28)."""
    device = next(model.parameters()).device
    prepare = Preparation(recipe, device)
    found = []
    for part in images.split(BATCH):
        maps = model.forward_features(prepare.normalise(part.to(device)))
        found.append(model.forward_head(maps, pre_logits=True).cpu())
    return torch.cat(found).numpy()
