"""Attacks of many steps on the bench's test images, for networks that are trained adversarially.

Three steps, as `bench.robustness` has them, say little of such a network, whose loss they hardly raise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from common.bench.images import test_set
from common.bench.measures import correct_under_attack
from common.robustness.attacks import AutoAttack, Pgd

#: PGD as adversarially trained networks are mostly measured by it, of 20 steps.
PGD = Pgd(epsilon=4 / 255, step=1 / 255, steps=20, random_start=True)
#: AutoAttack's first two attacks, the ones that follow gradients uphill. Logs that were released with a comparison of
#: robust networks (Bai et al., arXiv 2111.05464) have what the other two take beyond them: 0.01 points.
AUTOATTACK = AutoAttack(epsilon=4 / 255, attacks=("apgd-ce", "apgd-t"))
#: Its first alone, of a hundred steps, for quick runs.
QUICK_AUTOATTACK = replace(AUTOATTACK, attacks=("apgd-ce",))
#: What `under_long_attacks` measures.
LONG_ATTACKS = ("pgd20_eps4_top1", "autoattack_after_apgd_t")


def under_long_attacks(classifier: nn.Module, quick: bool, autoattack_images: int) -> dict[str, np.ndarray]:
    """The metrics of `LONG_ATTACKS`.

    Args:
        classifier: images (B, 3, 28, 28) in [0, 1] to logits.
        quick: whether the run is.
        autoattack_images: that AutoAttack is made on: a thousand steps each, where none succeeds.
    """
    tests = test_set(quick)
    images, labels = tests.clean[0], tests.labels[0]
    few = 1 if quick else autoattack_images
    ensemble = QUICK_AUTOATTACK if quick else AUTOATTACK
    return {
        "pgd20_eps4_top1": correct_under_attack(classifier, PGD, images, labels),
        "autoattack_after_apgd_t": correct_under_attack(classifier, ensemble, images[:few], labels[:few]),
    }
