"""The networks that PRIME was trained with: timm's ResNets, and one with a stem for CIFAR."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from torch import nn

from common.cifar_networks import ResNet, create_variant, without_weights

#: How images are evaluated with the released networks for CIFAR; its statistics are those of CIFAR-10.
CIFAR = {
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2471, 0.2435, 0.2616),
}
#: The same for ImageNet: resized to 256, cropped to 224.
IMAGENET = {
    "input_size": (3, 224, 224),
    "test_input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "test_crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
#: timm's names of the networks for ImageNet, and for its subset of 100 classes.
TIMM = {"resnet50_prime": "resnet50", "resnet18_prime": "resnet18"}
VARIANTS = {"resnet18_prime_cifar": partial(ResNet, layers=(2, 2, 2, 2))}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a network by its name.

    Args:
        name: a key of ``TIMM``, built by timm with the release's preprocessing, or of ``VARIANTS``.
        pretrained: must be False; weights are loaded with ``common.checkpoints.load_released``.
        kwargs: whatever timm's network takes; see `common.cifar_networks.create_variant` for the others.

    Raises:
        UserError: the name is unknown, or pretrained weights are asked for.
    """
    if name in TIMM:
        kwargs = without_weights(name, pretrained, kwargs)
        return timm.create_model(TIMM[name], pretrained_cfg_overlay=IMAGENET, **kwargs)
    return create_variant(name, VARIANTS, CIFAR, pretrained, **kwargs)
