"""The networks that were released with the paper: timm's, with the preprocessing that they were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from timm.models.vgg import _filter_fn as names_of_timm
from torch import Tensor, nn

from common.errors import UserError, nearest

#: How images are evaluated: resized to 256, cropped to 224 (texture-vs-shape, README.md).
EVALUATION: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "test_input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "test_crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
#: One row a network: timm's architecture.
VARIANTS = {"resnet50_stylized": "resnet50"}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a network of :data:`VARIANTS`; keyword arguments are those of timm's.

    Raises:
        UserError: there is no such network, or ``pretrained`` is set: pass the released file as ``--checkpoint``.
    """
    if name not in VARIANTS:
        raise UserError(f"Stylized-ImageNet has no network {name!r}.{nearest(name, VARIANTS)}")
    if pretrained:
        raise UserError(f"{name} is created without weights; load the released file with --checkpoint FILE.")
    for unused in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # timm's, for weights that it fetches
        kwargs.pop(unused, None)
    return timm.create_model(VARIANTS[name], pretrained_cfg_overlay=EVALUATION, **kwargs)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Names of the released VGG-16, whose feature layers alone were spread over GPUs, to timm's."""
    return names_of_timm({name.replace("features.module.", "features."): t for name, t in state_dict.items()})
