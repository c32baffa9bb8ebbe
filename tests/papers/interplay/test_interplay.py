"""The way from ResNet to ConvNeXt, isotropic networks and stems of convolutions; adversarial training by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import papers
from common import bench
from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.measurement import Finding
from common.robustness.attacks import AutoAttack
from common.robustness.full_scale_measures import build
from common.run import Run, Settings
from common.training.adversarial import AdversarialTraining
from common.training.recipe import load_recipe
from papers.interplay import claims, experiment, model
from papers.interplay.training import hooks

PAPER = papers.find("interplay")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finding]:
    run = Run(PAPER, Settings(quick=True), tmp_path_factory.mktemp("run"))
    return {found.name: found for found in claims.identity(run) if isinstance(found, Finding)}


def test_the_way_begins_at_resnet_and_ends_at_convnext(findings: dict[str, Finding]) -> None:
    assert list(findings) == ["first", "last", "steps", "shapes"]
    assert all(found.verdict == "holds" and found.exact for found in findings.values())


def test_a_wrong_block_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the activation after the sum, the first network is no ResNet."""
    monkeypatch.setattr(model.Block, "forward", lambda self, x: self.body(x) + self.shortcut(x))
    difference, size = claims._difference("chain_resnet", "resnet50")
    assert difference > 1e-2 * size


def test_a_step_that_changes_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(claims, "_difference", lambda ours, theirs: (0.0, 1.0))
    monkeypatch.setitem(model.ACTIVATIONS, "gelu", nn.ReLU)
    found: Any = {finding.name: finding for finding in claims.identity(Run(PAPER, Settings(), tmp_path))}  # type: ignore[union-attr]
    assert found["steps"].verdict == "does not hold"
    assert "; gelu: ;" in found["steps"].evidence


@pytest.mark.parametrize("step", model.STEPS)
def test_a_network_of_the_way_takes_what_timm_gives(step: str) -> None:
    """Other classes, channels and sizes; features of stages; no classifier; blocks computed again."""
    design = model.designs()[step]
    network = model.Network(design, 8, (1, 1), num_classes=5, in_chans=1, drop_path_rate=0.2)
    images = torch.rand(2, 1, 40, 48)
    network.train()
    network.set_grad_checkpointing()
    network(images).sum().backward()
    assert all(value.grad is not None for value in network.parameters())
    network.eval()
    features = network.forward_features(images)
    assert features.shape == (2, network.num_features, 5, 6)
    assert network(images).shape == (2, 5)
    network.reset_classifier(0)
    assert network(images).shape == (2, network.num_features)
    network.reset_classifier(3, "")
    assert network(images).shape == (2, 5, 6, 3)


def test_stochastic_depth_leaves_blocks_out() -> None:
    design = model.designs()["gelu"]
    network = model.Network(design, 8, (2,), drop_path_rate=0.5, num_classes=3).train()
    rates = [module.drop_prob for module in network.modules() if isinstance(module, model.DropPath)]
    assert rates == [0.0, 0.5]


def test_features_of_the_stages() -> None:
    network = timm.create_model("chain_convnext", features_only=True, depths=(1, 1, 1, 1)).eval()
    with torch.no_grad():
        shapes = [tuple(one.shape) for one in network(torch.rand(1, 3, 64, 64))]
    assert shapes == [(1, 96, 16, 16), (1, 192, 8, 8), (1, 384, 4, 4), (1, 768, 2, 2)]


def test_features_of_a_network_with_a_stem_of_convolutions() -> None:
    network: Any = timm.create_model("convnext_t_cvst", features_only=True, out_indices=(0, 2), depths=(1, 1, 1, 1))
    with torch.no_grad():
        shapes = [tuple(one.shape) for one in network.eval()(torch.rand(1, 3, 64, 64))]
    assert shapes == [(1, 96, 16, 16), (1, 384, 4, 4)]
    assert "stem.stem.0.weight" in network.state_dict()


def test_sizes_that_are_not_square_or_do_not_fit() -> None:
    network: Any = timm.create_model("chain_gelu", img_size=(64, 96), depths=(1, 1, 1, 1))
    assert network.pretrained_cfg["input_size"] == (3, 64, 96)
    wrong_sizes: list[dict[str, Any]] = [{"img_size": 65}, {"img_size": 64, "patch_size": 8}]
    for wrong in wrong_sizes:
        with pytest.raises(UserError, match="a multiple of 16"):
            timm.create_model("vit_s_cvst", depth=1, **wrong)


def isotropic_names(state: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(".")[2] for name in state if name.startswith("blocks.0.")}


@pytest.mark.parametrize("name", ["convnext_iso", "convnext_iso_cvst"])
def test_isotropic_networks_have_the_released_names(name: str) -> None:
    network = timm.create_model(name, depths=(2,), num_classes=4).eval()
    released = to_released(network)
    assert isotropic_names(released) == {"dwconv", "norm", "pwconv1", "pwconv2"}
    assert ("stem.weight" in released) is (name == "convnext_iso")
    other = timm.create_model(name, depths=(2,), num_classes=4).eval()
    load_released(other, {f"module.{key}": value for key, value in released.items()})
    images = torch.rand(1, 3, 48, 32)
    with torch.no_grad():
        assert torch.equal(other(images), network(images))


def test_files_with_a_normalisation_in_front_are_read() -> None:
    network = timm.create_model("vit_s_cvst", depth=1, num_classes=4, img_size=32)
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    state |= {f"normalize.{name}": torch.zeros(1, 3, 1, 1) for name in ("mean", "std")}
    other = timm.create_model("vit_s_cvst", depth=1, num_classes=4, img_size=32)
    load_released(other, {f"module.base_model.{name}": value for name, value in state.items()})
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("name", "changes", "stem"),
    [
        ("vit_m_cvst", {"depth": 1, "img_size": 64}, "patch_embed.proj.stem.12.weight"),
        ("vit_b_cvst", {"depth": 1, "img_size": 64}, "patch_embed.proj.stem.12.weight"),
        ("convnext_t_cvst", {"depths": (1, 1, 1, 1)}, "stem.stem.3.weight"),
        ("convnext_b_cvst", {"depths": (1, 1, 1, 1)}, "stem.stem.6.weight"),
    ],
)
def test_stems_of_convolutions_lead_to_as_many_places(name: str, changes: dict[str, Any], stem: str) -> None:
    network: Any = timm.create_model(name, num_classes=4, **changes).eval()
    assert stem in network.state_dict()
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 4)
    embed, side = (network.patch_embed.proj, 4) if "vit" in name else (network.stem, 16)
    assert embed(torch.rand(1, 3, 64, 64)).shape[2:] == (side, side)


def test_a_tag_says_at_which_size_is_evaluated() -> None:
    network: Any = build("convnext_t_cvst.at_256", 1000)
    assert network.pretrained_cfg["input_size"] == (3, 256, 256)
    assert network.pretrained_cfg["std"] == (1.0, 1.0, 1.0)


def test_unknown_networks_and_weights_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean chain_gelu"):
        model.create("chain_gelo")
    with pytest.raises(UserError, match="no weights to fetch"):
        timm.create_model("chain_gelu", pretrained=True)


def test_recipes_name_the_attack() -> None:
    for setting, attacked in (("imagenet", True), ("clean", False), ("embedded", True)):
        found = hooks(load_recipe(PAPER.recipe, setting))
        assert bool(found) is attacked
        assert all(isinstance(hook, AdversarialTraining) for hook in found)
    (hook,) = hooks(load_recipe(PAPER.recipe, "imagenet"))
    assert isinstance(hook, AdversarialTraining)
    assert (hook.attack.steps, hook.attack.random_start, hook.copies) == (2, False, 3)
    for setting in ("embedded", "clean"):
        with pytest.raises(UserError, match="l3"):
            hooks(load_recipe(PAPER.recipe, setting).with_changes("method.norm=l3"))


def test_small_networks_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyautoattack")
    monkeypatch.setattr(experiment, "L1", AutoAttack(epsilon=4 / 255, attacks=("apgd-ce",)))  # five times shorter
    recipe = load_recipe(PAPER.recipe, "embedded", quick=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 10)).eval()
    found = experiment.measure(model, recipe, True)
    assert list(found) == ["top1", experiment.SEEN, experiment.AUTOATTACKED, *experiment.UNSEEN]
    assert {np.shape(found[metric]) for metric in experiment.UNSEEN} == {(1, 1)}


def test_every_step_is_trained_and_named() -> None:
    names = [contender.name for contender in claims.contenders()]
    assert names == [f"chain_mini.{step}+at" for step in (*model.STEPS, "isotropic")]
    sizes = [sum(value.numel() for value in make().parameters()) for make in experiment.NETWORKS.values()]
    assert max(sizes) < 1.5 * min(sizes)
    assert experiment.isotropic_mini()(torch.rand(1, 3, 28, 28)).shape == (1, bench.hosts.CLASSES)


def test_the_picture_of_the_way(tmp_path: Path) -> None:
    metrics = ("top1", experiment.SEEN, *experiment.UNSEEN)
    names = [contender.name for contender in claims.contenders()]
    values = {(name, seed): {metric: np.ones((1, 4)) for metric in metrics} for name in names for seed in (0, 1)}
    assert "<svg" in claims._way(bench.Scores(values)).svg
