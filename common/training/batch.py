"""One forward pass of the training loop: what hooks change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from common.training.mixing import Mixed


@dataclass
class Batch:
    """One forward pass of the training loop; hooks change it in place."""

    images: Tensor  # (B, C, H, W), normalised; mixed where the recipe mixes; (B, views, C, H, W) of several views
    labels: Tensor  # (B,), class indices before mixing
    targets: Tensor  # (B,) class indices, or (B, classes) probabilities after mixing
    mixed: Mixed | None = None  # what was mixed with what, where the recipe mixes
    outputs: Any = None  # what the model returned
    logits: Any = None  # (B, classes); the first element of ``outputs`` where that is a tuple
