"""The models give the released implementation's outputs, gradients and dynamics to float32 rounding."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.checkpoints import load_released
from papers.rvt.layers import TokenBatchNorm, TokenMlp
from papers.rvt.model import Block
from papers.vars import fast
from papers.vars.dynamic import VARSDynamic, VARSStaticDynamic
from papers.vars.model import checkpoint_filter_fn
from papers.vars.static import VARSStatic
from tests.parity import OUTPUT_TOLERANCE, Fixture, check_gradients, check_model, distance, fill, images

MODELS = {
    "rvt_tiny_perf": "performer_rvt_tiny",
    "rvt_tiny_perf_unit": "performer_rvt_tiny",
    "rvt_tiny_vars_d": "vars_d_rvt_tiny",
    "rvt_tiny_vars_d_unit": "vars_d_rvt_tiny",
    "rvt_tiny_vars_sd": "vars_sd_rvt_tiny",
    "rvt_tiny_vars_sd_unit": "vars_sd_rvt_tiny",
    "rvt_tiny_vars_s": "vars_s_rvt_tiny",
    "rvt_tiny_vars_s_normk": "vars_s_rvt_tiny",
}


def variation(variant: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """How the weights of a fixture differ from the plain fill, as its ``derived`` describes."""

    def unit(value: Tensor) -> Tensor:
        return value * math.sqrt(math.prod(value.shape[1:]))

    def normalised(kernel: Tensor) -> Tensor:
        return kernel / (kernel.square().sum(dim=(2, 3, 4, 5), keepdim=True) * 2 / kernel.shape[3] ** 2).sqrt()

    if variant.endswith("_normk"):
        return {"*kernel": normalised}
    if not variant.endswith("_unit"):
        return {}
    changed = {"*rand_matrix": unit}
    if "perf" not in variant:
        changed["*learned_k"] = lambda value: torch.eye(len(value)) + 0.1 * value
    if variant == "rvt_tiny_vars_sd_unit":
        changed["*.attn.kernel"] = unit
    return changed


@pytest.mark.parametrize("variant", MODELS)
def test_model_matches_the_release(variant: str) -> None:
    check_model("vars", variant, MODELS[variant], vary=variation(variant))


def tokens(seed: int = 0) -> Tensor:
    return images(1, 2, 196, 192, seed)[0]


def norms(module: nn.Module) -> dict[str, float]:
    """Of the gradients of every parameter that has one."""
    return {name: p.grad.norm().item() for name, p in module.named_parameters() if p.grad is not None}


def settings(key: str) -> tuple[float, int]:
    """Sparsity and steps of an array called ``output_lam<sparsity>_step<steps>``."""
    sparsity, steps = key.removeprefix("output_lam").split("_step")
    return float(sparsity), int(steps)


@pytest.fixture(params=["1", "0"], ids=["fast", "definition"])
def _forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the fast forms and by the equations."""
    monkeypatch.setenv(fast.SWITCH, request.param)


@pytest.mark.usefixtures("_forms")
@pytest.mark.parametrize("variant", ["block_vars_d", "block_vars_d_unit", "block_vars_sd", "block_vars_sd_unit"])
def test_dynamic_attention_matches_the_release_at_every_step(variant: str) -> None:
    fixture = Fixture.load("vars", variant)
    attention_cls = VARSStaticDynamic if "_sd" in variant else VARSDynamic
    attention = attention_cls(192, num_heads=6, qkv_bias=True, grid=(14, 14)).eval()
    load_released(attention, fixture.state(variation(variant)))
    for key, recorded in fixture.arrays.items():
        if key.startswith("output"):
            attention.sparsity, attention.steps = settings(key)
            output = attention(tokens())
            output = output[:, ::7, ::3] if recorded.ndim == 3 else output[0, ::7, ::3]
            assert distance(output, recorded) < OUTPUT_TOLERANCE, key
        elif key.startswith("codes"):
            attention.sparsity = float(key.removeprefix("codes_lam"))
            codes = attention.trajectory(tokens(), steps=len(recorded) - 1).codes[:, 0, :1, :, ::4]
            for step, (ours, released) in enumerate(zip(codes, recorded, strict=True)):
                assert distance(ours, released) < OUTPUT_TOLERANCE, f"{key} step {step}"
    attention.sparsity, attention.steps = settings(fixture.about["grad_of"])
    (attention(tokens()) * tokens(seed=7)).sum().backward()
    check_gradients(norms(attention), fixture)


@pytest.mark.usefixtures("_forms")
@pytest.mark.parametrize("variant", ["block_vars_s", "block_vars_s_normk"])
def test_static_attention_matches_the_release_at_every_step(variant: str) -> None:
    fixture = Fixture.load("vars", variant)
    attention = VARSStatic(192, num_heads=6, qkv_bias=True, grid=(14, 14))
    block = Block(192, attention, TokenMlp(192, 768), 0.0, nn.Identity(), TokenBatchNorm(192)).eval()
    prefix = "transformers.0.blocks.0."
    state = {prefix + name: value for name, value in fixture.state(variation(variant)).items()}
    state = {name.removeprefix(prefix): value for name, value in checkpoint_filter_fn(state, block).items()}
    load_released(block, state)
    assert distance(attention.L, fixture.arrays["L"]) < OUTPUT_TOLERANCE
    for key, recorded in fixture.arrays.items():
        if key.startswith("output"):
            attention.sparsity, attention.steps = settings(key)
            output = block(tokens(), (14, 14))
            output = output[:, ::7, ::3] if recorded.ndim == 3 else output[0, ::7, ::3]
            assert distance(output, recorded) < OUTPUT_TOLERANCE, key
        elif key.startswith("codes"):
            attention.sparsity = float(key.removeprefix("codes_lam"))
            codes = attention.trajectory(tokens(), steps=len(recorded) - 1).codes[:, 0].flatten(1, 2)[:, :20, ::4]
            for step, (ours, released) in enumerate(zip(codes, recorded, strict=True)):
                assert distance(ours, released) < OUTPUT_TOLERANCE, f"{key} step {step}"
    attention.sparsity, attention.steps = settings(fixture.about["grad_of"])
    (block(tokens(), (14, 14)) * tokens(seed=7)).sum().backward()
    trainable = {prefix + name: name for name, p in block.named_parameters() if p.requires_grad}
    released = {ours: name for name, ours in _released(fixture.about["grad_names"], prefix, block).items()}
    names = {ours: released[full] for full, ours in trainable.items()}
    check_gradients({names[ours]: norm for ours, norm in norms(block).items()}, fixture)


def _released(names: list[str], prefix: str, block: nn.Module) -> dict[str, str]:
    """Our full name of each released one."""
    return {name: next(iter(checkpoint_filter_fn({prefix + name: torch.zeros(())}, block))) for name in names}


def test_fill_is_deterministic_and_scaled() -> None:
    assert torch.equal(fill("a.weight", (3, 4)), fill("a.weight", (3, 4)))
    assert not torch.equal(fill("a.weight", (3, 4)), fill("b.weight", (3, 4)))
    assert np.isclose(fill("a.weight", (64, 1024)).std().item(), 1 / 32, rtol=0.05)
