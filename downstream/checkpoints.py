"""Loading weights into detectors and segmenters: strictly, by the names of the released classifiers.

Released detectors and segmenters keep the backbone under ``backbone.`` with the names that its classifier was released
with. The same conversion serves both: the one beside the class of the model (timm's, or the paper's).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from common.checkpoints import from_released, load_strictly, read, take_form, unwrap
from downstream.backbone import TimmFeatures, find_backbones

#: What the adapter adds to a model, named as in the released detectors.
_OF_ADAPTER = re.compile(r"(norm\d+|learnable_downsample)\.")


def load_finetuned(model: nn.Module, source: str | Path | Mapping[str, Any]) -> None:
    """Load a whole detector or segmenter, released or of our own training.

    Args:
        model: built from the config that the weights fit.
        source: the file, or its content.

    Raises:
        UserError: names the first tensor that is missing, unexpected or of another shape; the model is unchanged then.
    """
    inner: Any = model.module if is_model_wrapper(model) else model
    where = str(source) if isinstance(source, (str, Path)) else "The state dict"
    content = source if isinstance(source, Mapping) else read(source)
    state = unwrap(content)
    for prefix, backbone in find_backbones(inner).items():
        if not any(name.startswith(f"{prefix}.model.") for name in state):
            state = _under_our_names(state, prefix, backbone)
            take_form(backbone.model, content)
    for prefix in ("decode_head", "auxiliary_head"):
        state = _head_under_our_names(state, prefix, getattr(inner, prefix, None))
    if content.get("meta", {}).get("form") == "released":
        for backbone in find_backbones(inner).values():
            take_form(backbone.model, {})
    load_strictly(inner, state, where)


def _under_our_names(state: Mapping[str, Tensor], prefix: str, backbone: TimmFeatures) -> dict[str, Tensor]:
    released, renamed = {}, {}
    for name, value in state.items():
        own = name.removeprefix(f"{prefix}.")
        if own == name or _OF_ADAPTER.match(own):
            renamed[name] = value
        else:
            released[own] = value
    for name, value in from_released(released, backbone.model).items():
        renamed[f"{prefix}.model.{name}"] = value
    return renamed


def _head_under_our_names(state: Mapping[str, Tensor], prefix: str, head: nn.Module | None) -> dict[str, Tensor]:
    """Convert a head of our own by the function beside its class; heads of OpenMMLab have their names since ever."""
    if head is None or not type(head).__module__.startswith("downstream."):
        return dict(state)
    own = {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}
    rest = {name: value for name, value in state.items() if not name.startswith(f"{prefix}.")}
    return {**rest, **{f"{prefix}.{name}": value for name, value in from_released(own, head).items()}}
