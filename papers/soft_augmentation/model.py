"""The networks that Soft Augmentation trains on CIFAR; at larger images it has timm's.

The released code has a PyramidNet-272 as well, which is not here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from common.cifar_networks import ResNet, WideResNet, create_variant

#: Of CIFAR-100's training images, as the released code has them (cifar/conf/global_settings.py).
PREPROCESSING = {
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    "std": (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
}
VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "resnet18_softaug_cifar": partial(ResNet, layers=(2, 2, 2, 2)),
    "resnet50_softaug_cifar": partial(ResNet, layers=(3, 4, 6, 3), bottleneck=True),
    "resnet101_softaug_cifar": partial(ResNet, layers=(3, 4, 23, 3), bottleneck=True),
    "wideresnet28_10_softaug_cifar": partial(WideResNet, depth=28, widen=10),
    "wideresnet28_4_softaug_cifar": partial(WideResNet, depth=28, widen=4),  # of a third party's trainings
}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a network by its name, a key of ``VARIANTS``; see `common.cifar_networks.create_variant`."""
    return create_variant(name, VARIANTS, PREPROCESSING, pretrained, **kwargs)
