"""How the claims are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import bench, figures
from common.measurement import Finding, Picture, Result
from common.profiling import compare_cost, count, ratio_finding, time_measurement
from common.run import Run
from common.training.data import TensorData
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import load_recipe
from papers.dreal.experiment import BINS, attentive_resnet, measure
from papers.dreal.method import Critic, Reinforcement, Watch, reward, value_without_critic
from papers.dreal.training import hooks

RECIPE = Path(__file__).with_name("recipe.toml")
HOST, SE, CBAM = "resnet_mini", "resnet_mini+se", "resnet_mini+cbam"
SE_DREAL, CBAM_DREAL = f"{SE}.dreal", f"{CBAM}.dreal"


def contenders() -> list[bench.Contender]:
    """The host, and it with squeeze-and-excitation and with CBAM, trained plainly and by DREAL."""

    def with_module(name: str, kind: str) -> list[bench.Contender]:
        build = partial(attentive_resnet, kind)
        return [bench.Contender(name, build), bench.Contender(f"{name}.dreal", build, hooks, recipe=RECIPE)]

    return [bench.host(HOST), *with_module(SE, "se"), *with_module(CBAM, "cbam")]


def reinforced(run: Run) -> Iterator[Result]:
    """Squeeze-and-excitation with and without DREAL, beside none: accuracy, and rewards as they evolved."""
    scores = bench.scores(run, contenders(), bench.accuracy)
    yield from bench.measurements(scores)
    yield from bench.findings(scores, f"{SE_DREAL} > {SE}: top1", f"{SE} > {HOST}: top1")
    yield _rewards(run)


def any_module(run: Run) -> Iterator[Result]:
    """The same with CBAM."""
    scores = bench.scores(run, contenders(), bench.accuracy)
    yield from bench.findings(scores, f"{CBAM_DREAL} > {CBAM}: top1", f"{CBAM} > {HOST}: top1")


def gain(run: Run) -> Iterator[Result]:
    """What accuracy each network loses when one of its modules treats all images alike."""
    scores = bench.scores(run, [one for one in contenders() if one.name != HOST], measure)
    yield from bench.measurements(scores, ("attention_gain",))
    yield from bench.findings(scores, f"{SE_DREAL} > {SE}: attention_gain", f"{CBAM_DREAL} > {CBAM}: attention_gain")


def inference(run: Run) -> Iterator[Result]:
    """What a short training by DREAL leaves in a network."""
    trained, plain = briefly_trained(run.settings.seed), attentive_resnet("se").eval()
    plain.load_state_dict(trained.state_dict())  # strict: the same names and shapes
    images = torch.rand(4, 3, 28, 28)
    with torch.no_grad():
        equal = torch.equal(plain(images), trained(images))
    hooked = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in trained.modules())
    sizes = [[one.value for one in count(model, SE, (3, 28, 28))] for model in (plain, trained)]
    same = equal and not hooked and sizes[0] == sizes[1]
    yield Finding.exactly(
        name="same_network",
        statement="What DREAL has trained is the network itself: same tensors, operations and outputs, no critic.",
        holds=same,
        evidence=(
            f"{sizes[1][0] * 1e3:.1f} k parameters and {sizes[1][1] * 1e3:.2f} M multiply-adds in both, "
            f"outputs {'equal bit by bit' if equal else 'not equal'}, {hooked} hooks left."
        ),
    )


def roles(run: Run) -> Iterator[Result]:
    """Gradients of the critic's value, and rewards of modules whose gain is known."""
    torch.manual_seed(run.settings.seed)
    model: Any = attentive_resnet("se")
    watch = Watch(model)
    images, labels = torch.randn(16, 3, 28, 28), torch.arange(16) % 10
    logits = model(images)
    critic = Critic([state.shape[1] for state in watch.states], 8)
    value_without_critic(critic, watch.states, watch.maps()).backward()
    own = {id(p) for module in watch.modules for p in module.parameters()}
    moved = [p.grad is not None and bool(p.grad.any()) for p in model.parameters() if id(p) in own]
    others = [p for p in (*model.parameters(), *critic.parameters()) if id(p) not in own and p.grad is not None]
    yield Finding.exactly(
        name="actors_alone",
        statement="The critic's value has a gradient on attention modules and on nothing else.",
        holds=all(moved) and not others,
        evidence=f"{sum(moved)} of {len(moved)} tensors of attention modules have one, {len(others)} others do.",
        value=float(len(others)),
    )
    for module in watch.modules:  # without weights, the gates are the biases alone, the same for all images
        nn.init.zeros_(module.fc2.weight)  # type: ignore[union-attr,arg-type]
    logits = model(images).detach()
    brought = [watch.without(number, images) for number in range(len(watch.modules))]
    apart = max(float((logits - without).abs().max() / logits.abs().max()) for without in brought)
    yield Finding.exactly(
        name="constant_brings_nothing",
        statement="A module that does the same to all images brings nothing.",
        holds=apart < 1e-5,
        evidence=f"Logits with and without it are {apart:.1e} of their magnitude apart (bound 1e-5).",
        value=apart,
    )
    watch.close()
    better = logits + F.one_hot(labels, 10)
    up, down, equal = reward(better, logits, labels), reward(logits, better, labels), reward(logits, logits, labels)
    yield Finding.exactly(
        name="sign",
        statement="The reward is 1 where the true class is likelier with a module, -1 where less, 0 where as likely.",
        holds=bool((up == 1).all() and (down == -1).all() and (equal == 0).all()),
        evidence="Logits of 16 images, and the same with the true class raised, in either order and with themselves.",
    )


def cost(run: Run) -> Iterator[Result]:
    """Time of a training step of the bench's network with squeeze-and-excitation."""
    device = torch.device(run.settings.device)
    images = torch.randn(32 if run.settings.quick else 128, 3, 28, 28, device=device)
    costs = compare_cost(
        steps(images),
        baseline=SE,
        device=device,
        rounds=6 if run.settings.quick else 15,
        warmup=1,
        memory=False,
        description="timing training steps",
    )
    for name, comparison in costs.items():
        yield time_measurement(name, "training_step_time", comparison.cost, len(images), 28)
    yield ratio_finding(
        name="at_most_twice",
        statement="A step with a judged module, the critic's step and the modules' costs at most twice a plain one.",
        ratio=costs[SE_DREAL].time_ratio,
        bound=2.0,
        whose="the plain step's",
        rest=f", batches of {len(images)} images",
    )


def steps(images: Tensor) -> dict[str, Callable[[], None]]:
    """A training step on (B, 3, 28, 28) without the network's optimizer, plain and by DREAL."""
    labels = torch.arange(len(images), device=images.device) % 10
    plain, model = (attentive_resnet("se").to(images.device).train() for _ in range(2))
    watch = Watch(model)
    model(images)
    method = Reinforcement(watch, hidden=32)

    def plainly() -> None:
        F.cross_entropy(plain(images), labels).backward()
        plain.zero_grad(set_to_none=True)

    def by_dreal() -> None:
        logits = model(images)
        value, _ = method.step(0, images, logits, labels)
        (F.cross_entropy(logits, labels) - value).backward()
        model.zero_grad(set_to_none=True)

    return {SE: plainly, SE_DREAL: by_dreal}


def briefly_trained(seed: int) -> nn.Module:
    """The bench's network with squeeze-and-excitation after four steps of DREAL on random images."""
    torch.manual_seed(seed)
    model = attentive_resnet("se")
    images, labels = torch.randint(0, 256, (64, 3, 28, 28), dtype=torch.uint8), torch.arange(64) % 10
    short = ("total_batch=16", "epoch_images=64", "warmup_epochs=0")
    recipe = load_recipe(RECIPE, "embedded", changes=short)
    data = TensorData(images, labels, images[:10], labels[:10])
    train(model, recipe, data, seed=seed, hooks=hooks(recipe), options=Options(device="cpu"))
    return model.eval()


def _rewards(run: Run) -> Picture:
    """Mean rewards of each module by the part of the training, mean over seeds."""
    chosen = [one for one in contenders() if one.name.endswith(".dreal")]
    with figures.figure("rewards", 6.5, 2.8) as drawn:
        axes = drawn.subplots(1, len(chosen), sharey=True)
        for axis, contender in zip(axes, chosen, strict=True):
            models: list[Any] = [bench.trained(run, contender, seed) for seed in run.seeds()]
            rewards = torch.stack([model.rewards.cpu() for model in models]).mean(dim=0)
            for number in range(rewards.shape[1]):
                parts = [100 * (part + 0.5) / BINS for part in range(BINS)]
                axis.plot(parts, rewards[:, number].tolist(), "o-", markersize=3, label=f"block {number + 1}")
            axis.set_title(contender.name)
            axis.set_xlabel("training, %")
            axis.grid(axis="y")
        axes[0].set_ylabel("mean reward")
        axes[0].legend()
        svg = figures.to_svg(drawn)
    seeds = len(run.seeds())
    return Picture(
        name="rewards",
        caption=(
            "Mean reward of the attention module of each block in training: 1 where all images are recognised better "
            f"with its own map than with its mean map, -1 where all are worse; {seeds} seed{'s' * (seeds > 1)}."
        ),
        svg=svg,
    )
