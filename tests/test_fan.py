"""FAN: parity with the released implementation, behaviour as a timm model, maps."""

from __future__ import annotations

import json
import math
import re
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import papers.fan.model as fan
from common.checkpoints import load_released, released_names, to_released
from common.errors import UserError
from papers.fan import layers, swin

FIXTURES = Path(__file__).parent / "parity" / "fan"
RECORDED = sorted(path.stem for path in FIXTURES.glob("*.json"))
VARIANTS = [*fan.VARIANTS, *swin.VARIANTS]
#: One small model of each of the three kinds.
SMALL = {
    "vit": ("fan_tiny_12_p16_224", {"embed_dim": 32, "depth": 2, "num_heads": 2}),
    "hybrid": (
        "fan_Xlarge_16_p4_hybrid",
        {"embed_dim": (32, 48), "depth": (2, 1), "num_heads": (2, 3), "stem_depths": (1, 1)},
    ),
    "swin": ("fan_swin_tiny_patch4_window7_224", {"embed_dim": 24, "depths": (2, 1, 2, 1), "num_heads": (1, 2, 2, 4)}),
}


def small(kind: str, **kwargs: object) -> nn.Module:
    name, sizes = SMALL[kind]
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 7, "img_size": 64, **sizes, **kwargs})


def images(batch: int = 2, size: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(seed))
    return np.asarray(generator.standard_normal(shape, dtype=np.float32))


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """The values that a tensor had when the fixtures were recorded."""
    values = normal(shape, zlib.crc32(name.encode()))
    if len(shape) > 1:
        values = values / np.float32(math.sqrt(max(1, math.prod(shape[1:]))))
    elif name.endswith("running_var"):
        values = np.abs(1 + np.float32(0.1) * values)
    elif name.endswith("weight") or "gamma" in name:
        values = 1 + np.float32(0.1) * values
    else:
        values = np.float32(0.02) * values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


@lru_cache(maxsize=1)
def recorded(variant: str) -> tuple[dict, dict[str, np.ndarray]]:
    record = json.loads((FIXTURES / f"{variant}.json").read_text())
    with np.load(FIXTURES / f"{variant}.npz") as arrays:
        return record, dict(arrays)


@lru_cache(maxsize=1)
def released(variant: str) -> nn.Module:
    """The variant with the fixture's weights, loaded as a released checkpoint."""
    record, _ = recorded(variant)
    state = {name: filled(name, tuple(shape)) for name, shape in record["state"].items() if "attn_mask" not in name}
    return load_released(timm.create_model(variant), {"state_dict": state}).eval()


def off(ours: Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.detach().numpy() - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("variant", RECORDED)
def test_outputs_and_gradients_are_the_released_ones(variant: str) -> None:
    record, arrays = recorded(variant)
    model = released(variant)
    assert sum(p.numel() for p in model.parameters()) == record["params"]
    for key in (key for key in arrays if key.startswith("logits")):
        size = int(key.removeprefix("logits").lstrip("_") or record["image_size"])
        logits = model(torch.from_numpy(normal((2, 3, size, size), seed=0)))
        assert off(logits, arrays[key]) < 1e-4, key
        if key == "logits":
            (logits * torch.from_numpy(normal((1, 1, 2, 1000), seed=7))[0, 0]).sum().backward()

    names = released_names(model)
    norms = {names[name]: float(p.grad.norm()) for name, p in model.named_parameters()}
    ours = np.array([norms[name] for name in record["grad_names"]])
    # Biases that a softmax cancels have a gradient of zero, hence the absolute tolerance.
    np.testing.assert_allclose(ours, arrays["grad_norms"], rtol=1e-3, atol=1e-5 * arrays["grad_norms"].max())


@pytest.mark.parametrize("variant", RECORDED)
def test_released_names_round_trip_strictly(variant: str) -> None:
    record, _ = recorded(variant)
    state = to_released(released(variant))
    derived = ("relative_position_index", "attn_mask", "num_batches_tracked")
    expected = {name: tuple(shape) for name, shape in record["state"].items() if not name.endswith(derived)}
    assert {n: tuple(v.shape) for n, v in state.items() if not n.endswith(derived)} == expected

    name = next(iter(state))
    with pytest.raises(UserError, match=re.escape(name)):
        load_released(timm.create_model(variant), {n: v for n, v in state.items() if n != name})
    with pytest.raises(UserError, match="surplus"):
        load_released(timm.create_model(variant), {**state, "surplus": torch.zeros(1)})
