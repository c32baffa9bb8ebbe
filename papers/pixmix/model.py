"""The networks that PixMix was trained with: a Wide ResNet-40-4 for CIFAR, and timm's ResNet-50."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from torch import nn

from common.cifar_networks import WideResNet, create_variant, without_weights

#: How images of CIFAR are evaluated with the released networks.
CIFAR = {
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
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
VARIANTS = {"wideresnet40_4_cifar": partial(WideResNet, depth=40, widen=4)}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a network by its name.

    Args:
        name: ``resnet50_pixmix``, built by timm with the release's preprocessing, or a key of ``VARIANTS``.
        pretrained: must be False; weights are loaded with ``common.checkpoints.load_released``.
        kwargs: whatever timm's network takes; see `common.cifar_networks.create_variant` for the others.

    Raises:
        UserError: the name is unknown, or pretrained weights are asked for.
    """
    if name == "resnet50_pixmix":
        kwargs = without_weights(name, pretrained, kwargs)
        return timm.create_model("resnet50", pretrained_cfg_overlay=IMAGENET, **kwargs)
    return create_variant(name, VARIANTS, CIFAR, pretrained, **kwargs)
