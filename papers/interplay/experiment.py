"""The embedded experiment: the small networks of the way, and what is measured of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from common import bench
from common.robustness.attacks import AutoAttack, Pgd
from common.training.recipe import Recipe
from papers.interplay.model import STEPS, Network, designs

#: Threat models that are not trained against, in pixel units over three equal channels of 28 x 28 pixels.
L2 = Pgd(epsilon=0.5, step=0.1, steps=20, norm="l2", random_start=True)
L1 = AutoAttack(epsilon=6.0, norm="l1", attacks=("apgd-ce",))
#: Images that attacks of hundreds of steps are made on: AutoAttack's, and that in l_1.
AUTOATTACK_IMAGES, L1_IMAGES = 20, 30
#: What is measured under attack: as is trained against, and in other norms.
SEEN, AUTOATTACKED = bench.LONG_ATTACKS
UNSEEN = ("pgd20_l2_top1", "apgd_l1_top1")


def chain_mini(step: str) -> nn.Module:
    """A small network of the way: 14x14 places, then 7x7; one block, then two.

    Scales of blocks start at 1: from 1e-6, as at full size, they would not grow in so few steps. Everything else starts
    as PyTorch has it.
    """
    return _channels_last(Network(designs()[step], 16, (1, 2), 2, layer_scale=1.0, num_classes=bench.hosts.CLASSES))


def isotropic_mini() -> nn.Module:
    """The last network of the way with all blocks at 7x7 places."""
    last = designs()["convnext"]
    return _channels_last(Network(last, 32, (3,), 4, layer_scale=1.0, num_classes=bench.hosts.CLASSES))


def _channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU


#: Makers of the networks, by name.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{step: partial(chain_mini, step) for step in STEPS},
    "isotropic": isotropic_mini,
}


def measure(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """Accuracy on clean images and under attacks, of the kind that is trained against and of others."""
    tests, classifier = bench.test_set(quick), bench.normalised(model, recipe)
    images, labels = tests.clean[0], tests.labels[0]
    of_l2, of_l1 = (1, 1) if quick else (len(images), L1_IMAGES)
    return {
        "top1": bench.correct(classifier, tests.clean, tests.labels),
        **bench.under_long_attacks(classifier, quick, AUTOATTACK_IMAGES),
        UNSEEN[0]: bench.correct_under_attack(classifier, L2, images[:of_l2], labels[:of_l2]),
        UNSEEN[1]: bench.correct_under_attack(classifier, L1, images[:of_l1], labels[:of_l1]),
    }
