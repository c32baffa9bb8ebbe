"""The embedded experiment: what is measured of each network, and the network between the two kinds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from common import bench
from common.bench import hosts
from common.training.recipe import Recipe

#: Images that AutoAttack is made on.
AUTOATTACK_IMAGES = 30


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """What `bench.robustness` measures, and accuracy under attacks of many steps."""
    classifier = bench.normalised(model, recipe)
    return {**bench.robustness(model, recipe, quick), **bench.under_long_attacks(classifier, quick, AUTOATTACK_IMAGES)}


class ResidualStem(hosts.Stem):
    """The first half of ``resnet_mini``, and a strided convolution to tokens, where ``vit_mini`` has its stem."""

    def __init__(self, *, embed_dim: int = 48, **kwargs: Any) -> None:
        super().__init__(embed_dim=embed_dim, **kwargs)
        half = hosts.resnet_mini(widths=(32,), num_classes=0)
        self.proj = nn.Sequential(half.stem, half.stages, nn.Conv2d(32, embed_dim, 3, stride=2, padding=1))


def hybrid_mini() -> VisionTransformer:
    """The first half of ``resnet_mini``, and two blocks of ``vit_mini`` in place of its second half."""
    return hosts.vit_mini(embed_layer=ResidualStem, depth=2)


#: The convolutional network with the transformers' activation.
resnet_gelu_mini = partial(hosts.resnet_mini, activation=nn.GELU)
