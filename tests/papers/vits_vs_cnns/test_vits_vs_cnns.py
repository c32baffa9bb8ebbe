"""Transformers and CNNs: released files with ghost batch norm, the released draw, and what is compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import papers
from common import bench
from common.checkpoints import load_released, to_released
from common.data.preprocessing import Preprocessing
from common.errors import UserError
from common.measurement import Finding, Measurement
from common.robustness import full_scale_measures
from common.run import Run, Settings
from common.training.recipe import load_recipe
from papers.vits_vs_cnns import claims, experiment
from papers.vits_vs_cnns.training import AdversarialSettings, StartDrawn, hooks

PAPER = papers.find("vits-vs-cnns")


def trained(name: str) -> nn.Module:
    """A network of random weights and statistics."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def ghost(model: nn.Module, *, banks: int, groups: int) -> dict[str, Tensor]:
    """The state of ``model`` as the release keeps it: its statistics first, those of other groups and banks after."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if not isinstance(module, nn.BatchNorm2d):
            continue
        own = {key: state.pop(f"{name}.{key}") for key in ("weight", "bias", "running_mean", "running_var")}
        counter = state.pop(f"{name}.num_batches_tracked")
        for bank in range(max(banks, 1)):
            place = f"{name}.bn{bank}.proxy_bn" if banks else f"{name}.proxy_bn"
            for key in ("running_mean", "running_var"):
                parts = [own[key] if (bank, group) == (0, 0) else torch.rand_like(own[key]) for group in range(groups)]
                state[f"{place}.{key}"] = torch.cat(parts)
            state[f"{place}.num_batches_tracked"] = counter
        for key in ("weight", "bias"):
            if banks:
                shape = (-1, 1, 1, 1) if key == "weight" else (-1,)
                state[f"{name}.aff.bnconv.{key}"] = own[key].view(shape)
            else:
                state[f"{name}.{key}"] = own[key]
    return state


@pytest.mark.parametrize(("banks", "groups"), [(0, 1), (0, 4), (4, 4), (8, 2)])
def test_released_ghost_batch_norm_is_evaluated_by_its_first_statistics(banks: int, groups: int) -> None:
    model, images = trained("resnet18"), torch.randn(2, 3, 32, 32)
    released = ghost(model, banks=banks, groups=groups)
    assert ("bn1.running_mean" in released) is False
    other = timm.create_model("resnet18", num_classes=7).eval()
    load_released(other, released)
    with torch.no_grad():
        assert torch.equal(other(images), model(images))


def test_a_released_file_without_a_norm_is_refused() -> None:
    released = ghost(trained("resnet18"), banks=4, groups=2)
    del released["layer1.0.bn1.bn0.proxy_bn.running_var"]
    with pytest.raises(UserError, match=r"layer1.0.bn1.running_var \[64\] is missing"):
        load_released(timm.create_model("resnet18", num_classes=7), released)


def test_statistics_that_are_no_groups_of_the_channels_are_refused() -> None:
    released = ghost(trained("resnet18"), banks=0, groups=2)
    released["bn1.proxy_bn.running_var"] = torch.ones(100)
    with pytest.raises(UserError, match=r"bn1.running_var is \[100\] in the file and \[64\] in the model"):
        load_released(timm.create_model("resnet18", num_classes=7), released)


def test_plain_residual_networks_keep_their_names() -> None:
    model = trained("resnet18")
    assert list(to_released(model)) == list(model.state_dict())


def test_networks_are_what_their_names_say() -> None:
    relu, gelu = (timm.create_model(name, num_classes=0) for name in ("resnet50_adv", "resnet50_gelu_adv"))
    assert any(isinstance(module, nn.ReLU) for module in relu.modules())
    assert not any(isinstance(module, nn.ReLU) for module in gelu.modules())
    assert Preprocessing.of(gelu).mean == (0.5, 0.5, 0.5)
    mini = timm.create_model("deit_mini_patch16_224", num_classes=5, img_size=32)
    assert mini(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(UserError, match="no weights to fetch"):
        timm.create_model("resnet50_gelu_adv", pretrained=True)


def test_recipes_follow_the_commands() -> None:
    rates = {
        ("imagenet", "deit_small_patch16_224"): (2048, 2e-3),
        ("imagenet", "resnet50"): (256, 5e-4),
        ("adversarial", "deit_small_patch16_224_adv"): (4096, 4e-3),
        ("adversarial", "resnet50_gelu_adv"): (4096, 0.8),
    }
    for (setting, model), (batch, rate) in rates.items():
        recipe = load_recipe(PAPER.recipe, setting, model=model)
        assert recipe.total_batch == batch
        assert recipe.rate("learning_rate") == pytest.approx(rate)
        attacks = hooks(recipe)
        assert len(attacks) == (setting == "adversarial")
        if attacks:
            assert isinstance(attacks[0], StartDrawn)
            assert attacks[0].settings.from_image == (0.0 if model.startswith("deit") else 0.2)


@pytest.mark.parametrize("change", ["from_image=1.5", "draw=normal", "steps=-1"])
def test_a_wrong_method_setting_is_refused(change: str) -> None:
    recipe = load_recipe(PAPER.recipe, "embedded").with_changes(f"method.{change}")
    with pytest.raises(UserError, match=change.partition("=")[0]):
        hooks(recipe)


def test_a_share_of_passes_starts_from_the_image() -> None:
    """From the image itself a sign moves all pixels alike; from noise it does not."""
    recipe = load_recipe(PAPER.recipe, "embedded")
    model = bench.hosts.resnet_mini().train()
    run: Any = SimpleNamespace(recipe=recipe, plain_model=model, device=torch.device("cpu"))
    images, labels = torch.zeros(4, 3, 28, 28), torch.arange(4)
    for share, from_image in ((1.0, True), (0.0, False)):
        settings = AdversarialSettings(4 / 255, 1 / 255, 1, share, "uniform")
        hook = StartDrawn(settings, bench.per_channel(recipe.mean), bench.per_channel(recipe.std))
        hook.start(run)
        batch: Any = SimpleNamespace(images=images, labels=labels, targets=labels)
        hook.on_batch(run, batch)
        moved = (batch.images * recipe.std[0]).abs()
        assert (moved.unique().numel() <= 3) is from_image
    assert model.training


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finding]:
    run = Run(PAPER, Settings(quick=True), tmp_path_factory.mktemp("run"))
    return {found.name: found for found in claims.identity(run) if isinstance(found, Finding)}


def test_what_is_exact_holds(findings: dict[str, Finding]) -> None:
    assert list(findings) == ["size", "activation", "released_start", "epsilon"]
    assert all(found.verdict == "holds" and found.exact for found in findings.values())


def test_networks_of_other_sizes_are_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(claims._NETWORKS, "hybrid_mini", lambda: bench.hosts.vit_mini(depth=2))
    found = next(iter(claims.identity(Run(PAPER, Settings(quick=True), tmp_path))))
    assert isinstance(found, Finding)
    assert found.verdict == "does not hold"


def test_the_hybrid_begins_as_the_cnn_and_ends_as_the_transformer() -> None:
    hybrid, cnn, vit = experiment.hybrid_mini(), bench.hosts.resnet_mini(), bench.hosts.vit_mini()
    begins = {name.removeprefix("patch_embed.proj."): value.shape for name, value in hybrid.state_dict().items()}
    half = {name.replace("stem.", "0.", 1): value.shape for name, value in cnn.stem.state_dict(prefix="stem.").items()}
    assert half.items() <= begins.items()
    assert {name: value.shape for name, value in hybrid.blocks.state_dict().items()} == {
        name: value.shape for name, value in vit.blocks[:2].state_dict().items()
    }


def test_an_attacked_network_is_measured() -> None:
    pytest.importorskip("pyautoattack")
    torch.manual_seed(0)
    recipe = load_recipe(PAPER.recipe, "embedded", quick=True)
    found = experiment.measure(bench.hosts.resnet_mini(widths=(8,)).eval(), recipe, True)
    assert set(bench.LONG_ATTACKS) < set(found)
    assert np.shape(found["pgd20_eps4_top1"]) == (1, 50)
    assert np.shape(found["autoattack_after_apgd_t"]) == (1, 1)


def test_the_error_over_19_corruptions_is_what_accuracy_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accuracy = Measurement(
        model="resnet50.align",
        dataset="imagenet-c",
        metric="corruption_top1_19",
        value=45.0,
        unit="%",
        interval=(44, 47),
    )
    monkeypatch.setattr(full_scale_measures, "imagenet_c_19", lambda run: iter([accuracy]))
    _, error = claims.imagenet_c_19(Run(PAPER, Settings(), tmp_path))
    assert (error.metric, error.value, error.interval) == ("corruption_error_19", 55.0, (53, 56))
