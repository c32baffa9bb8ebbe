"""The definition of the attentions, papers/vars/attention.py, and that everything faster is the same function."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from common import native
from common.errors import UserError
from papers.vars import fast
from papers.vars.attention import (
    Dynamics,
    codes_of,
    features,
    objective,
    self_attention,
    shrink,
    unit,
    vars_d,
    vars_s,
    vars_sd,
)
from papers.vars.dynamic import VARSDynamic, VARSStaticDynamic
from papers.vars.fast import dynamic, static
from papers.vars.fast.lateral import ByFactors, ByMatrix
from papers.vars.kernelized import KernelizedAttention
from papers.vars.static import VARSStatic

MODULES = {"vars_d": VARSDynamic, "vars_sd": VARSStaticDynamic, "vars_s": VARSStatic}
GRID, DIM, HEADS = (4, 5), 12, 2


def build(name: str, **arguments: object) -> nn.Module:
    """In float64, with connections, filters and a step that no module begins with."""
    torch.manual_seed(0)
    module = MODULES[name](DIM, HEADS, qkv_bias=True, grid=GRID, **{"sparsity": 0.1, "steps": 3, **arguments}).double()
    with torch.no_grad():
        for part in ("learned_k", "kernel2"):
            if hasattr(module, part):
                getattr(module, part).add_(0.2 * torch.randn_like(getattr(module, part)))
        if hasattr(module, "learned_L"):
            module.learned_L.fill_(0.8)
    return module


def tokens(images: int = 3) -> Tensor:
    return torch.randn(images, 20, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def results(module: nn.Module) -> dict[str, Tensor]:
    """Output and gradients of the input and of every parameter."""
    x = tokens().requires_grad_()
    y = module(x)
    named = {"x": x, **{name: p for name, p in module.named_parameters() if p.requires_grad}}
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view_as(y)
    return {"y": y.detach(), **dict(zip(named, torch.autograd.grad((y * weights).sum(), named.values()), strict=True))}


def as_module(name: str, module: nn.Module, x: Tensor) -> Tensor:
    """What the module gives, by the functions of attention.py alone."""
    dynamics = Dynamics(module.steps, module.shrinkage)
    if name == "vars_s":
        kernel, readout = (torch.view_as_complex(k.detach().squeeze(2)) for k in (module.kernel, module.kernel2))
        y = vars_s(module.v(x), kernel, readout.squeeze(1), module.L, module.sparsity, dynamics, GRID)
        return module.proj(module.norm(y))
    q, v = module.qkv(x).unflatten(2, (2, HEADS, -1)).permute(2, 0, 3, 1, 4)
    learned = (module.learned_k, module.learned_L, module.learned_lam * module.sparsity, dynamics)
    if name == "vars_d":
        y = vars_d(q, v, module.rand_matrix, *learned)
    else:
        y = vars_sd(q, v, module.rand_matrix, module.kernel[0], *learned)
    return module.proj(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("shrinkage", ["soft", "gelu"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_compute_the_equations(name: str, shrinkage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(name, shrinkage=shrinkage).eval()
    expected = as_module(name, module, tokens())
    torch.testing.assert_close(module(tokens()), expected, rtol=1e-12, atol=1e-12)
    monkeypatch.setenv(fast.SWITCH, "0")
    torch.testing.assert_close(module(tokens()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [ByMatrix, ByFactors])
@pytest.mark.parametrize("shrinkage", ["soft", "gelu"])
@pytest.mark.parametrize("name", MODULES)
def test_fast_forms_have_the_values_and_gradients_of_the_definition(
    name: str, shrinkage: str, form: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic, "fewer_operations", lambda *_: form)
    called = []
    for part in (dynamic, static):
        monkeypatch.setattr(part, "reconstruct", lambda *args, whole=part.reconstruct: called.append(1) or whole(*args))
    module = build(name, shrinkage=shrinkage)
    found = results(module)
    assert bool(called) == (name != "vars_s" or shrinkage == "soft"), "VARS-S by GELU is its definition"
    monkeypatch.setenv(fast.SWITCH, "0")
    expected = results(module)
    assert len(called) <= 1
    scale = max(g.abs().max() for key, g in expected.items() if key != "y")
    for key, value in expected.items():
        assert (found[key] - value).abs().max() <= 1e-12 * (value.abs().max() if key == "y" else scale), key


def test_self_attention_is_vars_of_one_step_and_tends_to_softmax() -> None:
    torch.manual_seed(0)
    module = KernelizedAttention(DIM, HEADS, shared_qk=True).double()
    q, v = module.qkv(tokens()).unflatten(2, (2, HEADS, -1)).permute(2, 0, 3, 1, 4)
    x = self_attention(q, v, module.rand_matrix).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module.proj(x), module(tokens()), rtol=1e-12, atol=1e-12)
    unit_q = nn.functional.normalize(q, dim=-1)
    softmax = (unit_q @ unit_q.mT).softmax(dim=-1) @ v
    wide = torch.randn(HEADS, DIM // HEADS, 10_000, dtype=torch.float64)
    errors = [float((self_attention(q, v, wide[..., :m]) - softmax).square().mean()) for m in (100, 10_000)]
    assert errors[1] < 0.05 * errors[0]  # squares: a hundredth, by the Monte Carlo rate


def test_the_dynamics_descend_to_where_the_lasso_has_its_optimum() -> None:
    """At the end no template agrees with what is left by more than lambda; where a code is, by exactly lambda."""
    torch.manual_seed(0)
    q, v = torch.randn(2, 1, 1, 20, 3, dtype=torch.float64)
    templates = unit(features(q, torch.randn(1, 3, 6, dtype=torch.float64)))
    gram = templates.mT @ templates
    step = 1 / torch.linalg.matrix_norm(gram, ord=2)[..., None, None]
    found = torch.stack(list(codes_of(templates, v, torch.eye(6).double(), step, 0.2, Dynamics(5000))))
    values = objective(found, gram @ found, templates.mT @ v, v.square().sum(dim=(-2, -1)), 0.2)
    assert (values.diff(dim=0) <= 1e-12).all()
    code = found[-1]
    agreement = templates.mT @ (v - templates @ code)
    assert (agreement.abs() <= 0.2 + 1e-3).all()
    on = code != 0
    torch.testing.assert_close(agreement[on], 0.2 * code[on].sign(), rtol=0, atol=2e-3)


def test_shrinkages_leave_what_they_say() -> None:
    x = torch.tensor([-2.0, -0.3, 0.0, 0.3, 2.0])
    torch.testing.assert_close(shrink(x, 0.5), torch.tensor([-1.5, 0.0, 0.0, 0.0, 1.5]))
    gelu = shrink(x, 0.5, "gelu")
    torch.testing.assert_close(gelu[-1], nn.functional.gelu(torch.tensor(1.5)))
    assert gelu[3] < 0, "a value below the threshold stays, with the sign turned"


@pytest.mark.parametrize("name", MODULES)
def test_what_a_transform_of_torch_looks_through_is_the_definition(name: str) -> None:
    """torch.func has no rule for written-out gradients."""
    module = build(name).eval()
    x = tokens(2)
    by_image = torch.func.vmap(lambda image: module(image.unsqueeze(0)).squeeze(0))(x)
    torch.testing.assert_close(by_image, module(x), rtol=1e-10, atol=1e-10)
    gradient = torch.func.grad(lambda x: module(x).square().sum())(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(module(leaf).square().sum(), leaf)[0])


def test_the_switch_is_read_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("compiled C" in fast.in_use()) == (native.compiler() is not None)
    monkeypatch.setenv(fast.SWITCH, "0")
    assert "by its equations" in fast.in_use()
    monkeypatch.setenv(fast.SWITCH, "off")
    with pytest.raises(UserError, match="RESIGHT_FAST is 'off'"):
        build("vars_d")(tokens())


#: One block at 32 pixels; RVT has two stages.
RVT = {"img_size": 32, "num_classes": 5, "embed_dims": (16,), "depths": (1,), "num_heads": (2,)}
RVT["stem_strides"] = (2, 2, 2)
FAN = {"img_size": 32, "num_classes": 5, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
TRACED = {
    "rvt_tiny": {**RVT, "embed_dims": (16, 32), "depths": (1, 1), "num_heads": (2, 2)},
    "fan_tiny_12_p16_224": {**FAN, "cls_attn_layers": 1},
    "vars_d_rvt_tiny": RVT,
    "vars_sd_rvt_tiny": RVT,
    "vars_s_rvt_tiny": RVT,
}


def traced(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A model and two batches of different size."""
    torch.manual_seed(0)
    images = torch.randn(5, 3, 32, 32)
    return timm.create_model(name, **TRACED[name]).eval(), images[:2], images


@pytest.mark.parametrize(
    # Those of VARS have RVT in them.
    "name",
    [pytest.param(name, marks=[] if "vars_s" in name else pytest.mark.slow) for name in TRACED],
)
def test_a_model_is_exported_for_any_number_of_images(name: str) -> None:
    model, some, more = traced(name)
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(model, (some,), dynamic_shapes=({0: batch},)).module()
    with torch.no_grad():
        for images in (some, more):
            torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_a_model_compiles_whole_for_any_number_of_images(name: str) -> None:
    """As one graph. What a compiler makes of it is tested by tracing alone."""
    model, some, more = traced(name)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for images in (some, more):
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)
