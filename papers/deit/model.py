"""How released files are taken into the networks of DeiT and DeiT III, which are timm's.

DeiT III's networks (Touvron et al., arXiv 2204.07118) are vision transformers whose residual branches are scaled by a
learned vector each (LayerScale), and whose class token has no position. The release calls the vectors ``gamma_1`` and
``gamma_2`` of a block, timm ``ls1.gamma`` and ``ls2.gamma``. All other names are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from timm.models import vision_transformer
from torch import Tensor


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Released names to timm's; names of timm stay.

    Positions of another image size are resized bicubically as released, that is without timm's smoothing.
    """
    return vision_transformer.checkpoint_filter_fn(dict(state_dict), model, adapt_layer_scale=True, antialias=False)


def released_state_dict(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Names of timm to released ones; the inverse of :func:`checkpoint_filter_fn`."""
    return {re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", name): value for name, value in state_dict.items()}
