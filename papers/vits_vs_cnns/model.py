"""The networks that the paper compares, which are timm's, as it names, sizes and evaluates them.

Bai et al., "Are Transformers More Robust Than CNNs?", NeurIPS 2021, arXiv 2111.05464. Those that are trained
adversarially take images in [-1, 1], and one of them has GELU in place of ReLU.

The release trains its residual networks with ghost batch norm: a layer has running statistics of every group of 64
images of a pass, and in adversarial training a bank of those for each of the passes that make up a step. It evaluates
by the first group of the first bank, with which a released file becomes a network of plain batch norm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from common.cifar_networks import without_weights
from common.errors import UserError, nearest

#: How images are evaluated: resized to 256, cropped to 224.
_EVALUATION: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "test_input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "test_crop_pct": 0.875,
    "interpolation": "bilinear",
}
_PLAIN = {**_EVALUATION, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_ADVERSARIAL = {**_EVALUATION, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

#: Name, timm's architecture, what differs from it, how images are evaluated.
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "deit_mini_patch16_224": ("deit_small_patch16_224", {"embed_dim": 256, "num_heads": 4}, _PLAIN),
    "deit_small_patch16_224_adv": ("deit_small_patch16_224", {}, _ADVERSARIAL),
    "resnet50_adv": ("resnet50", {}, _ADVERSARIAL),
    "resnet50_gelu_adv": ("resnet50", {"act_layer": "gelu"}, _ADVERSARIAL),
}

#: Weight and bias after a bank of norms, in released files a convolution of a group for each channel.
_AFFINE = ".aff.bnconv."
_STATISTICS = ".proxy_bn."


def create(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a network of ``VARIANTS``; keyword arguments are those of timm's architecture.

    Raises:
        UserError: there is no such network, or ``pretrained`` is set: pass the released file as ``--checkpoint``.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no network {name!r}.{nearest(name, VARIANTS)}")
    architecture, changes, evaluation = VARIANTS[name]
    kwargs = without_weights(name, pretrained, kwargs)
    return timm.create_model(architecture, pretrained_cfg_overlay=evaluation, **{**changes, **kwargs})


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Released files of residual networks with ghost batch norm to plain batch norm; others stay as they are."""
    banks = {name.partition(_AFFINE)[0] for name in state_dict if _AFFINE in name}
    plain = {}
    for name, value in state_dict.items():
        banked = re.fullmatch(r"(.+)\.bn(\d)(\.proxy_bn\..+)", name)
        if banked and banked[1] in banks:
            if banked[2] != "0":
                continue
            name = banked[1] + banked[3]
        plain[name.replace(_AFFINE, ".")] = value.flatten() if _AFFINE in name else value
    for name in [name for name in plain if _STATISTICS in name]:
        value, norm = plain.pop(name), name.partition(_STATISTICS)[0]
        channels = len(plain.get(f"{norm}.weight", ()))
        whole_groups = value.ndim == 1 and channels and len(value) % channels == 0
        # Of any other length it is of another network, as strict loading tells.
        plain[name.replace(_STATISTICS, ".")] = value[:channels] if whole_groups else value
    return plain
