"""A residual network that sees local features alone, as the paper's BagNets do."""

from __future__ import annotations

import torch
from torch import nn

from common import bench
from common.bench.hosts import Residual, ResNet

#: Pixels on a side of what a place of the last feature map depends on; `hosts.resnet_mini` has 23 of 28.
RECEPTIVE_FIELD = 11


def bagnet_mini() -> ResNet:
    """`hosts.resnet_mini` with a 1x1 convolution in place of the second 3x3 one of each block.

    As in BagNets (Brendel and Bethge, ICLR 2019), predictions are a mean over places that see a small part of the image
    each, so that no place can take in a shape.
    """
    model = bench.hosts.resnet_mini()
    for block in model.stages:
        assert isinstance(block, Residual)
        second = block.body[3]
        assert isinstance(second, nn.Conv2d)
        block.body[3] = nn.Conv2d(second.in_channels, second.out_channels, 1, bias=False)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
