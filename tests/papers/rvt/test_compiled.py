"""The compiled middle of RVT's feed-forward network beside the same in torch."""

from __future__ import annotations

import copy
import ctypes

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import native
from papers.rvt import compiled
from papers.rvt.layers import TokenMlp

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")


def layers(channels: int, training: bool) -> nn.ModuleList:
    """Norm, convolution, norm, as after some training."""
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels, momentum=0.3)
    for norm in norms:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean, std=0.1), nn.init.uniform_(norm.running_var, 0.5, 2)
    convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    return nn.ModuleList([norms[0], convolution, norms[1]]).train(training)


def by_torch(x: Tensor, shift: Tensor, norm1: nn.Module, convolution: nn.Module, norm2: nn.Module) -> Tensor:
    return F.gelu(norm2(convolution(F.gelu(norm1((x + shift).permute(0, 3, 1, 2)))))).permute(0, 2, 3, 1)


def results(function: object, modules: nn.ModuleList, x: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """Output, gradients and the norms' state afterwards."""
    modules, x = copy.deepcopy(modules), x.clone().requires_grad_()
    shift = shift.to(x.dtype, copy=True).requires_grad_()
    y = function(x, shift, *modules)
    (y * torch.linspace(0, 9, y.numel(), dtype=y.dtype).cos().add(0.5).view_as(y)).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in modules.named_parameters()}
    return {
        "y": y.detach(),
        "gradient of x": x.grad,
        "gradient of shift": shift.grad,
        **gradients,
        **dict(modules.named_buffers()),
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 4, 20), (2, 14, 14, 70), (4, 7, 7, 8), (9, 3, 2, 3), (1, 2, 9, 100)])
def test_output_gradients_and_statistics_are_those_of_torch(shape: tuple[int, ...], training: bool) -> None:
    modules, x = layers(shape[-1], training), torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 0.5
    shift = torch.linspace(-1, 1, shape[-1])
    assert compiled.serves(x, modules[0], modules[2])
    found = results(compiled.middle, modules, x, shift)
    expected = results(by_torch, copy.deepcopy(modules).double(), x.double(), shift)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # The norm of a batch takes out again what was added before: the gradient of that is rounding alone.
        gone = training and name in ("gradient of 1.bias", "gradient of shift")
        scale = (expected["gradient of 1.weight"] if gone else value).abs().max()
        assert (found[name] - value).abs().max() <= 3e-5 * scale, name


def test_gelu_is_right_far_from_zero_too() -> None:
    """With norms and a convolution that leave their input as it is, so that y is the GELU of the GELU of x."""
    modules = layers(1, training=False)
    for norm in (modules[0], modules[2]):
        norm.reset_parameters()
        norm.running_var -= norm.eps
    nn.init.dirac_(modules[1].weight), nn.init.zeros_(modules[1].bias)
    x = torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([-1e4, -100.0, -0.0, 100.0, 1e4])]).view(-1, 1, 1, 1)
    found = results(compiled.middle, modules, x, torch.zeros(1))
    expected = results(by_torch, copy.deepcopy(modules).double(), x.double(), torch.zeros(1))
    for name in ("y", "gradient of x"):
        torch.testing.assert_close(found[name].double(), expected[name], atol=1e-6, rtol=1e-6)
    assert compiled.middle(torch.full((1, 1, 1, 1), torch.nan), torch.zeros(1), *modules).isnan().all()


@pytest.mark.parametrize("training", [True, False])
def test_a_network_computes_the_same_with_and_without(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    mlp, x = TokenMlp(12, 24).train(training), torch.randn(2, 30, 12)
    ours = copy.deepcopy(mlp)(x, (5, 6))
    monkeypatch.setattr(compiled, "serves", lambda *_: False)
    torch.testing.assert_close(ours, mlp(x, (5, 6)), atol=1e-5, rtol=1e-5)


def test_what_it_cannot_take_is_left_to_torch() -> None:
    norm, other = layers(4, training=True)[0], layers(4, training=False)[0]
    x = torch.randn(2, 3, 3, 4)
    assert compiled.serves(x, norm, norm)
    assert not compiled.serves(x, norm, other)
    assert not compiled.serves(x.double(), norm, norm)
    assert not compiled.serves(x.to("meta"), norm, norm)
    assert not compiled.serves(x, norm, nn.SyncBatchNorm(4))
    assert not compiled.serves(x, norm, nn.BatchNorm2d(4, momentum=None))
    assert not compiled.serves(x, norm, nn.BatchNorm2d(4, affine=False))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not compiled.serves(x, norm, norm)


def test_transformed_functions_are_left_to_torch() -> None:
    torch.manual_seed(0)
    mlp, x = TokenMlp(12, 24).eval(), torch.randn(3, 2, 30, 12)
    each = torch.func.vmap(torch.func.grad(lambda tokens: mlp(tokens, (5, 6)).square().sum()))(x)
    together = x.flatten(0, 1).requires_grad_()
    mlp(together, (5, 6)).square().sum().backward()
    torch.testing.assert_close(each.flatten(0, 1), together.grad, atol=1e-5, rtol=1e-5)


def test_dropout_between_the_layers_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("compiled code has no dropout")

    mlp, x = TokenMlp(12, 24, drop=0.5), torch.randn(2, 30, 12)
    monkeypatch.setattr(compiled, "middle", fail)
    mlp(x, (5, 6))
    with pytest.raises(AssertionError):
        mlp.eval()(x, (5, 6))


def test_one_value_a_channel_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        TokenMlp(12, 24)(torch.randn(1, 1, 12), (1, 1))


def test_want_of_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: object, data: ctypes.Structure) -> None:
        data.failed = 1

    monkeypatch.setattr(native, "in_team", fail)
    with pytest.raises(MemoryError, match="4 channels"):
        compiled.middle(torch.randn(2, 3, 3, 4), torch.zeros(4), *layers(4, training=True))
