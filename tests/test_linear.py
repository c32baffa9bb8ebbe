"""Linear maps by oneDNN, and GELUs of maps in one pass, give what torch's own operators give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from common import linear as module
from common.linear import Linear, convolution_gelu, left_linear, linear

#: By convolution (many tokens that divide well, also for a single image), and what falls back: few, prime, empty.
SHAPES = [(8, 196, 64), (1, 196, 64), (2, 3, 16, 64), (64,), (3, 64), (1009, 64), (0, 64)]


@pytest.fixture
def always(monkeypatch):
    """Let small maps go by oneDNN, too, on any processor, as if it had AVX-512."""
    monkeypatch.setattr(module, "_MULTIPLY_ADDS", 0)
    monkeypatch.setattr(module, "_amd", lambda: True)
    monkeypatch.setattr(module, "_avx512", lambda: True)


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
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_gradient_a_linear_map_is_torchs(shape, bias, gelu):
    torch.manual_seed(0)
    x, weight, b = torch.randn(shape), torch.randn(96, 64), torch.randn(96) if bias else None
    expected = F.linear(x, weight, b)
    with torch.no_grad():
        ours = linear(x, weight, b, gelu)
    torch.testing.assert_close(ours, F.gelu(expected) if gelu else expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("gradient", [False, True])
def test_the_gelu_of_a_depthwise_convolution(batch, gradient):
    torch.manual_seed(0)
    x = torch.randn(batch, 5, 7, 16).permute(0, 3, 1, 2)
    weight, bias = torch.randn(16, 1, 3, 3, requires_grad=gradient), torch.randn(16)
    with torch.set_grad_enabled(gradient):
        ours = convolution_gelu(x, weight, bias, padding=1, groups=16)
    assert ours.requires_grad == gradient
    torch.testing.assert_close(ours, F.gelu(F.conv2d(x, weight, bias, padding=1, groups=16)), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("always")
def test_whoever_counts_operations_sees_torchs_operators():
    x, layer = torch.randn(2, 32, 64), Linear(64, 96)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(x, gelu=True)
    assert counter.get_total_flops() == 2 * 64 * 64 * 96


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
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            assert layer.double()(x.double()).dtype == torch.float64
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert layer.float()(x).dtype == torch.bfloat16


@pytest.mark.parametrize("tokens", [1, 15, 63, 196, 197, 1568, 50176])
def test_tokens_are_laid_out_as_enough_images_of_equal_size(tokens):
    images = module._images(tokens)
    assert images is None or (images >= module._IMAGES and tokens % images == 0)
