"""Parity fixtures: what released implementations compute, and the weights and images that they computed it with.

A fixture is ``<folder>/<name>.json`` and ``<name>.npz`` beside this file. The released model was built, every
floating-point tensor of its state dict was replaced by :func:`fill` of the tensor's name and shape, and outputs and
gradient norms were recorded in eval mode on the CPU. Where there is a GPU, it has to give the same.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent
#: Float32 rounding: allowed difference over the largest recorded magnitude.
OUTPUT_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
#: Where parity is tested.
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of a released tensor: standard normal, seeded by its name, scaled by what the name says it is."""
    generator = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    value = generator.standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
        value = value / math.sqrt(math.prod(shape[1:]))
    elif name.endswith("running_var"):
        value = np.abs(1 + 0.1 * value)
    elif name.endswith("weight") or "gamma" in name:
        value = 1 + 0.1 * value
    else:
        value = 0.02 * value
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def images(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Standard normal images (batch, channels, height, width)."""
    generator = np.random.Generator(np.random.Philox(seed))
    return torch.from_numpy(generator.standard_normal((batch, channels, height, width), dtype=np.float32))


def distance(ours: Tensor | np.ndarray, recorded: np.ndarray) -> float:
    """``max |ours - recorded| / max |recorded|``; the absolute difference where everything recorded is zero."""
    ours = ours.detach().cpu().numpy() if isinstance(ours, Tensor) else ours
    assert ours.shape == recorded.shape
    return float(np.abs(ours - recorded).max() / (np.abs(recorded).max() or 1.0))


@dataclass(frozen=True)
class Fixture:
    """A recorded model: its description, its arrays, its released state dict."""

    about: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def load(cls, folder: str, name: str) -> Fixture:
        path = FOLDER / folder / name
        with np.load(path.with_suffix(".npz")) as arrays:
            return cls(json.loads(path.with_suffix(".json").read_text()), dict(arrays))

    def state(self, adjust: Callable[[str, Tensor], Tensor | None] = lambda name, value: value) -> dict[str, Tensor]:
        """The released state dict without counters; ``adjust`` may change a tensor or leave it out (None)."""
        filled = {name: adjust(name, fill(name, tuple(shape))) for name, shape in self.about["state"].items()}
        return {name: value for name, value in filled.items() if value is not None and name not in self.counters}

    @property
    def counters(self) -> list[str]:
        """Integer tensors of the released state dict."""
        return self.about["integer_state"]


def gradient_distance(model: nn.Module, names: dict[str, str], fixture: Fixture) -> float:
    """Distance of the gradient norms of ``model``; ``names`` gives the released name of each parameter.

    Every parameter that has a recorded gradient must have one here, and no other.
    """
    norms = {names[name]: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    assert set(norms) == set(fixture.about["grad_names"])
    ours = np.array([norms[name] for name in fixture.about["grad_names"]], dtype=np.float32)
    return distance(ours, fixture.arrays["grad_norms"])
