"""Names of Sequencer's released files: the network itself is timm's.

Tatsunami and Taki, "Sequencer: Deep LSTM for Image Classification", NeurIPS 2022, arXiv 2205.01972. In the release a
stage ends with the downsampling to the next, in timm a stage begins with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_DOWNSAMPLE = re.compile(r"blocks\.(\d+)\.\d+\.down\.")
_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.")
_OUR_DOWNSAMPLE = re.compile(r"stages\.(\d+)\.downsample\.down\.")
_OUR_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Released names to timm's; names of timm stay."""
    return {_ours(name): value for name, value in state_dict.items()}


def _ours(name: str) -> str:
    if name.startswith("head.") and not name.startswith("head.fc."):
        return f"head.fc.{name.removeprefix('head.')}"
    if name.startswith("blocks."):
        name = _DOWNSAMPLE.sub(lambda match: f"stages.{int(match[1]) + 1}.downsample.down.", name)
        name = _BLOCK.sub(r"stages.\1.blocks.\2.", name)
    return name


def released_state_dict(state_dict: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Names of timm to released ones; the inverse of :func:`checkpoint_filter_fn`."""
    depths = [len(stage.blocks) for stage in model.stages]

    def released(name: str) -> str:
        name = _OUR_DOWNSAMPLE.sub(lambda match: f"blocks.{int(match[1]) - 1}.{depths[int(match[1]) - 1]}.down.", name)
        name = _OUR_BLOCK.sub(r"blocks.\1.\2.", name)
        return re.sub(r"^head\.fc\.", "head.", name)

    return {released(name): value for name, value in state_dict.items()}
