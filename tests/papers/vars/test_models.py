"""RVT and VARS models behave as timm's models do, at any size; small ones, since nothing here depends on width."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from torch import Tensor, nn

import papers
from common.checkpoints import form_of, load_released, load_trained, to_released
from common.errors import UserError
from common.profiling import flops
from common.shapes import shapes_only
from common.training.hooks import ExtraPass
from common.training.recipe import load_recipe
from papers.rvt.layers import Downsample
from papers.rvt.patch_augmentation import PatchAugmentation
from papers.rvt.training import hooks
from papers.vars.attention import random_features
from papers.vars.dynamic import VARSDynamic, VARSStaticDynamic
from papers.vars.kernelized import KernelizedAttention
from papers.vars.model import ATTENTIONS, VARIANTS
from papers.vars.static import VARSStatic

RVT = {"img_size": 28, "in_chans": 1, "num_classes": 5, "embed_dims": (16, 32), "depths": (2, 1), "num_heads": (2, 2)}
RVT["stem_strides"] = (1, 2, 2)
DEIT = {"img_size": 28, "patch_size": 4, "in_chans": 1, "num_classes": 5, "embed_dim": 16, "depth": 2, "num_heads": 2}
FAN = {**DEIT, "cls_attn_layers": 1}
SMALL = {
    "rvt_tiny": RVT,
    "rvt_tiny_plus": {**RVT, "scaled_blocks": 1},
    "rvt_base": RVT,
    **{f"{attention}_rvt_tiny": RVT for attention in ATTENTIONS},
    **{f"{attention}_deit_tiny": DEIT for attention in ATTENTIONS},
    **{f"{attention}_fan_tiny": FAN for attention in ATTENTIONS},
}
#: Parameters that released checkpoints have and no forward pass reads.
UNUSED = ("attn.L", "attn.kernel_norm")


def small(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **{**SMALL[name], **kwargs})


def images(batch: int = 2, height: int = 28, width: int = 28) -> Tensor:
    return torch.randn(batch, 1, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALL)
def test_forward_of_one_image_equals_its_row_in_a_batch(name: str) -> None:
    model = small(name).eval()
    with torch.no_grad():
        together, alone = model(images(2)), model(images(2)[:1])
    assert together.shape == (2, 5)
    assert torch.allclose(together[:1], alone, atol=1e-5)
    assert torch.equal(model(images()), model(images())), "the same input gives the same output"


@pytest.mark.parametrize("name", SMALL)
def test_every_trainable_parameter_gets_a_gradient(name: str) -> None:
    arguments = {"attention_args": {"sparsity": 0.01}} if name.startswith("vars_s_") else {}
    model = small(name, **arguments).train()
    model(images(4)).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
        else:
            assert parameter_name.endswith(("rand_matrix", *UNUSED)), parameter_name


@pytest.mark.parametrize("name", SMALL)
def test_heads_features_and_checkpointing_work_as_in_timm(name: str) -> None:
    model = small(name).eval()
    features = model.forward_features(images())
    assert torch.allclose(model.forward_head(features), model(images()), atol=1e-5)
    model.reset_classifier(3)
    assert model(images()).shape == (2, 3)
    assert model.get_classifier().out_features == 3
    model.reset_classifier(0)
    assert model(images()).shape == (2, model.num_features)
    maps = model.attention_maps(images())
    assert (maps[0] >= 0).all()
    assert (maps[0].sum(dim=(-2, -1)) <= 1 + 1e-4).all(), "shares; a class token has one of its own"
    assert isinstance(model.no_weight_decay(), set)

    backbone = small(name, features_only=True).eval()
    for found, info in zip(backbone(images()), backbone.feature_info.get_dicts(), strict=True):
        assert found.shape[1] == info["num_chs"]
        assert found.shape[2] == -(-28 // info["reduction"])

    model = small(name).train()
    plain = model(images(4))
    model = small(name).train()
    model.set_grad_checkpointing()
    assert torch.allclose(model(images(4)), plain, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_shapes_follow_without_arithmetic_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in SMALL if name.endswith("rvt_tiny")])
def test_models_work_in_half_precision(name: str, dtype: torch.dtype) -> None:
    model = small(name).eval()
    with torch.no_grad():
        expected = model(images())
        found = model.to(dtype)(images().to(dtype))
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < 0.03 * expected.abs().max()
    model.train()(images(4).to(dtype)).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["rvt_tiny", "performer_rvt_tiny", "vars_d_rvt_tiny"])
def test_free_architectures_take_any_size(name: str) -> None:
    assert small(name).eval()(images(1, 32, 40)).shape == (1, 5)


@pytest.mark.parametrize("name", ["rvt_tiny_plus", "vars_s_rvt_tiny", "vars_sd_rvt_tiny"])
def test_architectures_tied_to_a_grid_say_so_and_can_be_built_for_another(name: str) -> None:
    with pytest.raises(UserError, match="build the model with img_size"):
        small(name).eval()(images(1, 40, 40))
    assert small(name, img_size=(40, 32)).eval()(images(1, 40, 32)).shape == (1, 5)


def test_what_cannot_be_built_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="nothing to download"):
        timm.create_model("vars_d_rvt_tiny", pretrained=True)
    with pytest.raises(UserError, match="class token has no place"):
        small("vars_s_deit_tiny", class_token=True, global_pool="token")
    with pytest.raises(UserError, match="attn_drop_rate=0"):
        small("vars_d_rvt_tiny", attn_drop_rate=0.1)
    with pytest.raises(UserError, match="smaller than one patch"):
        small("rvt_tiny", img_size=2)
    with pytest.raises(UserError, match="scaled_blocks"):
        small("vars_d_rvt_tiny", scaled_blocks=1)


def test_downsampling_of_a_gpu_is_that_of_a_cpu() -> None:
    torch.manual_seed(0)
    downsample, pixels = Downsample(6, 12), torch.randn(2, 6, 7, 5).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(downsample._by_repetition(pixels), downsample(pixels))


@pytest.mark.parametrize("attention", ["vars_d", "vars_sd", "vars_s"])
def test_every_product_of_an_attention_is_counted(attention: str) -> None:
    """Also where compiled code, whose products PyTorch does not see, would compute them."""
    build = partial(timm.create_model, f"{attention}_rvt_tiny", img_size=32, depths=(1, 1))
    with shapes_only():
        expected = build()
    # On a CPU batch norms are folded into the maps before them.
    counted, expected = (flops(model, (3, 32, 32)).without("batch_norm") for model in (build(), expected))
    assert counted == expected


def test_starred_base_reaches_the_printed_size() -> None:
    with shapes_only():
        released, printed = timm.create_model("rvt_base_plus"), timm.create_model("rvt_base_plus", scaled_blocks=12)
    assert sum(p.numel() for p in released.parameters()) == 88_528_744
    assert round(sum(p.numel() for p in printed.parameters()) / 1e6, 1) == 91.8


def test_one_step_without_sparsity_is_kernelised_self_attention() -> None:
    torch.manual_seed(0)
    kernelized = KernelizedAttention(16, 2, qkv_bias=True, shared_qk=True).double()
    vars_d = VARSDynamic(
        16, 2, qkv_bias=True, steps=1, sparsity=0.0, shrinkage="soft", normalization="rows", initial="zero", step_size=1
    ).double()
    vars_d.load_state_dict(kernelized.state_dict(), strict=False)
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    assert torch.allclose(vars_d(x), kernelized(x), rtol=1e-12, atol=1e-12)


def test_random_features_approach_the_exponential_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 0.5 * nn.functional.normalize(torch.randn(8, 4, dtype=torch.float64, generator=generator), dim=-1)
    errors = []
    for features in (100, 100_000):
        phi = random_features(x, torch.randn(4, features, dtype=torch.float64, generator=generator))
        errors.append((phi @ phi.T - (x @ x.T).exp()).abs().max().item())
    assert errors[1] < 0.05
    assert errors[1] < errors[0]


@pytest.mark.parametrize("attention_cls", [VARSDynamic, VARSStaticDynamic, VARSStatic])
def test_the_objective_never_rises(attention_cls: type[nn.Module]) -> None:
    torch.manual_seed(0)
    attention = attention_cls(16, 2, grid=(4, 5), shrinkage="soft", sparsity=0.05).double()
    codes, objective = attention.trajectory(torch.randn(2, 20, 16, dtype=torch.float64), steps=20)
    assert codes.shape[:2] == objective.shape[:2] == (21, 2)
    assert (objective.diff(dim=0) <= 1e-9).all()
    assert (objective[-1] < objective[0]).all()


def test_lipschitz_estimate_follows_the_kernels_every_hundred_steps() -> None:
    attention = VARSStatic(8, grid=(4, 4))
    before = attention.L.clone()
    with torch.no_grad():
        attention.kernel.mul_(2)
    attention.on_optimizer_step(50)
    assert torch.equal(attention.L, before)
    attention.on_optimizer_step(100)
    assert torch.allclose(attention.L, 0.9 * before + 0.1 * 4 * before)


def test_patch_augmentation_changes_some_patches_and_keeps_the_range() -> None:
    batch = torch.rand(4, 3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    changed = PatchAugmentation(probability=0.3)(batch, 0.0, 1.0, generator) != batch
    patches = changed.unflatten(2, (2, 16)).unflatten(4, (2, 16)).sum(dim=(1, 3, 5)) > 0
    assert 0 < patches.sum() < patches.numel()
    assert torch.equal(PatchAugmentation(probability=0.0)(batch, 0.0, 1.0), batch)
    with pytest.raises(UserError, match="multiples of 16"):
        PatchAugmentation()(torch.rand(1, 3, 30, 32), 0.0, 1.0)


def test_patch_augmentation_is_a_switch_of_the_recipe() -> None:
    def made(*changes: str) -> list[tuple[type, str]]:
        recipe = load_recipe(papers.find("rvt").recipe, "embedded", changes=changes)
        return [(type(hook), hook.gradient) for hook in hooks(recipe)]

    assert made() == []
    assert made("method.patch_augmentation=true") == [(ExtraPass, "kept")]
    assert made("method.patch_augmentation=true", "method.patch_augmentation_gradient=discarded") == [
        (ExtraPass, "discarded")
    ]
    starred = load_recipe(papers.find("rvt").recipe, "imagenet", model="rvt_small_plus")
    assert len(hooks(starred)) == 1


def test_released_weights_select_the_released_shrinkage_unless_one_was_chosen() -> None:
    for given, before, after in ((None, "soft", "gelu"), ("soft", "soft", "soft"), ("gelu", "gelu", "gelu")):
        attention = VARSDynamic(16, 2, shrinkage=given)
        assert attention.shrinkage == before
        load_released(attention, attention.state_dict())
        assert attention.shrinkage == after


def test_our_own_weights_keep_the_form_that_they_were_trained_in() -> None:
    trained, fine_tuned = (
        small("vars_d_rvt_tiny"),
        load_released(small("vars_d_rvt_tiny"), to_released(small("vars_d_rvt_tiny"))),
    )
    for model, shrinkage in ((trained, "soft"), (fine_tuned, "gelu")):
        final = {"run": {}, "form": form_of(model), "model": to_released(model)}
        checkpoint = {"run": {}, "form": form_of(model), "step": 3, "model": model.state_dict()}
        for content in (final, checkpoint):
            loaded = load_trained(small("vars_d_rvt_tiny"), content, "model.pt")
            assert {m.shrinkage for m in loaded.modules() if isinstance(m, VARSDynamic)} == {shrinkage}
            assert torch.equal(loaded.eval()(images()), model.eval()(images()))


def test_the_table_of_variants_has_every_attention_on_every_host() -> None:
    assert len(VARIANTS) == 4 * 13
