"""Soft Augmentation: parity with the released curve, crop and loss, the hook, the networks, the measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import papers.soft_augmentation.training as training
from common import bench
from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.measurement import Finding
from common.robustness.metrics.calibration import ece
from common.shapes import shapes_only
from common.training.data import TensorData
from common.training.hooks import Batch, Hook
from common.training.loop import train
from common.training.recipe import Recipe, load_recipe
from papers.soft_augmentation import claims, measures
from papers.soft_augmentation.method import (
    confidence,
    crop,
    focal_loss,
    offsets,
    soft_target_loss,
    visibility,
)
from papers.soft_augmentation.model import VARIANTS, create
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance

RECIPE = Path(training.__file__).with_name("recipe.toml")


def test_the_curve_is_the_released_one() -> None:
    arrays = Fixture.load("soft-augmentation", "curve").arrays
    visible = torch.from_numpy(arrays["visibility"])
    for (classes, threshold, highest, power), recorded in zip(arrays["cases"], arrays["confidence"], strict=True):
        ours = confidence(visible, int(classes), power=power, highest=highest, threshold=threshold)
        assert distance(ours, recorded) < OUTPUT_TOLERANCE


def test_crops_are_the_released_ones() -> None:
    fixture = Fixture.load("soft-augmentation", "soft_crop")
    about, arrays = fixture.about, {name: torch.from_numpy(array) for name, array in fixture.arrays.items()}
    side = arrays["x"].shape[-1]
    drawn = torch.stack(
        [offsets(normals[:, None], about["sigma"], side) for normals in arrays["offset_draws"].T], dim=1
    )
    assert torch.equal(drawn, arrays["offsets"])
    cropped = crop(arrays["x"], drawn, about["background_scale"] * arrays["background_draw"])
    assert distance(cropped, fixture.arrays["x_cropped"]) < OUTPUT_TOLERANCE
    certain = confidence(visibility(drawn, side, side), about["n_classes"], power=about["power"])
    assert distance(certain, fixture.arrays["confidence"]) < OUTPUT_TOLERANCE
    assert distance(arrays["label"] + 1 - certain, fixture.arrays["soft_label"]) < OUTPUT_TOLERANCE


@pytest.mark.parametrize("reweight", ["none", "batch"])
@pytest.mark.parametrize("soften", [False, True])
@pytest.mark.parametrize("distribute", [False, True])
@pytest.mark.parametrize("other", [False, True])
def test_losses_are_the_released_ones(reweight: str, soften: bool, distribute: bool, other: bool) -> None:
    fixture = Fixture.load("soft-augmentation", "soft_target_loss")
    arrays = {name: torch.from_numpy(array) for name, array in fixture.arrays.items()}
    logits = arrays["logits"].requires_grad_()
    loss = soft_target_loss(
        logits, arrays["soft_label"].long(), arrays["confidence"],
        reweight=reweight, soften=soften, distribute=distribute, other_class=other,
    )  # fmt: skip
    loss.backward()
    name = f"reweight{reweight == 'batch':d}_distribute{distribute:d}_soften{soften:d}_other{other:d}"
    assert loss.item() == pytest.approx(fixture.about["losses"][name], rel=1e-5)
    assert logits.grad is not None
    assert distance(logits.grad, fixture.arrays[f"grad_{name}"]) < OUTPUT_TOLERANCE


def test_each_image_counts_by_its_confidence() -> None:
    logits, labels = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
    certain = torch.tensor([0.25, 1.0])
    one, other = (soft_target_loss(logits[[i]], labels[[i]], certain[[i]], reweight="none") for i in (0, 1))
    torch.testing.assert_close(soft_target_loss(logits, labels, certain), (0.25 * one + other) / 2)
    torch.testing.assert_close(soft_target_loss(logits, labels, certain, reweight="batch"), 0.625 * (one + other) / 2)


def test_offsets_are_drawn_again_until_they_are_within_the_limit() -> None:
    normals = torch.tensor([[5.0, -0.99, 0.1], [5.0, -5.0, 3.0], [1.0, 0.2, 0.3]])
    assert offsets(normals, 2.0, 2).tolist() == [-1, 0, 2]


def test_a_crop_shows_what_is_in_the_window() -> None:
    image = torch.arange(1.0, 13.0).view(1, 1, 3, 4)
    moved = crop(image, torch.tensor([[1, -2]]), torch.tensor([[0.5]]))
    expected = torch.tensor([[0.5, 0.5, 5, 6], [0.5, 0.5, 9, 10], [0.5, 0.5, 0.5, 0.5]])
    assert torch.equal(moved[0, 0], expected)
    offset = torch.tensor([[1, -2], [0, 0], [3, 0]])
    torch.testing.assert_close(visibility(offset, 3, 4), torch.tensor([4 / 12, 1.0, 0.0]))
    torch.testing.assert_close(visibility(offset, 3, 4, over_union=True), torch.tensor([4 / 20, 1.0, 0.0]))


def test_confidence_falls_with_what_is_hidden() -> None:
    visible = torch.linspace(0, 1, 11)
    for power in (1.0, 2.0, 4.0):
        certain = confidence(visible, 100, power=power)
        assert (certain.diff() > 0).all()
        torch.testing.assert_close(certain[[0, -1]], torch.tensor([0.01, 1.0]))
    assert (confidence(visible, 4, highest=0.1) == 0.25).all(), "not below chance"
    with pytest.raises(UserError, match="above 0"):
        confidence(visible, 10, threshold=0.0)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits, labels = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    torch.testing.assert_close(focal_loss(logits, labels, 0.0), torch.nn.functional.cross_entropy(logits, labels))
    p = logits.softmax(dim=1)[range(6), labels]
    torch.testing.assert_close(focal_loss(logits, labels, 2.0), (-((1 - p) ** 2) * p.log()).mean())


def data() -> TensorData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(32) % 10
    return TensorData(images, labels, images[:16], labels[:16])


def few_steps(*changes: str) -> Recipe:
    steps = ("epochs=1", "epoch_images=32", "total_batch=8", "warmup_epochs=0", "evaluate_every=1")
    return load_recipe(RECIPE, "embedded", changes=(*steps, *changes))


class Watch(Hook):
    """Keeps images, targets and losses of the batches."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.losses: list[float] = []

    def on_output(self, run: Any, batch: Batch) -> None:
        self.batches.append(batch)

    def on_loss(self, run: Any, batch: Batch, loss: Tensor) -> Tensor:
        self.losses.append(loss.item())
        return loss


def trained(*changes: str) -> Watch:
    torch.manual_seed(0)
    recipe, watch = few_steps(*changes), Watch()
    train(bench.hosts.resnet_mini(widths=(8, 8)), recipe, data(), hooks=[*training.hooks(recipe), watch])
    return watch


def test_crops_end_before_the_training_does() -> None:
    soft, plain = trained("method.cropped=0.5"), trained("method.sigma=0")
    changed = [not torch.equal(a.images, b.images) for a, b in zip(soft.batches, plain.batches, strict=True)]
    assert changed == [True, True, False, False]
    one_hot = [bool((batch.targets.amax(dim=1) == 1).all()) for batch in soft.batches]
    assert one_hot == [False, False, True, True]
    for batch in soft.batches:
        torch.testing.assert_close(batch.targets.sum(dim=1), torch.ones(8))
        assert torch.equal(batch.targets.argmax(dim=1), batch.labels)


def test_the_loss_is_that_of_the_recipe() -> None:
    batches = trained("method.sigma=0", "method.loss=focal")
    expected = [focal_loss(batch.logits, batch.labels, 2.0).item() for batch in batches.batches]
    assert batches.losses == pytest.approx(expected)
    plain = trained("method.sigma=0")
    expected = [torch.nn.functional.cross_entropy(b.logits, b.labels).item() for b in plain.batches]
    assert plain.losses == pytest.approx(expected), "whole images have hard targets"
    soft, even = trained(), trained("method.reweight=none")
    assert soft.losses[0] < even.losses[0], "each image counts by its confidence"


def test_rand_augment_changes_images_before_the_crop() -> None:
    changed, plain = (trained(f"method.rand_augment={on}", "method.sigma=0") for on in ("true", "false"))
    assert not torch.equal(changed.batches[0].images, plain.batches[0].images)
    assert torch.isfinite(changed.batches[0].images).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("method.loss=soft", "soft_target"),
        ("method.reweight=true", "image, batch, none"),
        ("method.sigma=-0.1", "below 0"),
        ("method.cropped=1.5", "between 0 and 1"),
        ("method.threshold=0.0", "above 0"),
        ("label_smoothing=0.1", "set label_smoothing=0"),
        ("mixup=0.8", "set mixup=0"),
    ],
)
def test_bad_recipes_are_told_in_a_sentence(change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        training.hooks(few_steps(change))


def test_identities_hold() -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(seed=0))
    found = {result.name: result.verdict for result in claims.curve(run) if isinstance(result, Finding)}
    assert found == dict.fromkeys(("whole", "blank", "optimum", "visible", "weight"), "holds")


def test_measures_tell_more_of_images_in_view() -> None:
    images = torch.full((2, 3, 28, 28), 9, dtype=torch.uint8)
    seen = [float((measures.moved(images, cell) > 0).float().mean()) for cell in range(len(measures.CELLS))]
    assert np.allclose(seen, np.repeat(measures.SHARES, 4), atol=0.03)
    torch.manual_seed(0)
    found = measures.measured(bench.hosts.resnet_mini(widths=(8, 8)).eval(), few_steps(), quick=True)
    assert set(measures.METRICS) <= set(found)
    assert np.shape(found["crop_top1"]) == (12, 50)
    assert 0 <= found["ece"] <= 1


def test_ten_bins_are_the_released_ones() -> None:
    """The release's error is that over ten intervals; a confidence on an edge is in the interval below it."""
    confident, right = np.array([0.1, 0.35, 0.4, 0.95, 1.0]), np.array([0, 1, 0, 1, 0])
    expected = (0.1 + abs(0.75 - 1) + abs(1.95 - 1)) / 5
    assert ece(confident, right, bins=10) == pytest.approx(expected)


def test_contenders_differ_in_what_is_compared() -> None:
    recipes = {contender.name: contender.settings() for contender in claims.contenders()}
    soft, hard = recipes[claims.SOFT], recipes[claims.HARD]
    assert replace(soft, method={}, changes=()) == replace(hard, method={}, changes=())
    assert {key for key in soft.method if soft.method[key] != hard.method[key]} == {"loss"}
    weak = recipes[claims.WEAK]
    assert {key for key in soft.method if soft.method[key] != weak.method[key]} == {"sigma"}


@pytest.mark.parametrize("name", VARIANTS)
def test_networks_keep_the_pixels_of_small_images(name: str) -> None:
    with shapes_only():
        model: Any = timm.create_model(name, num_classes=7)
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
        stride = 8 if name.startswith("resnet") else 4
        assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape[2:] == (32 // stride, 32 // stride)


def test_released_names_of_a_residual_network_load_and_come_back() -> None:
    torch.manual_seed(0)
    one, other = (create("resnet18_softaug_cifar", num_classes=10).eval() for _ in range(2))
    state = to_released(one)
    assert state["linear.weight"].shape == (10, 512)
    assert "layer2.0.shortcut.0.weight" in state
    load_released(other, {f"module.{name}": value for name, value in state.items()})
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(one(x), other(x))
    with pytest.raises(UserError, match="no network 'resnet18'"):
        create("resnet18")
