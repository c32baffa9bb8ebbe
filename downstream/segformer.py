"""The all-MLP head of SegFormer, with which FAN is measured on Cityscapes.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021, arXiv
2105.15203, section 3.2: a linear map of every level to one width, bilinear upsampling to the finest level, a linear map
of all of them together, and a linear classifier. mmseg's head of this name has a batch norm and a ReLU after the first
maps, and does not fit released weights; names here are the released ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn


class _Linear(nn.Module):
    """A linear map of the channels of a map: (B, C, H, W) -> (B, width, H, W)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class AllMLPHead(BaseDecodeHead):
    """Four maps (B, C_i, H_i, W_i) to logits (B, num_classes, H_1, W_1).

    Args:
        in_channels: C_i.
        width: channels of every level and of the fused map.
        **kwargs: of mmseg's ``BaseDecodeHead``.
    """

    def __init__(self, in_channels: Sequence[int], width: int = 768, **kwargs: Any) -> None:
        kwargs.setdefault("in_index", list(range(len(in_channels))))
        super().__init__(in_channels, channels=width, input_transform="multiple_select", **kwargs)
        for level, channels in enumerate(in_channels, start=1):
            self.add_module(f"linear_c{level}", _Linear(channels, width))
        self.linear_fuse = ConvModule(len(in_channels) * width, width, 1, norm_cfg=self.norm_cfg)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits at the finest map's resolution."""
        maps = self._transform_inputs(inputs)
        size = maps[0].shape[-2:]
        levels = [
            F.interpolate(getattr(self, f"linear_c{level}")(each), size, mode="bilinear", align_corners=False)
            for level, each in enumerate(maps, start=1)
        ]
        return self.cls_seg(self.linear_fuse(torch.cat(levels[::-1], dim=1)))


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], head: nn.Module) -> dict[str, Tensor]:
    """Released names to ours. The classifier is ``linear_pred`` there, beside an unused ``conv_seg``."""
    if "linear_pred.weight" not in state_dict:
        return dict(state_dict)
    used = {name: value for name, value in state_dict.items() if not name.startswith("conv_seg.")}
    return {name.replace("linear_pred.", "conv_seg."): value for name, value in used.items()}
