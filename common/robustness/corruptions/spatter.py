"""Spatter: drops of water or splashes of mud."""

from __future__ import annotations

import torch
from torch import Tensor

from . import filters
from .draws import Draws
from .filters import to_bytes
from .parameters import Parameters
from .relief import relief

WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)


def spatter(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Water (severities 1 to 3) or mud (4 and 5). Draw: ``layer_normal`` (H, W), standard normal."""
    layer = draws.normal("layer_normal", *x.shape[-2:], mean=p["mean"], std=p["std"])
    layer = filters.gaussian(layer, p["sigma"])
    if p["mud"]:
        cover = filters.gaussian((layer > p["threshold"]).float(), p["strength"])[:, None]
        cover *= cover >= 0.8
        colour = torch.tensor(MUD, device=x.device).view(1, 3, 1, 1) * 255
        return to_bytes((colour - x).mul_(cover).add_(x))
    wet = layer >= p["threshold"]
    levels = layer.mul_(255).mul_(wet).clamp_(0, 255).floor_()
    lit = levels * relief(levels)
    strongest = lit.amax((1, 2), keepdim=True)
    cover = lit / strongest.clamp(min=1e-9) * p["strength"]
    image = x.float()
    for channel, level in zip(image.unbind(1), WATER, strict=True):
        channel.add_(cover, alpha=255 * level)
    return to_bytes(image)
