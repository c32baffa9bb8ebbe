"""TokenMix: parity with the released masks and labels, properties of both, and the hook with and without a teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import papers.tokenmix.training as training
from common import bench
from common.errors import UserError
from common.training.data import TensorData
from common.training.distillation import with_teacher
from common.training.hooks import Batch, Hook
from common.training.loop import train
from common.training.mixing import Mixing, enlarge
from common.training.recipe import load_recipe
from papers.tokenmix import claims, foreground
from papers.tokenmix.method import (
    NumpyDraws,
    TokenMixing,
    activation,
    block_region,
    mix_labels,
    scattered_region,
    stored_activation,
    token_count,
    visible_scores,
)
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance

RECIPE = Path(training.__file__).with_name("recipe.toml")
GRID = (14, 14)


class Recorded:
    """Gives back draws that were recorded, and checks what is asked for."""

    def __init__(self, draws: list) -> None:
        self.draws = list(draws)

    def _next(self, name: str, low: float, high: float) -> float:
        function, arguments, value = self.draws.pop(0)
        assert function == f"random.{name}"
        assert (low, high) == pytest.approx(tuple(arguments))
        return value

    def uniform(self, low: float, high: float) -> float:
        return self._next("uniform", low, high)

    def randint(self, low: int, high: int) -> int:
        return int(self._next("randint", low, high))


def test_regions_are_the_released_ones() -> None:
    fixture = Fixture.load("tokenmix", "mask")
    arrays = fixture.arrays
    for i, (share, extra) in enumerate(zip(1 - arrays["lam_in"], arrays["extra_tokens"], strict=True)):
        count = token_count(GRID, float(share), int(extra))
        draws = Recorded(fixture.about["draw_log_block"][i])
        blocks = block_region(GRID, count, draws)
        assert np.array_equal(blocks, arrays["block_mask"][i].astype(bool))
        assert not draws.draws, "as many draws as the release makes"
        assert 1 - blocks.mean() == pytest.approx(arrays["block_lam"][i])
        scattered = scattered_region(GRID, count, arrays["random_permutation"][i])
        assert np.array_equal(scattered, arrays["random_mask"][i].astype(bool))
        assert 1 - scattered.mean() == pytest.approx(arrays["random_lam"][i])


def test_labels_are_the_released_ones() -> None:
    fixture = Fixture.load("tokenmix", "label")
    about, arrays = fixture.about, {name: torch.from_numpy(array) for name, array in fixture.arrays.items()}
    labels = arrays["label"]
    maps = stored_activation(arrays["topk_scores"], arrays["topk_classes"], arrays["crop_xywh"], labels, GRID)
    assert distance(maps, fixture.arrays["token_labels"]) < OUTPUT_TOLERANCE
    own, partner = visible_scores(maps, arrays["mask"].float())
    targets = mix_labels(labels, own, partner, about["num_classes"], about["smoothing"])
    assert distance(targets, fixture.arrays["target"]) < OUTPUT_TOLERANCE
    normalised = visible_scores(maps, arrays["mask"].float(), normalised=True)
    assert (
        distance(mix_labels(labels, *normalised, about["num_classes"], about["smoothing"]), fixture.arrays["target"])
        > 0.01
    )


def test_regions_never_are_too_large_and_mostly_complete() -> None:
    np.random.seed(0)  # noqa: NPY002
    sizes = [int(block_region((7, 7), 28, NumpyDraws()).sum()) for _ in range(100)]
    assert max(sizes) <= 28
    assert np.mean([size == 28 for size in sizes]) > 0.8
    assert token_count(GRID, 0.5, 14) == 112
    assert token_count(GRID, 1.0, 14) == 196
    assert not block_region((7, 7), 0, NumpyDraws()).any()


@pytest.mark.parametrize("blocks", [True, False])
def test_the_record_tells_which_tokens_were_pasted(blocks: bool) -> None:
    arguments = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_prob": 0.7, "prob": 0.9, "num_classes": 10}
    mixing = Mixing(TokenMixing(grid=(7, 7), blocks=blocks, ratio=0.5, extra_tokens=4, **arguments))
    images = torch.rand(6, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    kinds = set()
    np.random.seed(0)  # noqa: NPY002
    for _ in range(20):
        mixed_images, targets, mixed = mixing(images.clone(), torch.arange(6))
        torch.testing.assert_close(mixed_images, images.lerp(images.flip(0), mixed.mask[:, None]))
        torch.testing.assert_close(targets, mixed.labels(mixed.share))
        values = mixed.mask.unique()
        if len(values) == 2:
            tokens = mixed.mask[0, ::4, ::4]
            assert torch.equal(enlarge(tokens, 28, 28), mixed.mask[0])
            assert blocks or tokens.sum() == 28
        kinds.add(len(values))
    assert kinds == {1, 2}, "mixup and tokens"


def test_the_share_is_drawn_where_no_ratio_is_set() -> None:
    def sizes(ratio: float) -> set[int]:
        mixing = TokenMixing(grid=(7, 7), blocks=False, ratio=ratio, extra_tokens=0, num_classes=10)
        return {int(mixing.region(share).sum()) for share in (0.2, 0.6, 1.0)}

    assert sizes(0.5) == {24}
    assert sizes(0.0) == {9, 29, 49}


def test_images_that_do_not_divide_into_tokens_and_pairs_are_refused() -> None:
    with pytest.raises(UserError, match="30x28 pixels do not divide into 7x7"):
        enlarge(torch.zeros(7, 7), 30, 28)
    with pytest.raises(UserError, match="mix_mode=batch"):
        TokenMixing(grid=(7, 7), blocks=True, ratio=0.5, extra_tokens=4, mode="pair")


def test_the_activation_is_the_teachers_probability_of_the_own_class_at_every_place() -> None:
    torch.manual_seed(0)
    teacher, images, labels = bench.hosts.resnet_mini().eval(), torch.randn(3, 3, 28, 28), torch.tensor([1, 5, 9])
    maps = activation(teacher, images, labels, (7, 7))
    features = teacher.forward_features(images)
    dense = torch.einsum("bchw,kc->bkhw", features, teacher.head.weight) + teacher.head.bias[:, None, None]
    for i, label in enumerate(labels):
        torch.testing.assert_close(maps[i], dense[i].softmax(dim=0)[label])
    assert activation(teacher, images, labels, (14, 14)).shape == (3, 14, 14)


def test_smoothing_takes_half_from_each_score() -> None:
    labels, own, partner = torch.tensor([0, 1]), torch.tensor([0.9, 0.0]), torch.tensor([0.6, 0.02])
    targets = mix_labels(labels, own, partner, classes=4, smoothing=0.1)
    torch.testing.assert_close(targets.sum(dim=1), own + partner)
    torch.testing.assert_close(targets[0], torch.tensor([0.875, 0.575, 0.025, 0.025]))
    assert targets[1].min() < 0, "as released"
    same = mix_labels(torch.tensor([2, 2]), own, partner, classes=4)
    torch.testing.assert_close(same[:, 2], own + partner)


def data() -> TensorData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(32) % 10
    return TensorData(images, labels, images[:16], labels[:16])


def few_steps(*changes: str, setting: str = "embedded"):
    steps = ("epochs=1", "epoch_images=16", "total_batch=8", "warmup_epochs=0", "evaluate_every=1", "mix_probability=1")
    return load_recipe(RECIPE, setting, changes=(*steps, *changes))


class Watch(Hook):
    """Keeps the batches as they are when the loss is made."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def on_output(self, run, batch) -> None:
        self.batches.append(batch)


def trained(*changes: str, teacher: nn.Module | None = None) -> list[Batch]:
    torch.manual_seed(0)
    recipe, watch = few_steps(*changes), Watch()
    hooks = [*training.hooks(recipe), watch]
    hooks = hooks if teacher is None else with_teacher(recipe, hooks, teacher)
    result = train(bench.hosts.vit_mini(depth=1), recipe, data(), hooks=hooks)
    assert np.isfinite(result.metrics["loss"])
    return watch.batches


def test_training_takes_the_label_from_the_teacher() -> None:
    torch.manual_seed(1)
    teacher = bench.hosts.resnet_mini()
    by_area = trained("method.label_mixing=area")
    by_teacher = trained(teacher=teacher)
    normalised = trained("method.normalised_scores=true", teacher=teacher)
    for area, released, divided in zip(by_area, by_teacher, normalised, strict=True):
        assert torch.equal(area.images, released.images), "labels change nothing about images"
        torch.testing.assert_close(area.targets, area.mixed.labels(area.mixed.share))
        assert not torch.allclose(area.targets, released.targets)
        assert (released.targets.sum(dim=1) - 1).abs().max() > 1e-4
        torch.testing.assert_close(divided.targets.sum(dim=1), torch.ones(8))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_binary_cross_entropy_takes_the_place_of_the_loss() -> None:
    batch = Batch(torch.zeros(2), torch.zeros(2), torch.tensor([[0.2, 0.7], [0.5, 0.0]]))
    batch.logits = torch.tensor([[0.0, 1.0], [-1.0, 2.0]])
    (hook,) = training.hooks(few_steps("method.loss=binary_cross_entropy"))
    p, t = batch.logits.sigmoid(), batch.targets
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    torch.testing.assert_close(hook.on_loss(None, batch, torch.tensor(0.0)), expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("method.label_mixing=techer", "teacher, area"),
        ("method.region=block", "blocks, scattered"),
        ("method.loss=bce", "cross_entropy"),
        ("method.grid=1", "at least 2"),
        ("method.ratio=1.5", "between 0"),
        ("method.extra_tokens=-1", "below 0"),
        ("cutmix=0.0", "never does: set cutmix"),
        ("mix_mode=elem", "mix_mode=batch"),
    ],
)
def test_bad_recipes_are_told_in_a_sentence(change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        training.hooks(few_steps(change))


def test_a_missing_teacher_is_told_in_a_sentence() -> None:
    with pytest.raises(UserError, match="the recipe names none"):
        trained()
    with pytest.raises(UserError, match="The teacher no_such_net of TokenMix cannot be loaded"):
        trained("method.teacher=no_such_net")


def test_identities_hold() -> None:
    run = SimpleNamespace(settings=SimpleNamespace(seed=0))
    found = {finding.name: finding.verdict for finding in claims.identity(run)}
    assert set(found.values()) == {"holds"}
    assert set(found) == {"even", "visible", "normalised", "size", "parts"}


def test_shares_of_attention_are_by_canvas() -> None:
    torch.manual_seed(0)
    found = foreground.shares(bench.hosts.vit_mini().eval(), few_steps(), quick=True)
    assert found[foreground.CLEAN].shape == found["top1"].shape
    assert ((found[foreground.CLEAN] > 0) & (found[foreground.CLEAN] < 1)).all()


def test_contenders_differ_in_the_label_alone() -> None:
    own = {contender.name: contender for contender in claims.contenders()}
    recipes = {name: contender.settings() for name, contender in own.items()}
    area, teacher = recipes[claims.BY_AREA], recipes[claims.TOKENMIX]
    assert replace(area, method={}, changes=()) == replace(teacher, method={}, changes=())
    assert {key for key in area.method if area.method[key] != teacher.method[key]} == {"label_mixing"}
    cutmix = recipes[claims.CUTMIX]
    assert (cutmix.mix_probability, cutmix.cutmix, cutmix.mixup) == (area.mix_probability, area.cutmix, area.mixup)
    assert own[claims.TOKENMIX].teacher.name == claims.TEACHER
