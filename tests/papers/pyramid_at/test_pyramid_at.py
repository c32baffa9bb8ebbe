"""PyramidAT: parity with the released attack, masks, and the hook in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import papers.pyramid_at.training as training
from common import bench
from common.errors import UserError
from common.measurement import Finding
from common.training.batch import Batch
from common.training.data import TensorData
from common.training.hooks import Hook, Training
from common.training.loop import train
from common.training.recipe import Recipe, load_recipe
from papers.pyramid_at import claims
from papers.pyramid_at.masks import Masks
from papers.pyramid_at.method import PyramidAttack
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance

RECIPE = Path(training.__file__).with_name("recipe.toml")


def channels_first(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.moveaxis(array, -1, -3).copy())


@pytest.mark.parametrize("name", ["pixel_attack", "pyramid_attack", "pyramid_attack_random"])
def test_the_attack_is_the_released_one(name: str) -> None:
    fixture = Fixture.load("pyramid-at", name)
    about, arrays = fixture.about, fixture.arrays
    w1, b1, w2, b2 = (torch.from_numpy(arrays[key]) for key in ("w1", "b1", "w2", "b2"))
    targets = nn.functional.one_hot(torch.from_numpy(arrays["target"]), about["num_classes"]).float()
    hook: Any = training.hooks(load_recipe(RECIPE, "imagenet"))[0]

    def loss(images: Tensor) -> Tensor:
        logits = 2 * (images.permute(0, 2, 3, 1).flatten(1) @ w1 + b1).tanh() @ w2 + b2
        return hook._loss(logits, targets)

    images, count = channels_first(arrays["x"]), len(about["levels"])
    attack = PyramidAttack(
        tuple(about["levels"]), tuple(about["multipliers"]), about["epsilon"], about["step"], about["num_steps"]
    )
    levels = [channels_first(arrays[f"init_{i}"]) for i in range(count)]
    for step in range(about["num_steps"]):
        shown = attack.apply(images, levels)
        assert distance(shown, np.moveaxis(arrays["images"][step], -1, -3)) < OUTPUT_TOLERANCE
        assert loss(shown).item() == pytest.approx(arrays["loss"][step], rel=1e-5)
        leaves = [level.requires_grad_() for level in levels]
        gradients = torch.autograd.grad(loss(attack.apply(images, leaves)), leaves)
        for i, gradient in enumerate(gradients):
            assert distance(gradient, np.moveaxis(arrays[f"grad_{i}"][step], -1, -3)) < OUTPUT_TOLERANCE
        levels = attack.moved([leaf.detach() for leaf in leaves], gradients)
        for i, level in enumerate(levels):
            assert distance(level, np.moveaxis(arrays[f"params_{i}"][step], -1, -3)) < OUTPUT_TOLERANCE
    whole = attack(images, loss, [channels_first(arrays[f"init_{i}"]) for i in range(count)])
    assert distance(attack.apply(images, whole), np.moveaxis(arrays["adversarial"], -1, -3)) < OUTPUT_TOLERANCE


def test_a_level_shifts_squares_and_stays_within_its_epsilon() -> None:
    attack = PyramidAttack((2, 4), (20, 1), steps=9)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    levels = attack(images, lambda x: x.sum())
    assert all(torch.equal(level, torch.full_like(level, -6 / 255)) for level in levels)
    torch.testing.assert_close(
        attack.apply(images, levels), (images - 120 / 255).clamp(-1, 1) - 6 / 255, atol=1e-6, rtol=0
    )
    coarse = torch.zeros(1, 1, 2, 2)
    coarse[..., 0, 1] = 0.01
    shifted = attack.apply(torch.zeros(1, 1, 8, 8), [coarse, torch.zeros(1, 1, 4, 4)])[0, 0]
    assert torch.equal(shifted.nonzero(), torch.cartesian_prod(torch.arange(4), torch.arange(4, 8)))
    assert shifted.max().item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"cells": (7, 14)}, "2 levels and 3 multipliers"),
        ({"cells": (0, 7, 14)}, "at least one cell"),
        ({"steps": -1}, "must not be negative"),
    ],
)
def test_bad_attacks_are_told_in_a_sentence(arguments: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        PyramidAttack(**arguments)


def test_cells_that_do_not_divide_are_told_in_a_sentence() -> None:
    with pytest.raises(UserError, match="7 cells on a side do not divide images of 30x28"):
        PyramidAttack().zeros(torch.zeros(1, 3, 30, 28))


class Drops(Hook):
    """Keeps what each module drops, by pass."""

    def __init__(self) -> None:
        self.masks: dict[str, list[Tensor]] = {}

    def start(self, run: Training) -> None:
        for name, module in run.plain_model.named_modules():
            if isinstance(module, nn.Dropout) or type(module).__name__ == "DropPath":
                module.register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def listen(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if module.training and self.training:
                dropped = (output == 0) & (args[0] != 0)
                self.masks.setdefault(name, []).append(dropped.flatten(1).any(1) if "path" in name else dropped)

        return listen

    training = True


def data() -> TensorData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(32) % 10
    return TensorData(images, labels, images[:16], labels[:16])


def few_steps(*changes: str) -> Recipe:
    steps = ("epochs=1", "epoch_images=16", "total_batch=8", "warmup_epochs=0", "evaluate_every=1")
    return load_recipe(RECIPE, "embedded", changes=(*steps, *changes))


@pytest.mark.parametrize("form", ["matched", "released", "unmatched"])
def test_training_drops_as_the_form_says(form: str) -> None:
    torch.manual_seed(0)
    drops, recipe = (
        Drops(),
        few_steps(f"method.masks={form}", "method.steps=2", "method.dropout=0.3", "method.share=1.0"),
    )
    model: Any = bench.hosts.vit_mini(depth=2, drop_path_rate=0.5)
    # The branches start at zero, where nothing would be dropped.
    for block in model.blocks:
        nn.init.normal_(block.mlp.fc2.weight)
    result = train(model, recipe, data(), hooks=[*training.hooks(recipe), drops])
    assert math.isfinite(result.metrics["loss"])
    assert {"pos_drop", "blocks.0.attn.proj_drop", "blocks.1.mlp.drop2", "blocks.1.drop_path1"} <= set(drops.masks)
    for name, masks in drops.masks.items():
        if not any(mask.any() for mask in masks):
            continue
        for step in (masks[:4], masks[4:]):  # clean, two of the attack, adversarial
            clean, *others = step
            assert len(others) == 3
            assert all(torch.equal(others[0], other) for other in others) or form == "unmatched"
            if form == "unmatched":
                assert clean.any() or "drop_path" in name
            elif form == "released" and name.endswith(("pos_drop", "proj_drop")):
                assert not torch.equal(clean, others[0])
            elif "drop1" not in name and "drop2" not in name:
                assert torch.equal(clean, others[0])
        if "drop_path" not in name:
            assert not torch.equal(masks[0], masks[4]), "another step drops others"


def test_without_cells_training_is_plain_and_otherwise_adds_the_adversarial_loss() -> None:
    class Count(Hook):
        def __init__(self) -> None:
            self.images: list[Tensor] = []

        def on_output(self, run: Training, batch: Batch) -> None:
            self.images.append(batch.images.detach().clone())

    seen = {}
    for name, changes in (("plain", ('method.cells=""', 'method.multipliers=""')), ("pyramid", ())):
        count, recipe = Count(), few_steps(*changes)
        torch.manual_seed(0)
        hooks = training.hooks(recipe)
        assert hooks[0].copies == (1 if name == "plain" else 1.5)
        train(bench.hosts.vit_mini(depth=1), recipe, data(), hooks=[*hooks, count])
        seen[name] = count.images
    assert len(seen["plain"]) == 2
    clean, adversarial = seen["pyramid"][:2]
    assert torch.equal(clean, seen["plain"][0])
    assert len(seen["pyramid"]) == 4
    recipe = load_recipe(RECIPE, "embedded")
    std, step = recipe.std[0], float(recipe.method["step"])
    assert (len(clean), len(adversarial)) == (8, 2), "a quarter"
    largest = (adversarial - clean[:2]).abs().max() * std
    assert 10 * step / 2 < largest <= 31 * step / 2 + 1e-6, "all levels together, in units of [0, 1]"


def test_the_classifier_starts_as_the_recipe_says_and_the_loss_is_of_each_class() -> None:
    recipe = few_steps("method.head_bias=-2.0", "method.loss=sigmoid", "method.dropout=0.2", "method.rescaled=false")
    hook: Any = training.hooks(recipe)[0]
    model: Any = bench.hosts.vit_mini(depth=1, drop_path_rate=0.1)
    hook.on_model(None, model)
    assert (model.head.weight == 0).all()
    assert (model.head.bias == -2).all()
    assert model.pos_drop.p == model.blocks[0].mlp.drop2.p == model.blocks[0].attn.proj_drop.p == 0.2
    logits, labels = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([1, 0])
    p, t = logits.sigmoid(), nn.functional.one_hot(labels, 2).float()
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).sum(dim=1).mean()
    torch.testing.assert_close(hook._loss(logits, labels), expected)
    with pytest.raises(UserError, match="no linear classifier head"):
        hook.on_model(None, nn.Sequential(nn.Dropout(), bench.hosts.vit_mini(depth=1)))
    with pytest.raises(UserError, match="timm's transformers: set method"):
        hook.on_model(None, bench.hosts.resnet_mini())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ('method.cells="7, x"', "numbers with commas"),
        ("method.masks=match", "matched, released"),
        ("method.loss=bce", "softmax, sigmoid"),
        ("method.dropout=1.0", "at least 0 and below 1"),
        ("method.weight=-1.0", "weight must not be negative"),
        ("method.share=0.0", "above 0 and at most 1"),
    ],
)
def test_bad_recipes_are_told_in_a_sentence(change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        training.hooks(few_steps(change))


def test_exact_claims_hold() -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(seed=0))
    found = {f.name: f.verdict for f in (*claims.identity(run), *claims.masks(run)) if isinstance(f, Finding)}
    names = ("pgd", "clip_after_each_level", "matched", "released_depth", "released", "unmatched")
    assert found == dict.fromkeys(names, "holds")


def test_a_closed_listener_leaves_the_model_as_it_was() -> None:
    model = bench.hosts.vit_mini(depth=1, pos_drop_rate=0.5).train()
    masks, images = Masks(model, "matched"), torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(model(images), model(images))
        masks.close()
        assert not torch.equal(model(images), model(images))


def test_batch_norms_keep_the_statistics_of_clean_images() -> None:
    recipe = few_steps("method.dropout=0.0", "learning_rate=0.0", "warmup_learning_rate=0.0", "min_learning_rate=0.0")
    plain = recipe.with_changes('method.cells=""', 'method.multipliers=""')
    states = []
    for each in (recipe, plain):
        torch.manual_seed(0)
        model = bench.hosts.vit_mini(depth=1)
        train(model, each, data(), hooks=training.hooks(each))
        states.append({name: value for name, value in model.state_dict().items() if "running" in name})
    assert states[0]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name])


def test_an_attacked_image_counts_as_much_as_a_clean_one() -> None:
    hook: Any = training.hooks(few_steps("method.weight=2.0", "method.share=0.25"))[0]
    hook._masks = SimpleNamespace(adversarial=False)
    batch, loss = Batch(torch.zeros(4), torch.zeros(4), torch.zeros(4)), torch.tensor(3.0)
    assert hook.on_loss(None, batch, loss) == 3.0
    hook._masks.adversarial = True
    assert hook.on_loss(None, batch, loss) == 2.0 * 0.25 * 3.0
