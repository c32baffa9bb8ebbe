"""The compiled form of VARS-S beside that in torch, which other tests hold to the release and to the equations."""

from __future__ import annotations

import copy
import ctypes

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common import native
from papers.vars.fast import static_compiled as compiled
from papers.vars.static import VARSStatic

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")

#: Both grids whose sizes the compiled code knows, even and odd sides, and sides without sums or differences.
GRIDS = ((14, 14), (7, 7), (5, 8), (6, 5), (12, 3), (4, 1), (1, 6), (2, 2), (1, 1), (17, 20))


def build(grid: tuple[int, int], channels: int = 20, **kwargs: object) -> VARSStatic:
    """A number of channels that fills no register exactly; kernels that no real map has, as after training."""
    torch.manual_seed(0)
    attention = VARSStatic(channels, grid=grid, **{"sparsity": 0.3, **kwargs})
    torch.nn.init.normal_(attention.kernel2, std=0.3)
    return attention


def results(attention: VARSStatic, x: Tensor) -> list[Tensor]:
    """Output and gradients."""
    x = x.clone().requires_grad_()
    y = attention._reconstruct(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view_as(y)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), (x, attention.kernel, attention.kernel2))]


def assert_agree(attention: VARSStatic, x: Tensor) -> list[Tensor]:
    """Against the form in torch, in double precision; what is found."""
    found = results(attention, x)
    for ours, expected in zip(found, results(copy.deepcopy(attention).double(), x.double()), strict=True):
        assert (ours - expected).abs().max() <= 2e-6 * expected.abs().max()
    return found


@pytest.mark.parametrize("grid", GRIDS)
def test_output_and_gradients_are_those_of_the_form_in_torch(grid: tuple[int, int]) -> None:
    x = torch.randn(3, grid[0] * grid[1], 20, generator=torch.Generator().manual_seed(3))
    attention = build(grid)
    assert compiled.serves(x)
    assert assert_agree(attention, x)[0].abs().max() > 0


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 1}, {"num_maps": 1}, {"sparsity": 0.0}])
def test_any_number_of_steps_and_maps(settings: dict[str, object]) -> None:
    assert_agree(build((6, 5), **settings), torch.randn(2, 30, 20, generator=torch.Generator().manual_seed(2)))


def test_channels_whose_code_stays_zero_have_no_output_and_no_gradient() -> None:
    x = torch.randn(2, 30, 20, generator=torch.Generator().manual_seed(0))
    x[0] *= 0.01
    output, gradient, kernel, _ = assert_agree(build((6, 5), sparsity=1.0), x)
    assert output[0].count_nonzero() == gradient[0].count_nonzero() == 0
    assert output[1].count_nonzero() > 0
    silent = assert_agree(build((6, 5), sparsity=100.0), x)
    assert all(tensor.count_nonzero() == 0 for tensor in silent)
    assert kernel.count_nonzero() > 0


def test_what_is_not_a_number_is_not_lost() -> None:
    x = torch.randn(2, 30, 20, generator=torch.Generator().manual_seed(0))
    x[0, 3, 4] = torch.nan
    output = results(build((6, 5)), x)[0]
    expected = torch.zeros_like(x, dtype=torch.bool)
    expected[0, :, 4] = True
    assert torch.equal(output.isnan(), expected)


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads: int, openmp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 30, 50, generator=torch.Generator().manual_seed(1))
    attention, before = build((6, 5), channels=50), torch.get_num_threads()
    torch.set_num_threads(2)
    expected = results(attention, x)
    if not openmp:
        monkeypatch.setattr(native, "_openmp", lambda: None)
    torch.set_num_threads(threads)
    try:
        torch.testing.assert_close(results(attention, x), expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


def test_layouts_of_tensors_do_not_matter() -> None:
    attention = build((6, 5))
    x = torch.randn(20, 30, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(results(attention, x.permute(2, 1, 0)), results(attention, x.permute(2, 1, 0).clone()))


def test_other_precisions_and_observers_take_the_form_in_torch() -> None:
    x = torch.randn(1, 30, 20)
    assert compiled.serves(x)
    assert not compiled.serves(x.double())
    assert not compiled.serves(x.to("meta"))
    with FlopCounterMode(display=False) as counter:
        assert not compiled.serves(x)
        build((6, 5))(x)
    assert counter.get_total_flops() > 0


def test_want_of_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: object, data: ctypes.Structure) -> None:
        data.failed = 1

    monkeypatch.setattr(native, "in_team", fail)
    with pytest.raises(MemoryError, match="20 channels"):
        build((6, 5))(torch.randn(1, 30, 20))
