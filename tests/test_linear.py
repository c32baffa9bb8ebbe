"""Linear maps by convolution give what torch's linear gives, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common import linear as module
from common.linear import Linear, left_linear, linear

#: By convolution (many tokens that divide well, also for a single image), and what falls back: few, prime, empty.
SHAPES = [(8, 196, 64), (1, 196, 64), (2, 3, 16, 64), (64,), (3, 64), (1009, 64), (0, 64)]


@pytest.fixture
def always(monkeypatch):
    """Let small maps go by convolution, too, on any processor."""
    monkeypatch.setattr(module, "_MULTIPLY_ADDS", 0)
    monkeypatch.setattr(module, "_by_onednn", lambda: True)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map_and_its_gradients_are_torchs(shape, bias):
    torch.manual_seed(0)
    given = torch.randn(shape), torch.randn(96, 64), torch.randn(96) if bias else None
    results = []
    for function in (F.linear, linear):
        x, weight, b = (None if t is None else t.clone().requires_grad_() for t in given)
        y = function(x, weight, b)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        results.append([y.detach(), x.grad, weight.grad] + ([b.grad] if bias else []))
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("count", [1, 16, 21])
def test_a_map_from_the_left_is_a_product_of_matrices(count):
    torch.manual_seed(0)
    given = torch.randn(count, 24, 7), torch.randn(12, 24)
    results = []
    for function in (lambda x, weight: weight @ x, left_linear):
        x, weight = (t.clone().requires_grad_() for t in given)
        y = function(x, weight)
        y.square().sum().backward()
        results.append([y.detach(), x.grad, weight.grad])
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("always")
def test_the_layer_keeps_double_precision_and_autocast():
    layer, x = Linear(64, 96), torch.randn(32, 64)
    assert layer.double()(x.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.float()(x).dtype == torch.bfloat16


@pytest.mark.parametrize("tokens", [1, 15, 63, 196, 197, 1568, 50176])
def test_tokens_are_laid_out_as_enough_images_of_equal_size(tokens):
    images = module._images(tokens)
    assert images is None or (images >= module._IMAGES and tokens % images == 0)
