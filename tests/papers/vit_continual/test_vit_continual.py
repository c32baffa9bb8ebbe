"""Continual learning: parity with the release, tasks, regularisers, class means, rehearsal buffers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from common import bench
from common.checkpoints import load_released
from common.errors import UserError
from common.run import Run
from common.run import Settings as RunSettings
from common.training.data import TensorData, make_plan
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import Recipe, load_recipe
from papers.vit_continual import claims, prototypes
from papers.vit_continual.distillation import (
    attention_divergence,
    distil_decisions,
    pod_weight,
    pooled,
    pooled_distillation,
)
from papers.vit_continual.experiment import RECIPE, SIZES, learner, measure, stem
from papers.vit_continual.importance import PathIntegral, drift, fisher_information, merged
from papers.vit_continual.learner import Learner
from papers.vit_continual.model import EarlyConvViT, Intermediates, create, released_state_dict
from papers.vit_continual.prototypes import ClassMeans
from papers.vit_continual.rehearsal import Format, RandomFeatures, balanced_sample
from papers.vit_continual.tasks import TaskByTask, Tasks, forgetting
from papers.vit_continual.training import hooks
from tests.parity import Fixture, check_gradients, distance, images

SLUG = "vit-continual"
SMALL: dict[str, Any] = {"num_classes": 0, "embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_dim": 96, "img_size": 64}


# -- parity


def test_the_network_matches_the_release() -> None:
    fixture = Fixture.load(SLUG, "early_conv_vit_small")
    model: Any = timm.create_model("early_conv_vit", **SMALL).eval()
    assert sum(p.numel() for p in model.parameters()) == fixture.about["params"]
    load_released(model, fixture.state())
    x, seen = images(2, 3, 64, 64), Intermediates()
    noted = model.forward_head(model.forward_features(x, seen), pre_logits=True)
    found = model(x)
    for features in (found, noted):
        assert distance(features, fixture.arrays["features"]) < 1e-4
    for block in range(3):
        assert distance(seen.scores[block], fixture.arrays[f"attention_{block}"]) < 1e-4
        assert distance(seen.mixed[block], fixture.arrays[f"post_attention_{block}"]) < 1e-4
    (found * images(1, 1, 2, 48, seed=7)[0, 0]).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    check_gradients({n: g.norm().item() for n, g in released_state_dict(gradients, model).items()}, fixture)


def test_names_of_the_released_training_load() -> None:
    """The release puts the network into two others and gives each task a head."""
    fixture = Fixture.load(SLUG, "early_conv_vit_small")
    state = {f"model.model.{name}": value for name, value in fixture.state().items()}
    heads = [torch.randn(3, 48), torch.randn(2, 48)]
    state |= {f"heads.{n}.weight": w for n, w in enumerate(heads)} | {
        f"heads.{n}.bias": w[:, 0] for n, w in enumerate(heads)
    }
    model: Any = timm.create_model("early_conv_vit", **{**SMALL, "num_classes": 5})
    load_released(model, state)
    assert torch.equal(model.head.weight, torch.cat(heads))
    with pytest.raises(
        UserError, match=r"do not fit each other \(heads\.0\.weight \[3, 48\], heads\.1\.weight \[2, 47"
    ):
        load_released(model, state | {"heads.1.weight": heads[1][:, 1:]})


def test_larger_images_than_there_are_positions_for_are_refused() -> None:
    with pytest.raises(UserError, match="have 256 patches, and there are positions for 196"):
        create("early_conv_vit", **SMALL)(torch.zeros(1, 3, 256, 256))


def _form(name: str) -> tuple[dict[str, Any], str]:
    """Arguments of a recorded loss by its name, and its pooling."""
    pooling = name.rpartition("_")[2]
    form: dict[str, Any] = {"asymmetric": not name.startswith("sym"), "pooling": pooling}
    form |= {"before_norm": "before_norm" in name, "reverse": "reverse" in name, "sparsity": 0.5 * ("sparse" in name)}
    if "layers6" in name:
        form["divisor"] = 1
    if "podfactor" in name:
        form["weight"] = pod_weight(60, 20)
    return form, pooling


@pytest.mark.parametrize("kind", ["attention_distillation", "functional_distillation"])
def test_pooled_distillation_matches_the_release(kind: str) -> None:
    fixture = Fixture.load(SLUG, kind)
    arrays = fixture.arrays
    old = [torch.from_numpy(arrays[f"old_{layer}"]) for layer in range(2)]
    for name, recorded in zip(fixture.about["loss_names"], arrays["loss_values"], strict=True):
        new = [torch.from_numpy(arrays[f"new_{layer}"]).requires_grad_() for layer in range(2)]
        loss = pooled_distillation(old, new, **_form(name)[0])
        assert abs(float(loss.detach()) - recorded) < 1e-4 * recorded, name
        gradient = torch.stack(torch.autograd.grad(loss, new))
        if f"grad_{name}" in arrays:
            assert distance(gradient, arrays[f"grad_{name}"]) < 1e-3, name
        elif "before_norm" in name:
            assert float(gradient.abs().max()) < 1e-6, name


def test_divergence_of_attention_matches_the_release() -> None:
    arrays = Fixture.load(SLUG, "attention_js").arrays
    old, new = (torch.from_numpy(arrays[name]).float() for name in ("old", "new"))
    new.requires_grad_()
    loss = attention_divergence([old], [new])
    assert abs(float(loss.detach()) - float(arrays["loss"])) < 1e-4 * float(arrays["loss"])
    (gradient,) = torch.autograd.grad(loss, new)
    assert distance(gradient[:, :, :40, :40], arrays["grad"]) < 1e-3


def test_learning_without_forgetting_matches_the_release() -> None:
    arrays = {name: torch.from_numpy(value) for name, value in Fixture.load(SLUG, "lwf").arrays.items() if value.ndim}
    recorded = Fixture.load(SLUG, "lwf").arrays
    outputs = [arrays[f"output_{task}"].requires_grad_() for task in range(3)]
    old = torch.cat([arrays[f"old_output_{task}"] for task in range(2)], dim=1)
    distilled = distil_decisions(old, torch.cat(outputs[:2], dim=1))
    loss = distilled + F.cross_entropy(outputs[2], arrays["targets"] - arrays["task_offset"][2])
    assert float(distilled.detach()) == pytest.approx(float(recorded["distillation"]), rel=1e-5)
    assert float(loss.detach()) == pytest.approx(float(recorded["loss"]), rel=1e-5)
    for gradient, task in zip(torch.autograd.grad(loss, outputs), range(3), strict=True):
        assert distance(gradient, recorded[f"grad_output_{task}"]) < 1e-3


class TwoHeads(nn.Module):
    """The network that weight regularisation was recorded with."""

    def __init__(self, arrays: Mapping[str, np.ndarray], start: str) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5))
        self.heads = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 2)])
        self.load_state_dict({name: torch.from_numpy(arrays[f"{start}_{name}"]) for name in self.state_dict()})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(self.model(x)) for head in self.heads], dim=1)


def _recorded(arrays: Mapping[str, np.ndarray], what: str) -> dict[str, Tensor]:
    layers = [f"{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    return {name: torch.from_numpy(arrays[f"{what}_{name}"]) for name in layers}


def test_elastic_weights_match_the_release() -> None:
    fixture = Fixture.load(SLUG, "weight_regularisation")
    arrays, about = fixture.arrays, fixture.about
    x, y, size = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]), about["batch_size"]
    first = TwoHeads(arrays, "init")
    batches = [(x[i : i + size], y[i : i + size]) for i in range(0, len(x) - size + 1, size)]
    found = fisher_information(first, dict(first.model.named_parameters()), batches)
    importance = merged({name: torch.zeros_like(v) for name, v in found.items()}, found, about["alpha"])
    for name in found:
        assert distance(found[name], arrays[f"fisher_current_{name}"]) < 1e-4, name
        assert distance(importance[name], arrays[f"fisher_{name}"]) < 1e-4, name
    moved = TwoHeads(arrays, "moved")
    anchors = {name: p.detach() for name, p in first.model.named_parameters()}
    weights = dict(moved.model.named_parameters())
    learnt = F.cross_entropy(moved(torch.from_numpy(arrays["x_task1"]))[:, 3:], torch.from_numpy(arrays["y_task1"]) - 3)
    loss = learnt + about["lamb"] / 2 * drift(weights, anchors, importance)
    assert float(loss.detach()) == pytest.approx(float(arrays["loss_task1"]), rel=1e-5)
    for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
        assert distance(gradient, arrays[f"grad_task1_model.{name}"]) < 1e-3, name


def test_the_path_integral_matches_the_release() -> None:
    fixture = Fixture.load(SLUG, "weight_regularisation")
    arrays, settings, size = fixture.arrays, fixture.about["path"], fixture.about["batch_size"]
    model = TwoHeads(arrays, "init")
    weights = dict(model.model.named_parameters())
    path = PathIntegral(weights, settings["damping"])
    optimizer = torch.optim.SGD(model.parameters(), lr=settings["lr"])
    for step in range(settings["steps"]):
        part = slice(step * size, (step + 1) * size)
        x, y = torch.from_numpy(arrays["x"][part]), torch.from_numpy(arrays["y"][part])
        optimizer.zero_grad()
        F.cross_entropy(model(x)[:, :3], y).backward()
        before = {name: p.detach().clone() for name, p in weights.items()}
        gradients = {name: cast(Tensor, p.grad).clone() for name, p in weights.items()}
        optimizer.step()
        path.add(gradients, before, weights)
    for name, recorded in _recorded(arrays, "path_w").items():
        assert distance(path.brought[name], recorded.numpy()) < 1e-4, name
    path.end_task(weights)
    for name, recorded in _recorded(arrays, "path_importance").items():
        assert distance(path.importance[name], recorded.numpy()) < 1e-4, name
        assert not path.brought[name].any()


# -- claims that are exact


@pytest.mark.parametrize("claim", [claims.losses, claims.order])
def test_exact_claims_hold(claim: Any) -> None:
    results: list[Any] = list(claim(cast(Run, SimpleNamespace(settings=RunSettings()))))
    assert {finding.name: finding.verdict for finding in results} == {finding.name: "holds" for finding in results}


def test_the_claim_sees_a_loss_that_is_not_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(old: Any, new: Any, reverse: bool = False, **form: Any) -> Tensor:
        return pooled_distillation(old, new, asymmetric=False)

    monkeypatch.setattr(claims, "pooled_distillation", both)
    results: list[Any] = list(claims.losses(cast(Run, SimpleNamespace(settings=RunSettings()))))
    assert results[0].verdict == "does not hold"


def test_attention_that_is_only_gained_where_there_was_none_is_free() -> None:
    old, new = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    old[0, 0, 0] = torch.tensor([0.0, -1.0])
    new[0, 0, 0] = torch.tensor([1.0, 0.0])
    assert pooled_distillation([old], [new], pooling="pixel") == 0
    assert pooled_distillation([old], [new], pooling="pixel", reverse=True) > 0
    assert pooled_distillation([old], [new], pooling="pixel", asymmetric=False) > 0


def test_poolings() -> None:
    x = torch.arange(24.0).view(1, 2, 3, 4)
    assert pooled(x, "height")[0, 0] == x[0, 0, :, 0].sum()
    assert pooled(x, "width")[0, 0] == x[0, 0, 0].sum()
    assert [tuple(pooled(x, name).shape) for name in ("spatial", "gap", "pixel")] == [(1, 14), (1, 2), (1, 2, 3, 4)]
    with pytest.raises(UserError, match=r"no pooling 'spatal'\. Did you mean"):
        pooled(x, "spatal")
    with pytest.raises(UserError, match="0 of the old model"):
        pooled_distillation([], [])


# -- tasks


def test_tasks_share_out_classes() -> None:
    tasks = Tasks.of(6, 2, 2, "5 0 1 3 2 4")
    assert tasks.classes == ((5, 0), (1, 3), (2, 4))
    assert tasks.of_class.tolist() == [0, 1, 2, 1, 2, 0]
    assert tasks.place_in_task.tolist() == [1, 0, 0, 1, 1, 0]
    assert Tasks.of(4, 4, 1).classes == ((0, 1, 2, 3),)
    for wrong in ((6, 3, 2, ""), (6, 0, 2, ""), (6, 2, 2, "0 1 2 3 4"), (6, 2, 2, "a b c d e f"), (2, 1, 1, "0 0")):
        with pytest.raises(UserError, match=r"method\."):
            Tasks.of(*wrong)
    with pytest.raises(UserError, match="each once"):
        Tasks(((0,), (0, 1)))


def test_forgetting_is_lost_from_the_best() -> None:
    assert forgetting([[0.9, 0.0, 0.0], [0.95, 0.8, 0.0], [0.5, 0.7, 0.9]]) == pytest.approx((0.45 + 0.1) / 2)


def _data(per_class: int = 60) -> TensorData:
    """Four classes that a mean tells apart."""
    labels = torch.arange(4).repeat_interleave(per_class)
    draws = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 40, (len(labels), 3, 28, 28), generator=draws)
    pixels = (noise + 50 * labels[:, None, None, None]).to(torch.uint8)
    return TensorData(pixels, labels, pixels[::6], labels[::6])


def _recipe(*changes: str) -> Recipe:
    small = ("num_classes=4", "total_batch=20", "epoch_images=0", "method.class_order=", "method.fisher_batches=2")
    return load_recipe(RECIPE, "embedded", changes=(*small, *changes))


def test_images_come_task_by_task_and_each_as_often() -> None:
    data = TaskByTask(_data(), Tasks.of(4, 2, 2))
    recipe = _recipe("epochs=3")
    plan = make_plan(recipe, seed=0, device_batch=0, rank=0, world=1, device=torch.device("cpu"))
    batches = [batch for epoch in range(3) for batch in data.training_batches(recipe, plan, epoch, 0)]
    assert [int(labels.max() > 1) for _, labels in batches] == [0] * 18 + [1] * 18
    first = torch.cat([images for images, _ in batches[:6]]).flatten(1)
    assert len(first.unique(dim=0)) == 120, "a pass over a task shows each of its images once"
    counts = torch.cat([labels for _, labels in batches]).bincount()
    assert counts.tolist() == [180] * 4
    resumed = list(data.training_batches(recipe, plan, 1, 4))
    assert torch.equal(resumed[0][0], batches[12 + 4][0])


def _small_learner(tasks: Tasks) -> Learner:
    torch.manual_seed(0)
    return Learner(EarlyConvViT(**{**SIZES, "depth": 1}, stem=stem), tasks)


@pytest.mark.parametrize("regulariser", ["none", "ewc", "path_integral", "lwf", "attention", "functional"])
def test_every_regulariser_learns_the_tasks(regulariser: str) -> None:
    recipe = _recipe(f"method.regulariser={regulariser}", "optimizer=adamw", "learning_rate=0.003")
    data = TaskByTask(_data(), Tasks.of(4, 2, 2))
    model = _small_learner(data.tasks)
    first, second = (cast(nn.Linear, head) for head in model.heads)
    start = [head.weight.detach().clone() for head in (first, second)]
    train(model, recipe, data, hooks=hooks(recipe), options=Options(device="cpu"))
    assert not model.notes
    snapshots: Any = model.snapshots
    assert snapshots.abs().sum(dim=1).all()
    assert not torch.equal(snapshots[0], snapshots[1])
    last = first.weight.detach().clone()
    assert not torch.equal(last, start[0])
    model.recall(0)
    assert torch.equal(first.weight, last), "the first head is frozen in the second task"
    assert torch.equal(second.weight, start[1]), "the second one waits in the first task"


def _trained(*changes: str) -> Tensor:
    """The weights after each of two short tasks, by plain gradient descent, which does not blow up rounding."""
    data = TaskByTask(_data(20), Tasks.of(4, 2, 2))
    recipe = _recipe("optimizer=momentum", "momentum=0.0", "learning_rate=0.05", *changes)
    model = _small_learner(data.tasks)
    train(model, recipe, data, hooks=hooks(recipe), options=Options(device="cpu"))
    snapshots: Any = model.snapshots
    return snapshots


def test_regularisers_without_weight_are_fine_tuning_and_with_it_are_not() -> None:
    plain = _trained()
    for name, strength in (("ewc", 1e5), ("path_integral", 1e4), ("functional", 1.0)):
        of_attention = ("method.decisions=0.0", f"method.regulariser={name}")
        off = _trained(*of_attention, "method.strength=0.0")
        assert torch.allclose(off, plain, atol=1e-6), name
        on = _trained(*of_attention, f"method.strength={strength}")
        assert torch.allclose(on[0], plain[0], atol=1e-6), f"{name} holds nothing in the first task"
        assert not torch.allclose(on[1], plain[1], atol=1e-5), name


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    data = TaskByTask(_data(30), Tasks.of(4, 2, 2))
    recipe = _recipe("method.regulariser=functional", "epochs=3", "optimizer=adamw", "learning_rate=0.003")
    whole = _small_learner(data.tasks)
    train(whole, recipe, data, hooks=hooks(recipe), options=Options(device="cpu"))

    class StoppedError(Exception):
        pass

    hook: Any = hooks(recipe)[0]
    step = hook.on_step
    hook.on_step = lambda run: (_ for _ in ()).throw(StoppedError) if run.step == 14 else step(run)
    with pytest.raises(StoppedError):
        train(_small_learner(data.tasks), recipe, data, folder=tmp_path, hooks=[hook], options=Options(device="cpu"))
    resumed = _small_learner(data.tasks)
    train(resumed, recipe, data, folder=tmp_path, hooks=hooks(recipe), options=Options(device="cpu"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_what_is_no_learning_by_tasks_is_refused() -> None:
    data, tasks = _data(), Tasks.of(4, 2, 2)
    recipe = _recipe()
    with pytest.raises(UserError, match="does not learn these tasks"):
        train(EarlyConvViT(**{**SIZES, "num_classes": 4}, stem=stem), recipe, data, hooks=hooks(recipe))
    with pytest.raises(UserError, match="do not come task by task"):
        train(_small_learner(tasks), recipe, data, hooks=hooks(recipe), options=Options(device="cpu"))
    for change, says in (
        ("method.regulariser=attntion", "Did you mean attention"),
        ("method.strength=-1.0", "not negative"),
        ("method.fisher_batches=0", "fisher_batches is above 0"),
        ("method.temperature=0.0", "temperature is above 0"),
        ("method.alpha=1.5", r"lies in \[0, 1\]"),
        ("label_smoothing=0.1", "set label_smoothing=0"),
        ("method.classes_per_task=3", "cannot be shared out"),
    ):
        with pytest.raises(UserError, match=says):
            hooks(_recipe(change))
    with pytest.raises(UserError, match="no pooling 'max'"):
        hooks(_recipe("method.regulariser=attention", "method.pooling=max"))
    with pytest.raises(UserError, match="tasks have 6 classes"):
        TaskByTask(data, Tasks.of(6, 2, 2))
    images, labels = data.train
    lost = TensorData(images[labels < 2], labels[labels < 2], *data.validation, 4)
    with pytest.raises(UserError, match="no image of any class of task 1"):
        TaskByTask(lost, tasks)
    few = _recipe("total_batch=240", "epochs=1", "warmup_epochs=0")
    with pytest.raises(UserError, match="1 steps are too few for 2 tasks"):
        train(_small_learner(tasks), few, TaskByTask(data, tasks), hooks=hooks(few), options=Options(device="cpu"))


def test_a_learner_is_measured_by_its_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner whose weights after every task are the same has forgotten nothing."""
    tests = bench.test_set(True)
    few = dataclasses.replace(tests, clean=tests.clean[:, :10], labels=tests.labels[:, :10])
    monkeypatch.setattr(bench, "test_set", lambda quick: few)
    model = learner().eval()
    for task in range(5):
        model.remember(task)
    values = {n: np.asarray(v) for n, v in measure(model, load_recipe(RECIPE, "embedded"), True).items()}
    assert values["average_top1"].shape == values["new_task_top1"].shape == (20, 10)
    assert values["forgetting"].shape == (20, 8)
    assert not values["forgetting"].any()
    assert np.array_equal(values["new_task_top1"], values["task_aware_top1"])
    assert values["task_aware_top1"].mean() >= values["average_top1"].mean()


# -- frozen features and buffers


def test_the_nearest_mean_decides() -> None:
    means = ClassMeans(2)
    with pytest.raises(UserError, match="add its images first"):
        means.predict(torch.zeros(1, 2))
    means.add(torch.tensor([[0.0, 2.0], [0.0, 4.0], [5.0, 0.0]]), torch.tensor([0, 0, 2]))
    assert means.means[0].tolist() == [0.0, 3.0]
    assert means.predict(torch.tensor([[1.0, 1.0], [4.0, 1.0]])).tolist() == [0, 2], "class 1 has no images"
    far = torch.tensor([[3.5, 4.0]])
    assert means.predict(far).tolist() == [0]
    assert means.predict(torch.tensor([[2.0, 1.5]]), cosine=True).tolist() == [2]
    assert means.predict(torch.tensor([[2.0, 1.5]])).tolist() == [0]


def test_formats_have_equal_bytes() -> None:
    assert Format(28).slots(7840) == 10
    assert Format(14).slots(7840) == 40
    assert Format(28, bits=1).slots(7840) == 80
    image = torch.tensor([[0, 255], [255, 255]], dtype=torch.uint8).view(1, 1, 2, 2)
    assert torch.equal(Format(2).reduced(image), image / 255)
    assert Format(1).reduced(image).item() == pytest.approx(0.75, abs=0.002)
    assert Format(1, bits=1).reduced(image).item() == 1
    with pytest.raises(UserError, match="1 to 8 bits"):
        Format(4, bits=9)


def test_a_sample_is_balanced_whatever_the_order() -> None:
    labels = torch.arange(5).repeat_interleave(100)
    kept = balanced_sample(labels, 50)
    assert labels[kept].bincount().tolist() == [10] * 5
    assert len(balanced_sample(labels[:20], 50)) == 20
    with pytest.raises(UserError, match="smaller than one image"):
        balanced_sample(labels, 0)


def test_random_features_learn() -> None:
    data = _data()
    pixels, labels = data.train
    small = Format(4).reduced(pixels[:, :1])
    model = RandomFeatures(16, torch.Generator().manual_seed(0)).fit(small[::2], labels[::2], 4)
    assert float((model.predict(small[1::2]) == labels[1::2]).float().mean()) > 0.95


# -- timm's interface


def test_it_behaves_as_timms_models_do() -> None:
    model: Any = timm.create_model("early_conv_vit", **{**SMALL, "num_classes": 7}).eval()
    x = images(1, 3, 64, 64)
    assert model(x).shape == (1, 7)
    assert model(images(2, 3, 40, 33)).shape == (2, 7), "positions are the first of the table"
    assert model.get_classifier() is model.head
    model.set_grad_checkpointing()
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.set_grad_checkpointing(False)
    model.eval()
    exported = torch.export.export(model, (x,)).module()
    assert torch.allclose(exported(x), model(x), atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
    model.reset_classifier(3)
    assert model(x).shape == (1, 3)
    with pytest.raises(UserError, match="classifies its class token"):
        model.reset_classifier(3, "avg")
    with pytest.raises(UserError, match="196 patches"):
        create("early_conv_vit", img_size=240)
    with pytest.raises(UserError, match="no EarlyConvViT called 'early_conv'"):
        create("early_conv")
    with pytest.raises(UserError, match="were released"):
        create("early_conv_vit", pretrained=True)


class Colours(nn.Module):
    """Features that are an image's mean colours."""

    num_features = 3

    def forward_features(self, x: Tensor) -> Tensor:
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x.mean(dim=(2, 3))


def test_frozen_features_are_measured_on_class_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20 + number, 30), colour).save(folder / f"{number}.png")
    monkeypatch.setattr(prototypes, "load_model", lambda run: (Colours(), "resnet18", "released"))
    # Fewer than there are, and of both classes all the same.
    settings = RunSettings(folders={"flowers-102": tmp_path}, limit=4, batch_size=4)
    run = cast(Run, SimpleNamespace(settings=settings))
    found = {one.metric: one for one in prototypes.prototypes_flowers_102(run)}
    assert (found["top1"].value, found["top1"].n, found["top1"].model) == (100.0, 4, "resnet18")
    assert found["prototype_time"].value > 0
    whole = cast(Run, SimpleNamespace(settings=dataclasses.replace(settings, limit=None)))
    with pytest.raises(UserError, match="has 2 classes to learn, flowers-102 has 102"):
        list(prototypes.prototypes_flowers_102(whole))
    (tmp_path / "train" / "blue" / "0.png").write_text("<html>")
    with pytest.raises(UserError, match=r"blue/0\.png cannot be read"):
        list(prototypes.prototypes_flowers_102(whole))
    (tmp_path / "test" / "green").mkdir()
    with pytest.raises(UserError, match="The class folder green is in one of"):
        list(prototypes.prototypes_flowers_102(whole))
    lost = dataclasses.replace(settings, folders={"flowers-102": tmp_path / "train"})
    run = cast(Run, SimpleNamespace(settings=lost))
    with pytest.raises(UserError, match="class folders of images are read from train and from test"):
        list(prototypes.prototypes_flowers_102(run))
