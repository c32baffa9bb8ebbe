"""The written-out backward passes of the VARS attentions, against finite differences and under autocast."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from papers.vars.dynamic import VARSDynamic, VARSStaticDynamic
from papers.vars.fast import dynamic
from papers.vars.fast.lateral import ByFactors, ByMatrix, fewer_operations
from papers.vars.static import VARSStatic

ATTENTIONS = {"vars_d": VARSDynamic, "vars_sd": VARSStaticDynamic, "vars_s": VARSStatic}


def build(name: str, shrinkage: str) -> nn.Module:
    torch.manual_seed(0)
    return ATTENTIONS[name](8, 2, qkv_bias=True, grid=(3, 4), shrinkage=shrinkage, sparsity=0.05, steps=3)


@pytest.mark.parametrize("shrinkage", ["soft", "gelu"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_gradients_are_those_of_finite_differences(name: str, shrinkage: str) -> None:
    attention = build(name, shrinkage).double().eval()
    # The step size is detached, as released, so that only what it does not depend on can be compared.
    fixed = {"qkv.weight", "qkv.bias", "kernel"} if name != "vars_s" else set()
    names = [n for n, p in attention.named_parameters() if p.requires_grad and n not in fixed]
    parameters = [attention.get_parameter(n).detach().clone().requires_grad_() for n in names]
    tokens = torch.randn(2, 12, 8, dtype=torch.float64)
    if name == "vars_s":
        tokens.requires_grad_()

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(attention, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (tokens, *parameters), fast_mode=True, atol=1e-6)


@pytest.mark.parametrize("initial", ["shrunk", "zero"])
@pytest.mark.parametrize("shrinkage", ["soft", "gelu"])
@pytest.mark.parametrize("name", ["vars_d", "vars_sd"])
def test_both_forms_of_the_lateral_connections_are_one_computation(
    name: str, shrinkage: str, initial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention, tokens = build(name, shrinkage).double(), torch.randn(2, 12, 8, dtype=torch.float64)
    attention.initial = initial
    nn.init.normal_(attention.learned_k, std=0.3)  # not symmetric, so that K and its transpose are told apart
    results = []
    for form in (ByMatrix, ByFactors):
        monkeypatch.setattr(dynamic, "fewer_operations", lambda *_, form=form: form)
        x = tokens.clone().requires_grad_()
        attention.zero_grad()
        y = attention(x)
        y.square().sum().backward()
        with torch.no_grad():
            found = attention(tokens)
        results.append([y.detach(), x.grad, found, *(p.grad for p in attention.parameters() if p.requires_grad)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("form", [ByMatrix, ByFactors])
@pytest.mark.parametrize("static", [True, False])
def test_lateral_connections_and_row_sums_are_those_of_the_whole_product(form: type, static: bool) -> None:
    templates, weights = torch.rand(3, 2, 5, 7, dtype=torch.float64), torch.randn(7, 7, dtype=torch.float64)
    columns = torch.randn(3, 5, 4, dtype=torch.float64) if static else None
    if columns is not None:
        templates[..., 3:] = columns.unsqueeze(1)
    templates = templates.flatten(0, 1)
    gram, code = templates.mT @ templates, torch.randn(6, 7, 2, dtype=torch.float64)
    connections, row_sums, _ = form.connect(templates, columns, weights)
    lateral = form(connections, torch.full((1, 1, 1), 0.5, dtype=torch.float64))
    torch.testing.assert_close(row_sums, gram.abs().sum(dim=-1))
    expected = code - 0.5 * weights @ gram @ weights @ code
    torch.testing.assert_close(lateral.forward(code.mT, 0), expected.mT)


@pytest.mark.parametrize(("tokens", "form"), [(196, ByMatrix), (49, ByFactors)])
def test_the_form_of_fewer_operations_is_taken(tokens: int, form: type) -> None:
    assert fewer_operations(tokens, templates=128, channels=32, steps=5) is form


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_half_precision_trains_every_parameter(name: str, dtype: torch.dtype) -> None:
    attention = build(name, "soft").train()
    tokens = torch.randn(2, 12, 8)
    with torch.autocast("cpu", dtype=dtype):
        loss = attention(tokens).square().mean()
    loss.backward()
    exact = attention(tokens).square().mean()
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)
    for parameter_name, parameter in attention.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", ATTENTIONS)
def test_autocast_around_the_backward_pass_changes_roundings_only(name: str) -> None:
    attention, tokens, gradients = build(name, "soft").train(), torch.randn(2, 12, 8), []
    for around in (False, True):
        attention.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = attention(tokens).square().mean()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=around):
            loss.backward()
        gradients.append([p.grad for p in attention.parameters() if p.grad is not None])
    for outside, inside in zip(*gradients, strict=True):
        assert (inside - outside).abs().max() < 0.05 * outside.abs().max()


def _apart(sparsity: float, steps: int) -> float:
    """How far parameters are apart, at most, after steps of SGD with the batch in one pass and in two."""
    states = []
    for parts in (1, 2):
        torch.manual_seed(0)
        arguments = {"img_size": 64, "num_classes": 10, "depth": 4, "attention_args": {"sparsity": sparsity}}
        model = timm.create_model("vars_d_deit_tiny", **arguments)
        generator = torch.Generator().manual_seed(1)
        for _ in range(steps):
            images = torch.randn(8, 3, 64, 64, generator=generator)
            labels = torch.randint(10, (8,), generator=generator)
            model.zero_grad()
            for some, their in zip(images.chunk(parts), labels.chunk(parts), strict=True):
                (torch.nn.functional.cross_entropy(model(some), their) / parts).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(0.01 * parameter.grad)
        states.append(model.state_dict())
    return max((states[0][name] - states[1][name]).abs().max().item() for name in states[0])


def test_what_grows_with_the_number_of_passes_is_the_choice_of_codes() -> None:
    """A step agrees to rounding; later ones do, too, where no code is cut off by the shrinkage."""
    assert _apart(0.3, 1) < 1e-7
    assert _apart(0.0, 4) < 2e-6
