"""The compiled form of VARS-D and VARS-SD beside that in torch, which other tests hold to the release."""

from __future__ import annotations

import copy
import ctypes

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common import native
from papers.vars.dynamic import VARSDynamic, VARSStaticDynamic
from papers.vars.fast import dynamic
from papers.vars.fast import dynamic_compiled as compiled
from papers.vars.fast.lateral import ByFactors, ByMatrix, Lateral

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")

CLASSES, FORMS = (VARSDynamic, VARSStaticDynamic), (ByMatrix, ByFactors)
#: Channels, heads and grid: whole registers, and sizes that fill none exactly, down to one of each.
SIZES = ((64, 2, (4, 5)), (60, 3, (5, 7)), (36, 4, (3, 3)), (7, 1, (2, 1)), (3, 3, (1, 1)))
SETTINGS: tuple[dict[str, object], ...] = (
    {},
    {"shrinkage": "gelu"},
    {"initial": "zero", "steps": 1},
    {"shrinkage": "gelu", "initial": "zero", "step_size": 0.02},
    {"step_size": 0.01, "sparsity": 0.0},
    {"sparsity": 100.0},
)


def build(cls: type[VARSDynamic], size: tuple[int, int, tuple[int, int]], **kwargs: object) -> VARSDynamic:
    """Lateral connections and a step that no module begins with."""
    dim, heads, grid = size
    torch.manual_seed(0)
    attention = cls(dim, heads, grid=grid, **{"sparsity": 0.1, **kwargs})
    with torch.no_grad():
        attention.learned_k.add_(0.1 * torch.randn_like(attention.learned_k))
        attention.learned_L.fill_(0.8)
    return attention


def tokens(images: int, size: tuple[int, int, tuple[int, int]]) -> Tensor:
    dim, _, (height, width) = size
    return torch.randn(images, height * width, dim, generator=torch.Generator().manual_seed(3))


def results(attention: VARSDynamic, x: Tensor) -> dict[str, Tensor]:
    """Output and gradients."""
    x = x.clone().requires_grad_()
    y = attention._attend(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view_as(y)
    named = {"x": x, **{name: p for name, p in attention.named_parameters() if p.requires_grad and "proj" not in name}}
    found = torch.autograd.grad((y * weights).sum(), list(named.values()), allow_unused=True)
    return {"y": y.detach(), **{name: g for name, g in zip(named, found, strict=True) if g is not None}}


def use(monkeypatch: pytest.MonkeyPatch, form: type[Lateral]) -> None:
    monkeypatch.setattr(dynamic, "fewer_operations", lambda *_: form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("cls", CLASSES)
def test_output_and_gradients_are_those_of_the_form_in_torch(
    cls: type[VARSDynamic], settings: dict[str, object], size: tuple[int, int, tuple[int, int]], form: type[Lateral],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    use(monkeypatch, form)
    attention, x = build(cls, size, **settings), tokens(3, size)
    assert compiled.serves(x, attention.learned_k)
    ours, expected = results(attention, x), results(copy.deepcopy(attention).double(), x.double())
    assert ours.keys() == expected.keys()
    # Gradients of the step and the sparsity are small differences of large sums, as are those of one token.
    scale = max(g.abs().max() for name, g in expected.items() if name != "y")
    for name in ours:
        bound = expected["y"].abs().max() if name == "y" else scale
        assert (ours[name] - expected[name]).abs().max() <= 1e-5 * bound, name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("images", [1, 9, 150])
def test_any_number_of_images_in_any_number_of_threads(
    images: int, cls: type[VARSDynamic], form: type[Lateral], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, form)
    attention, x = build(cls, SIZES[2]), tokens(images, SIZES[2])
    expected = results(copy.deepcopy(attention).double(), x.double())
    qv = attention._qv(x).detach()  # which torch finds with other rounding in other numbers of threads
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaf = qv.clone().requires_grad_()
            monkeypatch.setattr(attention, "_qv", lambda x, leaf=leaf: leaf)
            y = attention._attend(x)
            found.append((y, *torch.autograd.grad(y.square().sum(), (leaf, attention.learned_k, attention.learned_L))))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0][0], expected["y"].float(), atol=1e-5, rtol=1e-4)
    for others in found[1:]:
        assert all(torch.equal(first, other) for first, other in zip(found[0], others, strict=True))


@pytest.mark.parametrize("cls", CLASSES)
def test_without_gradient_it_is_the_same(cls: type[VARSDynamic]) -> None:
    attention, x = build(cls, SIZES[1]), tokens(2, SIZES[1])
    with torch.no_grad():
        assert torch.equal(attention(x), attention(x.requires_grad_()))
    torch.testing.assert_close(attention(x).detach(), attention.eval()(x).detach(), rtol=0, atol=0)


def test_the_gradient_of_a_step_that_is_given_is_not_asked_for() -> None:
    assert "learned_L" not in results(build(VARSDynamic, SIZES[0], step_size=0.01), tokens(2, SIZES[0]))


def test_layouts_of_tensors_do_not_matter() -> None:
    attention, x = build(VARSStaticDynamic, SIZES[0]), tokens(2, SIZES[0])
    turned = x.mT.contiguous().mT
    assert not turned.is_contiguous()
    torch.testing.assert_close(results(attention, turned), results(attention, x))


def test_what_is_not_a_number_is_not_lost() -> None:
    attention, x = build(VARSDynamic, SIZES[0]), tokens(2, SIZES[0])
    x[0, 3, 4] = torch.nan
    isnan = attention._attend(x).isnan()
    assert isnan[0].all()
    assert not isnan[1].any()


def test_other_precisions_templates_and_observers_take_the_form_in_torch() -> None:
    attention, x = build(VARSDynamic, SIZES[0]), tokens(1, SIZES[0])
    assert compiled.serves(x, attention.learned_k)
    assert not compiled.serves(x.double(), attention.learned_k)
    assert not compiled.serves(x, attention.learned_k.half())
    assert not compiled.serves(x.to("meta"), attention.learned_k)
    with FlopCounterMode(display=False) as counter:
        assert not compiled.serves(x, attention.learned_k)
        attention(x)
    assert counter.get_total_flops() > 0


def test_rows_of_templates_are_normalised_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(compiled, "reconstruct", fail)
    build(VARSDynamic, SIZES[0], normalization="rows")(tokens(1, SIZES[0]))
    with pytest.raises(AssertionError):
        build(VARSDynamic, SIZES[0])(tokens(1, SIZES[0]))


def test_autocast_does_not_reach_the_dynamics() -> None:
    attention, x = build(VARSStaticDynamic, SIZES[0]), tokens(2, SIZES[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = attention._attend(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, attention._attend(x), atol=0.02 * float(y.detach().abs().max()), rtol=0)


def test_want_of_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: object, data: ctypes.Structure) -> None:
        data.failed = 1

    monkeypatch.setattr(native, "in_team", fail)
    with pytest.raises(MemoryError, match="20 tokens"):
        build(VARSDynamic, SIZES[0])(tokens(1, SIZES[0]))
