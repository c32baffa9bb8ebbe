"""DREAL: maps, rewards, standing aside, the critic, and what is left of it in a network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from timm.layers import create_attn
from torch import nn

from common import bench
from common.errors import UserError
from common.run import Run
from common.run import Settings as RunSettings
from common.training.data import TensorData
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import Recipe, load_recipe
from papers.dreal import claims
from papers.dreal.experiment import SETTINGS, attentive_resnet, measure
from papers.dreal.method import Critic, Reinforcement, Watch, actors, gates, reward, standing_aside
from papers.dreal.training import binned, hooks


def _run() -> Run:
    return cast(Run, SimpleNamespace(settings=RunSettings()))


@pytest.mark.parametrize("claim", [claims.inference, claims.roles])
def test_exact_claims_hold(claim: Any) -> None:
    results: list[Any] = list(claim(_run()))
    assert {finding.name: finding.verdict for finding in results} == {finding.name: "holds" for finding in results}


def test_the_claims_see_a_network_that_is_still_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "close", lambda watch: None)
    (finding,) = cast(Any, list(claims.inference(_run())))
    assert finding.verdict == "does not hold"


def test_the_claims_see_a_value_that_moves_the_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "value_without_critic", lambda critic, states, maps: critic(states, maps).mean())
    found = {finding.name: finding.verdict for finding in cast(Any, list(claims.roles(_run())))}
    assert found["actors_alone"] == "does not hold"


# -- maps and rewards


def test_gates_of_squeeze_and_excitation_are_its_map() -> None:
    module: Any = create_attn("se", 16, **SETTINGS["se"])
    x = torch.randn(3, 16, 5, 6)
    squeezed = x.mean(dim=(2, 3), keepdim=True)
    expected = module.gate(module.fc2(module.act(module.fc1(squeezed))))[:, :, 0, 0]
    assert torch.allclose(gates(x, module(x)), expected, atol=1e-6)
    assert not gates(torch.zeros_like(x), torch.zeros_like(x)).any()


def test_standing_aside() -> None:
    x = torch.randn(4, 8, 3, 3)
    map_of_each = torch.rand(4, 8)
    out = x * map_of_each[:, :, None, None]
    assert torch.equal(standing_aside(x, out, "identity"), x)
    mean = x * map_of_each.mean(dim=0)[:, None, None]
    assert torch.allclose(standing_aside(x, out, "mean"), mean, atol=1e-6)
    with pytest.raises(UserError, match="Did you mean mean"):
        standing_aside(x, out, "meen")


def test_rewards_are_signs() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    better = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    worse = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [1.0, 1.0]])
    assert reward(better, worse, labels).tolist() == [1, 1, 1, 0]
    assert reward(better, worse, labels, "decision").tolist() == [0, 0, 1, 0]
    assert reward(worse, better, labels).tolist() == [-1, -1, -1, 0]
    with pytest.raises(UserError, match="probability or decision"):
        reward(better, worse, labels, "gain")


def test_binned_rewards_are_means() -> None:
    found = binned([(0, 0, 1.0), (1, 0, 0.0), (9, 1, -0.5)], bins=2, modules=2, steps=10)
    assert found.tolist() == [[0.5, 0.0], [0.0, -0.5]]


# -- watching


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_a_module_stands_aside_without_a_trace(kind: str) -> None:
    torch.manual_seed(0)
    model = attentive_resnet(kind).train()
    x = torch.randn(8, 3, 28, 28)
    watch = Watch(model, "identity")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = [watch.without(number, x) for number in range(2)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "statistics stay"
    watch.close()
    for number, module in enumerate(watch.modules):
        replaced = attentive_resnet(kind).train()
        replaced.load_state_dict(before)
        body: Any = cast(Any, replaced).stages[number].body
        body[-1] = nn.Identity()
        assert torch.allclose(replaced(x), logits[number], atol=1e-5), type(module).__name__
    assert not torch.allclose(logits[0], logits[1])


def test_maps_are_those_of_the_last_pass_and_leave_statistics() -> None:
    torch.manual_seed(0)
    model = attentive_resnet("cbam").train()
    watch = Watch(model)
    model(torch.randn(8, 3, 28, 28))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps = watch.maps()
    assert [tuple(one.shape) for one in maps] == [(8, 32), (8, 64)]
    assert all(one.requires_grad for one in maps)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_networks_of_timm_have_actors() -> None:
    """Their shortcuts are added in place, into what a module gave."""
    torch.manual_seed(0)
    model = timm.create_model("seresnet18", num_classes=10).train()
    watch = Watch(model)
    x = torch.randn(4, 3, 32, 32)
    logits = model(x)
    value, mean = Reinforcement(watch).step(1, x, logits, torch.arange(4))
    (logits.mean() - value).backward()
    assert len(watch.modules) == len(watch.states) == 8
    assert -1 <= mean <= 1
    assert all(p.grad is not None for module in watch.modules for p in module.parameters())


def test_networks_without_attention_are_refused() -> None:
    with pytest.raises(UserError, match="ResNet has no attention module that could be reinforced; known are SEModule"):
        actors(bench.hosts.resnet_mini())


# -- the critic


def test_the_critic_remembers_earlier_modules() -> None:
    torch.manual_seed(0)
    critic = Critic([4, 6], 8)
    states = [torch.randn(2, 4, 3, 3), torch.randn(2, 6, 2, 2)]
    maps = [torch.rand(2, 4, requires_grad=True), torch.rand(2, 6, requires_grad=True)]
    values = critic(states, maps)
    assert values.shape == (2, 2)
    (of_first,) = torch.autograd.grad(values[:, 1].sum(), maps[0], retain_graph=True)
    assert of_first.any(), "what an earlier module did is part of what a later one is worth"
    (of_second,) = torch.autograd.grad(values[:, 0].sum(), maps[1])
    assert not of_second.any(), "what a later one did is not"


def test_the_critic_learns_and_modules_follow_it() -> None:
    """A world in which high gates are rewarded: the critic finds out, and its gradient raises them."""
    torch.manual_seed(0)
    critic = Critic([3], 16)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for _ in range(100):
        states, maps = [torch.randn(32, 3, 2, 2)], [torch.rand(32, 3)]
        brought = (maps[0].mean(dim=1) - 0.5).sign()
        loss = (critic(states, maps)[:, 0] - brought).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.6, "of 1 without learning"
    maps = [torch.full((8, 3), 0.5, requires_grad=True)]
    critic([torch.zeros(8, 3, 2, 2)], maps).mean().backward()
    assert cast(torch.Tensor, maps[0].grad).sum() > 0


def test_critics_of_two_processes_are_that_of_one(processes: Any, process_group: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images, labels = attentive_resnet("se").eval(), torch.randn(8, 3, 28, 28), torch.arange(8) % 10

    def after_two_steps(own: slice) -> tuple[dict[str, torch.Tensor], list[float]]:
        watch = Watch(model, "identity")  # the mean map would be that of the process's own images
        logits = model(images[own])
        method = Reinforcement(watch, hidden=8)
        means = [method.step(number, images[own], logits, labels[own])[1] for number in (0, 1)]
        watch.close()
        return method.critic.state_dict(), means

    def child(rank: int) -> None:
        import os

        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        torch.distributed.init_process_group("gloo")
        torch.save(after_two_steps(slice(4 * rank, 4 * rank + 4)), tmp_path / f"{rank}.pt")

    assert processes(child, 2, **process_group(2)) == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    critic, means = after_two_steps(slice(None))
    for part, others in parts:
        assert others == pytest.approx(means)
        for name, value in critic.items():
            assert torch.equal(part[name], parts[0][0][name]), name
            torch.testing.assert_close(part[name], value, rtol=1e-3, atol=1e-5)


# -- training


def _data() -> TensorData:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 28, 28), generator=draws, dtype=torch.uint8)
    return TensorData(images, torch.arange(64) % 10, images[:10], torch.arange(10))


def _recipe(*changes: str) -> Recipe:
    short = ("total_batch=16", "epoch_images=64", "warmup_epochs=0")
    return load_recipe(claims.RECIPE, "embedded", changes=(*short, *changes))


def _trained(recipe: Recipe, **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    model = attentive_resnet("se")
    train(model, recipe, _data(), hooks=hooks(recipe), options=Options(device="cpu"), **kwargs)
    return model


def test_without_strength_it_is_plain_training() -> None:
    assert hooks(_recipe("method.strength=0.0")) == []
    plain, reinforced = _trained(_recipe("method.strength=0.0")), _trained(_recipe())
    rewards: Any = reinforced.rewards
    assert rewards.any()
    assert float(rewards.abs().max()) <= 1
    others = {name: value for name, value in plain.state_dict().items() if name != "rewards"}
    assert not all(torch.equal(value, reinforced.state_dict()[name]) for name, value in others.items())


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_it_trains_in_mixed_precision(kind: str) -> None:
    recipe = _recipe("precision=bfloat16")
    torch.manual_seed(0)
    model: Any = attentive_resnet(kind)
    train(model, recipe, _data(), hooks=hooks(recipe), options=Options(device="cpu"))
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.rewards.any()


def test_gates_of_many_large_numbers_are_finite() -> None:
    x = torch.full((1, 2, 64, 64), 100.0, dtype=torch.float16)
    assert torch.allclose(gates(x, x / 2), torch.full((1, 2), 0.5))
    assert standing_aside(x, x / 2, "mean").dtype == torch.float16


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    recipe = _recipe("epochs=2")
    whole = _trained(recipe)

    class StoppedError(Exception):
        pass

    hook: Any = hooks(recipe)[0]

    def stop(run: Any) -> None:
        if run.step == 6:
            raise StoppedError

    hook.on_step = stop
    torch.manual_seed(0)
    with pytest.raises(StoppedError):
        train(attentive_resnet("se"), recipe, _data(), folder=tmp_path, hooks=[hook], options=Options(device="cpu"))
    resumed = _trained(recipe, folder=tmp_path)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("method.reward=gain", "reward is of probability or decision"),
        ("method.aside=mena", "Did you mean mean"),
        ("method.strength=-1.0", "no negative weight"),
        ("method.critic_rate=0.0", "positive size and rate"),
    ],
)
def test_wrong_settings_are_refused(change: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        hooks(_recipe(change))


def test_mixed_images_have_no_true_class() -> None:
    with pytest.raises(UserError, match="set mix_probability=0"):
        hooks(_recipe("mixup=0.8", "mix_probability=1.0"))


def test_modules_that_do_the_same_to_all_images_bring_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = bench.test_set(True)
    few = SimpleNamespace(clean=tests.clean[:, :10], labels=tests.labels[:, :10])
    monkeypatch.setattr(bench, "test_set", lambda quick: few)
    torch.manual_seed(0)
    model: Any = attentive_resnet("se").eval()
    recipe = load_recipe(claims.RECIPE, "embedded")
    for block in model.stages:
        nn.init.zeros_(block.body[-1].fc2.weight)
    values = {name: np.asarray(value) for name, value in measure(model, recipe, True).items()}
    assert values["top1"].shape == values["attention_gain"].shape == (20, 10)
    assert not values["attention_gain"].any()
