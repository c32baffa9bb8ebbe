"""The network that was released with the paper: timm's ResNet-50, with the preprocessing that it was trained with."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from common.errors import UserError

#: How images are evaluated: resized to 256, cropped to 224 (eval.py).
EVALUATION: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "test_input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "test_crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build ``resnet50_deepaugment``; keyword arguments are those of timm's ``resnet50``.

    Raises:
        UserError: another name, or ``pretrained`` is set: pass the released file as ``--checkpoint``.
    """
    if name != "resnet50_deepaugment":
        raise UserError(f"The Many Faces of Robustness has no network {name!r}; there is resnet50_deepaugment.")
    if pretrained:
        raise UserError(f"{name} is created without weights; load the released file with --checkpoint FILE.")
    for unused in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # timm's, for weights that it fetches
        kwargs.pop(unused, None)
    return timm.create_model("resnet50", pretrained_cfg_overlay=EVALUATION, **kwargs)
