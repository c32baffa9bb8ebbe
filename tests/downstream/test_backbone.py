"""The adapter: any timm model as a backbone of mmdet and mmseg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import downstream  # noqa: F401  (before anything of OpenMMLab)
import papers  # noqa: F401  (registers the models)
from common.checkpoints import take_form, to_released
from common.errors import UserError
from downstream.backbone import TimmFeatures
from downstream.layer_decay import LayerDecay
from downstream.pyramid import SimplePyramid

SMALL_RVT = {"embed_dims": (16,), "depths": (2,), "num_heads": (2,), "stem_width": 8}
SMALL_SWIN = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
SMALL_VIT = {"embed_dim": 16, "depth": 3, "num_heads": 2}
SMALL_FAN = {"embed_dim": 16, "depth": 2, "num_heads": 2}


def small(name: str, **options: Any) -> TimmFeatures:
    """A narrow model of each family."""
    if "swin" in name:
        arguments: dict[str, Any] = SMALL_SWIN
    elif "rvt" in name:
        arguments = SMALL_RVT
    elif "vit" in name or "deit" in name:
        arguments = SMALL_VIT
    elif name.startswith("fan"):
        arguments = SMALL_FAN
    else:
        arguments = {}
    return TimmFeatures(name, model_args=arguments, **options)


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("rvt_tiny", [16]),
        ("vars_d_rvt_tiny", [16]),
        ("vars_d_deit_tiny", [16]),
        ("fan_tiny_12_p16_224", [16]),
        ("fan_tiny_8_p4_hybrid", [4, 8, 16]),
        ("swin_tiny_patch4_window7_224", [4, 8, 16, 32]),
        ("vit_tiny_patch16_224", [16]),
        ("resnet18", [2, 4, 8, 16, 32]),
    ],
)
def test_maps_have_the_declared_channels_and_strides_at_any_size(name: str, strides: list[int]) -> None:
    backbone = small(name).eval()
    assert backbone.strides == strides
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 96, 160))
    assert [tuple(each.shape) for each in maps] == [
        (1, channels, 96 // stride, 160 // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


#: A narrow model of every family of backbones, with stages where it has them.
FAMILIES: dict[str, dict[str, Any]] = {
    "rvt_tiny": SMALL_RVT,
    "rvt_small": {**SMALL_RVT, "embed_dims": (16, 32), "depths": (2, 2), "num_heads": (2, 2)},
    "vars_d_rvt_tiny": SMALL_RVT,
    "vars_s_rvt_tiny": SMALL_RVT,
    "vars_sd_rvt_tiny": SMALL_RVT,
    "vars_d_deit_tiny": SMALL_VIT,
    "vars_d_fan_tiny": SMALL_FAN,
    "fan_tiny_12_p16_224": SMALL_FAN,
    "fan_tiny_8_p4_hybrid": SMALL_FAN,
    "fan_swin_tiny_patch4_window7_224": {**SMALL_SWIN, "embed_dim": 32},
    "swin_tiny_patch4_window7_224": SMALL_SWIN,
    "swinv2_tiny_window8_256": {**SMALL_SWIN, "embed_dim": 32},
    "vit_tiny_patch16_224": SMALL_VIT,
    "deit_tiny_distilled_patch16_224": SMALL_VIT,
}
#: Attentions that have a parameter for each place of their grid.
TIED = ("vars_s_rvt_tiny", "vars_sd_rvt_tiny")


def of_family(name: str, size: tuple[int, int], **options: Any) -> TimmFeatures:
    torch.manual_seed(0)
    return TimmFeatures(name, model_args=FAMILIES[name], img_size=size if name in TIED else None, **options)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [(64, 96), (75, 90)])
def test_maps_of_every_family_cover_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    """Sides that are no multiples of a stride: maps end with a part of a step, or leave it out."""
    backbone = of_family(name, size).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, *size))
    for each, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert each.shape[:2] == (1, channels)
        for steps, side in zip(each.shape[2:], size, strict=True):
            assert side // stride <= steps <= -(-side // stride)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_recomputes_the_same_gradients_drops_paths_and_freezes(name: str) -> None:
    size = (64, 96)
    images = torch.randn(2, 3, *size)
    gradients = []
    for checkpointing in (False, True):
        backbone = of_family(name, size, grad_checkpointing=checkpointing)
        sum(each.square().sum() for each in backbone(images)).backward()
        gradients.append({key: value.grad for key, value in backbone.named_parameters() if value.grad is not None})
    torch.testing.assert_close(gradients[1], gradients[0])

    dropping = of_family(name, size, drop_path_rate=0.5)
    assert any("drop_path" in key for key, _ in dropping.named_modules())
    dropping.train()
    with torch.no_grad():
        for value in dropping.parameters():  # some residual branches start at zero
            value.add_(0.05)
    torch.manual_seed(1)
    first = dropping(images)[-1]
    assert any(not torch.equal(first, dropping(images)[-1]) for _ in range(8))

    frozen = of_family(name, size, frozen_stages=0)
    learned = {key for key, value in dropping.named_parameters() if value.requires_grad}
    still = [key for key, value in frozen.named_parameters() if not value.requires_grad and key in learned]
    assert still
    assert all(key.startswith(("model.patch_embed", "model.pos", "model.cls", "model.dist")) for key in still)


@pytest.mark.parametrize("name", FAMILIES)
def test_learning_rates_rise_along_the_forward_pass_of_every_family(name: str) -> None:
    backbone = of_family(name, (64, 96)).eval()
    settings = {"optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.1}}
    wrapper = LayerDecay(settings, {"layer_decay": 0.5})(torch.nn.ModuleDict({"backbone": backbone}))
    rate = {id(value): group["lr"] for group in wrapper.optimizer.param_groups for value in group["params"]}
    assert set(rate) == {id(value) for value in backbone.parameters() if value.requires_grad}
    seen: list[float] = []
    for module in backbone.modules():
        own = [value for value in module.parameters(recurse=False) if value.requires_grad]
        if own:
            module.register_forward_pre_hook(lambda _module, _inputs, own=own: seen.append(rate[id(own[0])]))
    with torch.no_grad():
        backbone(torch.randn(1, 3, 64, 96))
    assert len(set(seen)) > 2
    # The module of a backbone itself is called first and may own the position embedding alone.
    assert seen == sorted(seen)


@pytest.mark.parametrize("name", ["vars_s_rvt_tiny", "vars_sd_rvt_tiny", "rvt_tiny_plus"])
def test_models_tied_to_a_grid_are_built_for_a_size(name: str) -> None:
    options = {**SMALL_RVT, "scaled_blocks": 2} if name.endswith("plus") else SMALL_RVT
    backbone = TimmFeatures(name, img_size=(64, 96), model_args=options).eval()
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 64, 96))[0].shape == (1, 16, 4, 6)
        with pytest.raises(UserError, match="img_size"):
            backbone(torch.randn(1, 3, 96, 96))


@pytest.mark.parametrize(
    "name", ["vars_d_rvt_tiny", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "resnet18"]
)
def test_every_trained_parameter_gets_a_gradient_with_and_without_checkpointing(name: str) -> None:
    """Parameters without one would stop distributed training."""
    images = torch.randn(2, 3, 64, 64)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = small(name, grad_checkpointing=checkpointing)
        sum(each.square().sum() for each in backbone(images)).backward()
        lacking = [each for each, value in backbone.named_parameters() if value.requires_grad and value.grad is None]
        assert not lacking
        gradients.append([value.grad for value in backbone.parameters() if value.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_frozen_stages_neither_train_nor_move_their_statistics() -> None:
    backbone = small("resnet18", frozen_stages=1).train()
    frozen = {name.split(".")[1] for name, value in backbone.named_parameters() if not value.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))
    moved = {
        name.split(".")[1] for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"layer2", "layer3", "layer4"}


def test_norm_eval_keeps_statistics_and_drop_path_reaches_the_model() -> None:
    backbone = small("resnet18", norm_eval=True, drop_path_rate=0.5).train()
    assert not any(each.training for each in backbone.modules() if isinstance(each, torch.nn.BatchNorm2d))
    assert any(type(each).__name__ == "DropPath" for each in backbone.modules())


def test_learning_rates_decay_towards_the_stem() -> None:
    backbone = small("vit_tiny_patch16_224")
    head = torch.nn.Linear(16, 2)
    settings = {"optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.1}}
    model = torch.nn.ModuleDict({"backbone": backbone, "head": head})
    wrapper = LayerDecay(settings, {"layer_decay": 0.5, "head_lr_mult": 10.0})(model)
    rate = {id(value): group["lr"] for group in wrapper.optimizer.param_groups for value in group["params"]}
    decay = {id(value): group["weight_decay"] for group in wrapper.optimizer.param_groups for value in group["params"]}
    assert set(rate) == {id(value) for value in model.parameters()}
    rates = [rate[id(block.mlp.fc1.weight)] for block in backbone.model.blocks]
    assert rates[1] == 2 * rates[0]
    assert rates[2] == 2 * rates[1]
    assert rates[-1] == 0.5  # the heads are the next layer
    assert rate[id(backbone.model.patch_embed.proj.weight)] == rates[0] / 2
    assert rate[id(head.weight)] == 10.0
    assert decay[id(head.weight)] == 0.1
    assert decay[id(head.bias)] == decay[id(backbone.model.pos_embed)] == 0.0


def test_the_simple_pyramid_makes_every_stride_from_the_nearest_map() -> None:
    pyramid = SimplePyramid([8, 16], [16, 32], out_channels=4, num_outs=5)
    assert pyramid.sources == [0, 0, 0, 1]
    levels = pyramid([torch.randn(1, 8, 4, 6), torch.randn(1, 16, 2, 3)])
    assert [tuple(level.shape[1:]) for level in levels] == [(4, 16, 24), (4, 8, 12), (4, 4, 6), (4, 2, 3), (4, 1, 2)]
    with pytest.raises(UserError, match="power of two"):
        SimplePyramid([8], [12])


@pytest.mark.parametrize(
    "name", ["vars_s_rvt_tiny", "vars_sd_rvt_tiny", "vit_tiny_patch16_224", "rvt_tiny", "rvt_tiny_plus"]
)
def test_a_classifier_is_loaded_for_larger_images(name: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = SMALL_VIT if name.startswith("vit") else SMALL_RVT
    if name.endswith("plus"):
        arguments = {**arguments, "scaled_blocks": 2}
    classifier = timm.create_model(name, img_size=64, **arguments).eval()
    torch.save({"model": to_released(classifier)}, tmp_path / "classifier.pth")
    same = TimmFeatures(name, img_size=64, checkpoint=tmp_path / "classifier.pth", model_args=arguments).eval()
    larger = TimmFeatures(name, img_size=128, checkpoint=tmp_path / "classifier.pth", model_args=arguments).eval()
    same.init_weights()
    larger.init_weights()
    take_form(classifier, {})  # the file counts as released
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = classifier.forward_intermediates(images, indices=1, intermediates_only=True)[0]
        torch.testing.assert_close(same(images)[0], expected)
        assert larger(torch.randn(1, 3, 128, 128))[0].shape[-2:] == (8, 8)


def test_a_damaged_classifier_is_refused(tmp_path: Path) -> None:
    state = dict(timm.create_model("rvt_tiny", **SMALL_RVT).state_dict())
    del state["transformers.0.blocks.1.norm1.weight"]
    torch.save(state, tmp_path / "classifier.pth")
    backbone = small("rvt_tiny", checkpoint=tmp_path / "classifier.pth")
    with pytest.raises(UserError, match=r"transformers\.0\.blocks\.1\.norm1\.weight"):
        backbone.init_weights()


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(UserError, match="no model called 'nonsense'"):
        TimmFeatures("nonsense")


def test_resized_templates_and_scaling_keep_what_they_say() -> None:
    """A kernel keeps its weights; factors and templates that are the same everywhere stay so."""
    from papers.rvt.resizing import resize_grid as resize_scaling
    from papers.vars.resizing import resize_grid as resize_templates

    small_s, large_s = (timm.create_model("vars_s_rvt_tiny", img_size=size, **SMALL_RVT) for size in (64, 96))
    name = "transformers.0.blocks.0.attn.kernel"
    spectra = resize_templates(small_s.state_dict(), large_s)[name]
    assert spectra.shape == large_s.state_dict()[name].shape
    kernels = [
        torch.fft.fftshift(torch.fft.irfft2(torch.view_as_complex(each.contiguous()), s=(side, side)), (-2, -1))
        for each, side in ((small_s.state_dict()[name], 4), (spectra, 6))
    ]
    torch.testing.assert_close(kernels[1][..., 1:5, 1:5], kernels[0], atol=1e-6, rtol=1e-5)
    assert kernels[1].abs().sum() == pytest.approx(kernels[0].abs().sum().item(), rel=1e-4)

    options = {**SMALL_RVT, "scaled_blocks": 2}
    small_plus, large_plus = (timm.create_model("rvt_tiny_plus", img_size=size, **options) for size in (64, 96))
    constant = {key: torch.full_like(value, 0.7) for key, value in small_plus.state_dict().items()}
    scaling = resize_scaling(constant, large_plus)["transformers.0.blocks.0.attn.att_mask"]
    assert scaling.shape == (2, 36, 36)
    torch.testing.assert_close(scaling, torch.full_like(scaling, 0.7))
