"""What the Python of a README takes for granted.

``readme.py`` beside a paper's tests has ``SNIPPETS``: by the number of the block of Python in the paper's README what
is there before it runs. A block that it does not name is compiled only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Snippet:
    """Makes the names that a block uses; ``files`` are checkpoints of models with random weights: (file, model)."""

    names: Callable[[], dict[str, object]] = dict
    files: tuple[tuple[str, str], ...] = ()


def images(count: int = 2, side: int = 224) -> dict[str, object]:
    """``images``, (count, 3, side, side), in [0, 1]."""
    return {"images": torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))}
