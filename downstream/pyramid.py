"""The simple feature pyramid, which makes detectors and segmenters of plain (columnar) backbones.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet), ECCV 2022, arXiv 2203.16527,
section 3: every level is made from the backbone's last map alone, by deconvolutions towards finer and by pooling
towards coarser strides, followed by a 1x1 and a 3x3 convolution with layer norm. A backbone with maps of several
strides (RVT-Ti: 16 and 32; FAN-Hybrid: 4, 8 and 16) is served by the same rule: each level is made from the map whose
stride is nearest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from common.errors import UserError


def _rescale(channels: int, power: int) -> tuple[nn.Module, int]:
    """Layers that scale a map by ``2**power``, and the channels that they give; ViTDet's own for 4, 2, 1 and 1/2."""
    layers: list[nn.Module] = []
    if power < 0:
        return nn.MaxPool2d(2**-power), channels
    for step in range(power):
        if step:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    return nn.Sequential(*layers), channels


@MODELS.register_module()
class SimplePyramid(BaseModule):
    """A neck for mmdet and mmseg: maps (B, C_i, H / s_i, W / s_i) to levels (B, out_channels, H / t_j, W / t_j).

    Args:
        in_channels: C_i of the backbone's maps.
        in_strides: s_i, rising powers of two.
        out_strides: t_j, powers of two.
        out_channels: channels of every level.
        num_outs: number of levels; those beyond ``out_strides`` halve the last one by subsampling, as ViTDet's fifth.

    Raises:
        UserError: the lists do not fit.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        out_strides: Sequence[int] = (4, 8, 16, 32),
        out_channels: int = 256,
        num_outs: int = 5,
    ) -> None:
        super().__init__()
        if len(in_channels) != len(in_strides) or not in_channels:
            raise UserError(
                f"SimplePyramid needs one stride a map and has in_channels {list(in_channels)} and in_strides "
                f"{list(in_strides)}; give as many of both."
            )
        if num_outs < len(out_strides):
            raise UserError(f"num_outs is {num_outs}, fewer than the out_strides {list(out_strides)}; raise it.")
        self.in_channels, self.num_outs = tuple(in_channels), num_outs
        self.sources: list[int] = []
        self.levels = nn.ModuleList()
        for stride in out_strides:
            powers = [math.log2(own / stride) for own in in_strides]
            if any(power != round(power) for power in powers):
                raise UserError(f"out_strides has {stride}, whose ratio to {list(in_strides)} is no power of two.")
            # Of two maps as near, the later is the deeper one.
            source = min(range(len(powers)), key=lambda index: (abs(powers[index]), -index))
            scale, channels = _rescale(in_channels[source], round(powers[source]))
            self.sources.append(source)
            self.levels.append(
                nn.Sequential(
                    scale,
                    nn.Conv2d(channels, out_channels, 1, bias=False),
                    LayerNorm2d(out_channels),
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    LayerNorm2d(out_channels),
                )
            )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels of the pyramid, finest first."""
        levels = [level(maps[source]) for source, level in zip(self.sources, self.levels, strict=True)]
        while len(levels) < self.num_outs:
            levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        return tuple(levels)
