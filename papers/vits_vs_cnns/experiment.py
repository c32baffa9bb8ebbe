"""The embedded experiment: what is measured of each network, and the network between the two kinds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from common import bench
from common.bench import hosts
from common.robustness.attacks import AutoAttack, Pgd
from common.training.recipe import Recipe

#: The paper's attack, of 20 steps where it makes up to 100.
PGD = Pgd(epsilon=4 / 255, step=1 / 255, steps=20, random_start=True)
#: AutoAttack's first two attacks. In the release's logs the other two take 0.01 points more, and three times as long.
AUTOATTACK = AutoAttack(epsilon=4 / 255, attacks=("apgd-ce", "apgd-t"))
#: Its first alone, a hundred steps, for quick runs.
QUICK_AUTOATTACK = replace(AUTOATTACK, attacks=("apgd-ce",))
#: Images that AutoAttack is made on: a thousand steps each, unless it succeeds.
AUTOATTACK_IMAGES = 30
#: What `measure` adds to `bench.robustness`.
ATTACKED = ("pgd20_eps4_top1", "autoattack_after_apgd_t")


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """What `bench.robustness` measures, and accuracy under attacks of many steps."""
    tests, classifier = bench.test_set(quick), bench.normalised(model, recipe)
    images, labels = tests.clean[0], tests.labels[0]
    few = 1 if quick else AUTOATTACK_IMAGES
    return {
        **bench.robustness(model, recipe, quick),
        "pgd20_eps4_top1": bench.correct_under_attack(classifier, PGD, images, labels),
        "autoattack_after_apgd_t": bench.correct_under_attack(
            classifier, QUICK_AUTOATTACK if quick else AUTOATTACK, images[:few], labels[:few]
        ),
    }


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
