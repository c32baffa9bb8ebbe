"""FLOPs and parameters: known answers, released counts, and equality of fused and explicit forms."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import nn

from common.errors import UserError
from common.profiling import flops, parameters
from common.shapes import shapes_only

COUNTS = json.loads(Path(__file__).with_name("released_flops.json").read_text())


class Call(nn.Module):
    """A function as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def count(function, *shapes, dtype=torch.float32):
    return flops(Call(function), inputs=tuple(torch.ones(shape, dtype=dtype) for shape in shapes))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("fused", [True, False])
def test_released_implementations_are_counted_alike(name, fused):
    expected = COUNTS[name]
    model = timm.create_model(name)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    counted = flops(model, (3, expected["image_size"], expected["image_size"]))
    assert counted.total == round(expected["gflops_fvcore"] * 1e9)
    if not fused:
        released = {k: round(v * 1e9) for k, v in expected["gflops_by_op"].items()}
        released["matmul"] += released.pop("linear")
        assert counted.by_operator == released
    assert counted.not_counted.keys() >= {"gelu", "softmax", "add"} - ({"softmax"} if fused else set())


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mixer_s16_224", "edgenext_xx_small"])
def test_fvcore_counts_the_same(name):
    model = timm.create_model(name).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # fvcore does not know the fused operator
    analysis = FlopCountAnalysis(model, torch.ones(1, 3, 224, 224))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    assert flops(model).total == analysis.total()


def test_shapes_alone_are_enough():
    with shapes_only():
        empty = timm.create_model("swinv2_cr_tiny_ns_224")
    assert flops(empty) == flops(timm.create_model("swinv2_cr_tiny_ns_224"))


def test_sequence_models_are_counted():
    layer = nn.LSTM(10, 20, bidirectional=True, batch_first=True)
    per_element = 2 * (4 * 20) * (10 + 20)
    assert flops(layer, inputs=torch.ones(3, 7, 10)).by_operator == {"recurrent": 3 * 7 * per_element}


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (torch.matmul, [(5, 6), (6, 7)], 5 * 6 * 7),
        (torch.matmul, [(6,), (6, 7)], 6 * 7),
        (torch.matmul, [(6,), (6,)], 6),
        (torch.matmul, [(2, 1, 5, 6), (3, 6, 7)], 2 * 3 * 5 * 6 * 7),
        (torch.matmul, [(4, 4), (2, 3, 4, 5)], 2 * 3 * 4 * 4 * 5),
        (torch.mm, [(5, 6), (6, 7)], 5 * 6 * 7),
        (torch.bmm, [(2, 5, 6), (2, 6, 7)], 2 * 5 * 6 * 7),
        (torch.addmm, [(7,), (5, 6), (6, 7)], 5 * 6 * 7),
        (torch.baddbmm, [(2, 5, 7), (2, 5, 6), (2, 6, 7)], 2 * 5 * 6 * 7),
        (torch.addbmm, [(5, 7), (2, 5, 6), (2, 6, 7)], 2 * 5 * 6 * 7),
        (torch.mv, [(5, 6), (6,)], 5 * 6),
        (torch.addmv, [(5,), (5, 6), (6,)], 5 * 6),
        (F.linear, [(2, 5, 6), (7, 6)], 2 * 5 * 6 * 7),
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), [(2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 8)],
         2 * 3 * 4 * 6 * (5 + 8)),
        (lambda x, w: F.conv2d(x, w, padding="same", groups=2), [(2, 4, 9, 9), (6, 2, 3, 3)], 2 * 81 * 6 * 2 * 9),
        (lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b), [(2, 3, 4, 5), (2, 3, 6, 5)], 2 * 3 * 4 * 6 * 5),
        (lambda a, b: torch.einsum("...ij,...jk", a, b), [(2, 1, 4, 5), (3, 5, 6)], 2 * 3 * 4 * 5 * 6),
        (lambda a: torch.einsum("iij->j", a), [(4, 4, 5)], 0),
        (lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c), [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 4 * 5),
    ],
)  # fmt: skip
def test_products(function, shapes, expected):
    counted = count(function, *shapes)
    assert counted.total == expected
    assert counted.not_counted.keys() <= {"sum"}  # of addbmm and einsum


def test_complex_products_are_four_real_ones():
    assert count(torch.matmul, (5, 6), (6, 7), dtype=torch.complex64).total == 4 * 5 * 6 * 7


@pytest.mark.parametrize(
    ("function", "dtype", "transforms", "points", "share"),
    [
        (torch.fft.fft, torch.complex64, 36, 16, 1),
        (torch.fft.ifft2, torch.complex64, 3, 12 * 16, 1),
        (torch.fft.fftn, torch.complex64, 1, 3 * 12 * 16, 1),
        (torch.fft.rfft, torch.float32, 36, 16, 0.5),
        (torch.fft.rfft2, torch.float32, 3, 12 * 16, 0.5),
        (lambda x: torch.fft.rfftn(x, dim=(-2, -1)), torch.float32, 3, 12 * 16, 0.5),
        (lambda x: torch.fft.rfftn(x, dim=(0, 1)), torch.float32, 16, 3 * 12, 0.5),
        (lambda x: torch.fft.rfft2(x, s=(24, 32)), torch.float32, 3, 24 * 32, 0.5),
        (lambda x: torch.fft.irfftn(x, s=(12, 30), dim=(-2, -1)), torch.complex64, 3, 12 * 30, 0.5),
    ],
)
def test_fourier_transforms_of_a_3_12_16_array(function, dtype, transforms, points, share):
    counted = count(function, (3, 12, 16), dtype=dtype)
    assert counted.by_operator == {"fft": round(2.5 * transforms * points * math.log2(points) * share)}
    assert counted.without("fft") == 0
    assert not counted.not_counted


def test_what_is_not_counted_is_listed():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    counted = count(lambda a: Own.apply(torch.softmax(a, -1).exp()), (3, 4))
    assert counted.total == 0
    assert counted.not_counted == {"exp": 1, "mul": 1, "softmax": 1}


def test_transformer_encoder_shows_its_operators():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    tokens, width, hidden = 5, 8, 16
    counted = flops(layer, inputs=torch.ones(1, tokens, width))
    products = tokens * width * (4 * width + 2 * hidden) + 2 * tokens * tokens * width
    assert counted.without("layer_norm") == products


def test_a_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flops(model, (4,)) == flops(model, (4,))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_wrong_input_is_one_sentence():
    with pytest.raises(UserError, match=r"Linear does not run on an input of \(1, 5\)"):
        flops(nn.Linear(4, 4), (5,))


def test_parameters():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model.append(model[0])
    model[1].weight.requires_grad_(False)
    counted = parameters(model)
    assert (counted.total, counted.trainable) == (4 * 3 + 3 + 6, 4 * 3 + 3 + 3)
