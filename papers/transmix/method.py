"""TransMix: the label of a mixed image follows the attention that falls on each of its two parts.

Chen et al., "TransMix: Attend to Mix for Vision Transformers", CVPR 2022, arXiv 2111.09833. Figure 1: the label's
share of an image is the sum of the class token's attention over its part. Section 4.1: in the experiments, the share
is the mean of this and of CutMix's, the area. Checked against github.com/Beckschen/TransMix @0e4d31e (transmix.py).

Notation: the partner B is pasted into A where the mask is 1. Shares are B's, 1 - lambda in CutMix's notation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.training.mixing import Mixed


def attention_share(mask: Tensor, attention: Tensor) -> Tensor:
    """The share of the attention that falls on the partner.

    Args:
        mask: (B, H, W), share of the partner in each pixel, in [0, 1]; sampled at the patches, to the nearest pixel.
        attention: (B, rows, columns), not negative; each map is divided by its sum, and one of zeros counts as even.

    Returns:
        (B,), in [0, 1]. A mask that is the same everywhere (mixup) gives that share, whatever the attention.
    """
    at_patches = F.interpolate(mask[:, None], size=attention.shape[1:], mode="nearest")[:, 0]
    total = attention.sum(dim=(1, 2))
    # VARS-S gives zeros where no code is active; an undefined label would end the training.
    return torch.where(total > 0, (at_patches * attention).sum(dim=(1, 2)) / total, at_patches.mean(dim=(1, 2)))


def mix_labels(mixed: Mixed, attention: Tensor, area_share: float = 0.5) -> Tensor:
    """Targets (B, classes) of a mixed batch.

    Args:
        mixed: labels of both images, and the mask.
        attention: (B, rows, columns) of the mixed images, not negative.
        area_share: weight of CutMix's share, the area, against that of the attention, in [0, 1].
    """
    share = torch.lerp(attention_share(mixed.mask, attention), mixed.share.float(), area_share)
    return mixed.labels(share)
