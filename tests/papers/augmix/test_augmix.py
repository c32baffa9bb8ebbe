"""AugMix: parity with the released code, the batched operations beside Pillow, the loss, the hook, the networks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from common.errors import UserError
from common.shapes import shapes_only
from common.training.data import TensorData
from common.training.hooks import Batch
from common.training.loop import train
from common.training.recipe import Recipe, load_recipe
from papers.augmix import PAPER, pillow, training
from papers.augmix.claims import RECIPE, contenders
from papers.augmix.draws import ALL_OPERATIONS, FIXED, OPERATIONS, SIGNED, AugMixSettings, Draws, magnitudes
from papers.augmix.method import apply_chains, augment_and_mix, jensen_shannon
from papers.augmix.model import VARIANTS, WideResNet, create
from papers.augmix.operations import apply
from papers.augmix.training import AugMix, DecayAll, hooks
from tests.parity import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, Fixture, check_model, distance

#: Statistics of the released augment_and_mix.py.
MEAN, STD = np.float32([0.4914, 0.4822, 0.4465]), np.float32([0.2023, 0.1994, 0.2010])
each_operation = pytest.mark.parametrize("name", ALL_OPERATIONS)


def planes(images: np.ndarray) -> Tensor:
    """(N, H, W, C) or (N, H, W) to (N, C, H, W)."""
    tensor = torch.from_numpy(images)
    return (tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)).contiguous()


def pictures(shape: tuple[int, ...], count: int = 24, seed: int = 0) -> np.ndarray:
    """Noise, pictures of few values, of little contrast, and of one value: (count, *shape) uint8."""
    generator = np.random.default_rng(seed)
    kinds = [
        lambda: generator.integers(0, 256, shape),
        lambda: generator.integers(0, 2, shape) * generator.integers(1, 255),
        lambda: np.clip(generator.normal(120, generator.uniform(1, 60), shape), 0, 255),
        lambda: np.full(shape, generator.integers(0, 256)),
    ]
    return np.stack([kinds[i % 4]() for i in range(count)]).astype(np.uint8)


def by_pillow(images: np.ndarray, name: str, magnitude: np.ndarray) -> Tensor:
    done = [pillow.apply(Image.fromarray(image), name, float(m)) for image, m in zip(images, magnitude, strict=True)]
    return planes(np.stack([np.asarray(image) for image in done]))


def recorded_draws(case: dict[str, Any]) -> Draws:
    """The draws of a case of the fixture ``augment_and_mix``."""
    width, longest = case["width"], max(case["depth"], 3)
    depth = np.zeros((1, width), int)
    operation, level = np.zeros((1, width, longest), int), np.zeros((1, width, longest))
    negative = np.zeros((1, width, longest), bool)
    stream = iter(case["draws_after"])
    for chain in range(width):
        depth[0, chain] = case["depth"] if case["depth"] > 0 else next(stream)[1]
        for step in range(depth[0, chain]):
            name = next(stream)[1]
            operation[0, chain, step] = ALL_OPERATIONS.index(name)
            level[0, chain, step] = 0 if name in FIXED else next(stream)[1]
            negative[0, chain, step] = name in SIGNED and next(stream)[1] > 0.5
    assert next(stream, None) is None
    weights, share = np.float32([case["weights"]]), np.float32([case["m"]])
    return Draws(weights=weights, share=share, depth=depth, operation=operation, level=level, negative=negative)


def normalised(mixed: Tensor) -> np.ndarray:
    return (mixed.permute(0, 2, 3, 1).numpy() / 255 - MEAN) / STD


# -- parity


@each_operation
def test_operations_are_the_released_ones(name: str) -> None:
    recorded = Fixture.load("augmix", "operations")
    about, arrays = recorded.about, recorded.arrays
    draws = about["draws"][name]
    level = np.array([draws[0] if draws else 0.0])
    negative = np.array([len(draws) > 1 and draws[1] > 0.5])
    code = np.array([ALL_OPERATIONS.index(name)])
    magnitude = magnitudes(code, level, negative, 32, 32)
    ours = apply(planes(arrays["x"][None]), code, magnitude)
    assert torch.equal(ours, planes(arrays[f"op_{name}"][None]))
    assert torch.equal(by_pillow(arrays["x"][None], name, magnitude), ours)


def test_order_of_operations_is_the_released_one() -> None:
    about = Fixture.load("augmix", "operations").about
    assert tuple(about["order_in_list"]) == ALL_OPERATIONS
    assert tuple(about["default_ops"]) == OPERATIONS


@pytest.mark.parametrize("index", range(3))
def test_mixed_images_are_the_released_ones(index: int) -> None:
    recorded = Fixture.load("augmix", "augment_and_mix")
    about, arrays = recorded.about, recorded.arrays
    draws = recorded_draws(about["cases"][index])
    image, recorded = arrays["x_uint8"], arrays[f"mixed_{index}"]
    ours = normalised(augment_and_mix(planes(image[None]), draws))[0]
    assert distance(ours, recorded) < OUTPUT_TOLERANCE
    one = (pillow.augment_and_mix(image, draws) / 255 - MEAN) / STD
    assert distance(one, recorded) < OUTPUT_TOLERANCE


def test_draws_in_released_order_are_those_of_a_seeded_release() -> None:
    recorded = Fixture.load("augmix", "seeded")
    about, arrays = recorded.about, recorded.arrays
    random = np.random.RandomState(1)
    for index, case in enumerate(about["cases"]):
        draws = Draws.in_released_order(len(arrays["x_uint8"]), AugMixSettings(**case), random)
        ours = normalised(augment_and_mix(planes(arrays["x_uint8"]), draws))
        assert distance(ours, arrays[f"mixed_{index}"]) < OUTPUT_TOLERANCE


def test_loss_is_the_released_one() -> None:
    recorded = Fixture.load("augmix", "jsd_loss")
    about, arrays = recorded.about, recorded.arrays
    names = ("clean", "aug1", "aug2")
    logits = [torch.from_numpy(arrays[f"logits_{name}"]).requires_grad_() for name in names]
    term = jensen_shannon(torch.stack(logits))
    loss = nn.functional.cross_entropy(logits[0], torch.from_numpy(arrays["labels"])) + about["weight"] * term
    loss.backward()
    # The recorded term may or may not carry the weight; the loss settles it.
    assert distance(loss, arrays["loss"]) < OUTPUT_TOLERANCE
    assert distance(loss - about["weight"] * term, arrays["ce"]) < OUTPUT_TOLERANCE
    for name, tensor in zip(names, logits, strict=True):
        assert distance(tensor.grad, arrays[f"grad_{name}"]) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_networks_are_the_released_ones(name: str) -> None:
    check_model("augmix", name, timm.create_model(name, num_classes=10))


# -- operations


@each_operation
@pytest.mark.parametrize("shape", [(32, 32, 3), (17, 23, 3), (28, 28)], ids=str)
def test_a_batch_is_what_pillow_makes_of_its_images(name: str, shape: tuple[int, ...]) -> None:
    images = pictures(shape)
    generator = np.random.default_rng(1)
    operation = np.full(len(images), ALL_OPERATIONS.index(name))
    level, negative = generator.uniform(0, 10, len(images)), generator.random(len(images)) > 0.5
    magnitude = magnitudes(operation, level, negative, shape[1], shape[0])
    before = planes(images)
    assert torch.equal(apply(before, operation, magnitude), by_pillow(images, name, magnitude))
    assert torch.equal(before, planes(images)), "the images themselves stay as they are"


@pytest.mark.parametrize("name", [*SIGNED, "solarize"])
def test_level_zero_changes_nothing(name: str) -> None:
    images = planes(pictures((16, 16, 3)))
    operation = np.full(len(images), ALL_OPERATIONS.index(name))
    none = magnitudes(operation, np.zeros(len(images)), np.zeros(len(images), bool), 16, 16)
    assert torch.equal(apply(images, operation, none), images)


def test_magnitudes_are_whole_where_they_count_something() -> None:
    codes = np.arange(len(ALL_OPERATIONS))
    found = dict(zip(ALL_OPERATIONS, magnitudes(codes, np.full(13, 9.99), codes % 2 == 1, 33, 66), strict=True))
    assert found["posterize"] == 1
    assert found["rotate"] == -29
    assert found["solarize"] == 1
    assert found["shear_x"] == pytest.approx(-0.2997)
    assert found["translate_x"] == -10
    assert found["translate_y"] == 21
    assert found["color"] == pytest.approx(1.8982)


def test_chains_in_a_batch_are_chains_one_by_one() -> None:
    images, settings = pictures((20, 20, 3), 16), AugMixSettings(severity=10, width=2, all_operations=True)
    draws = Draws.sample(len(images), settings, np.random.default_rng(0))
    together = augment_and_mix(planes(images), draws)
    apart = np.stack([pillow.augment_and_mix(image, draws, index) for index, image in enumerate(images)])
    assert distance(together, planes(apart).numpy()) < 1e-6


# -- mixing


@pytest.mark.parametrize("width", [1, 3, 5])
@pytest.mark.parametrize("depth", [-1, 1, 4])
def test_draws_follow_width_and_depth(width: int, depth: int) -> None:
    settings = AugMixSettings(width=width, depth=depth, severity=2, alpha=0.5)
    for draws in (
        Draws.sample(50, settings, np.random.default_rng(0)),
        Draws.in_released_order(50, settings, np.random.RandomState(0)),
    ):
        assert draws.weights.shape == (50, width)
        assert set(np.unique(draws.depth)) == ({1, 2, 3} if depth == -1 else {depth})
        assert draws.operation.shape == (50, width, settings.longest)
        assert draws.operation.max() < len(OPERATIONS)
        assert draws.level.max() < 2


def test_mixing_is_convex() -> None:
    draws = Draws.sample(200, AugMixSettings(), np.random.default_rng(0))
    assert np.allclose(draws.weights.sum(axis=1), 1, atol=1e-6)
    assert (draws.weights >= 0).all()
    assert ((draws.share >= 0) & (draws.share <= 1)).all()
    images = planes(pictures((12, 12, 3), 200))
    mixed = augment_and_mix(images, draws)
    chains = apply_chains(images, draws).view(200, 3, 3, 12, 12).float()
    everything = torch.cat([chains, images[:, None].float()], dim=1)
    assert (mixed >= everything.amin(1) - 1e-3).all()
    assert (mixed <= everything.amax(1) + 1e-3).all()


def test_without_a_share_the_image_stays() -> None:
    images = planes(pictures((12, 12, 3)))
    draws = Draws.sample(len(images), AugMixSettings(), np.random.default_rng(0))
    assert torch.equal(augment_and_mix(images, replace(draws, share=np.zeros_like(draws.share))), images.float())


def test_one_seed_gives_one_result() -> None:
    images = planes(pictures((12, 12, 3)))

    def mixed(seed: int) -> Tensor:
        return augment_and_mix(images, Draws.sample(len(images), AugMixSettings(), np.random.default_rng(seed)))

    assert torch.equal(mixed(0), mixed(0))
    assert not torch.equal(mixed(0), mixed(1))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"severity": 0.0}, "severity of AugMix is above 0.1 and at most 10"),
        ({"severity": 11.0}, "severity of AugMix"),
        ({"severity": math.nan}, "severity of AugMix"),
        ({"width": 0}, "at least one chain"),
        ({"depth": 0}, "at least one operation"),
        ({"depth": -2}, "at least one operation"),
        ({"alpha": 0.0}, "alpha of AugMix must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        AugMixSettings(**values)


# -- divergence


def test_divergence_is_zero_for_agreeing_and_log_3_for_disjoint_predictions() -> None:
    logits = torch.randn(5, 4)
    assert jensen_shannon(logits.expand(3, -1, -1)).item() == pytest.approx(0, abs=1e-6)
    assert jensen_shannon(100 * torch.eye(3)[:, None].expand(-1, 5, -1)).item() == pytest.approx(math.log(3), rel=1e-5)
    for scale in (0.1, 1, 10, 1000):
        value = jensen_shannon(scale * torch.randn(3, 5, 4))
        assert 0 < value <= math.log(3) + 1e-5


def test_divergence_has_finite_gradients_for_certain_predictions() -> None:
    logits = (1000 * torch.randn(3, 5, 4)).requires_grad_()
    jensen_shannon(logits).backward()
    assert logits.grad.isfinite().all()


# -- hook


def recipe(*changes: str, setting: str = "embedded") -> Recipe:
    return load_recipe(RECIPE, setting, quick=True, changes=changes)


def data(count: int = 32) -> TensorData:
    images = planes(pictures((28, 28), count))
    labels = torch.arange(count) % 10
    return TensorData(images, labels, images, labels)


def final(*changes: str) -> list[Tensor]:
    """The weights of a tiny network after four steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 10))
    chosen = recipe("total_batch=8", "epoch_images=32", *changes)
    train(model, chosen, data(), seed=3, hooks=hooks(chosen))
    return [p.detach().clone() for p in model.parameters()]


def differ(one: list[Tensor], other: list[Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_each_part_changes_training_and_a_seed_repeats_it() -> None:
    full = final()
    assert not differ(full, final())
    for change in ("method.augmix=false", "method.consistency=0.0", "method.severity=9.0", "method.per_image=true"):
        assert differ(full, final(change)), change
    assert differ(full, final("method.decay_all=false", "weight_decay=0.5"))


def test_views_go_through_the_model_at_once_and_only_clean_ones_are_labelled() -> None:
    hook = AugMix(AugMixSettings(), 12.0, (0.5,), (0.25,))
    clean = (planes(pictures((28, 28), 4)).float() / 255 - 0.5) / 0.25
    batch = Batch(clean, torch.arange(4), torch.arange(4))
    hook.on_batch(None, batch)
    assert batch.images.shape == (12, 1, 28, 28)
    assert torch.equal(batch.images[:4], clean)
    assert not torch.equal(batch.images[4:8], batch.images[8:])
    assert batch.images.min() >= -2 - 1e-5
    assert batch.images.max() <= 2 + 1e-5
    batch.logits = torch.randn(12, 10)
    views = batch.logits.view(3, 4, 10)
    hook.on_output(None, batch)
    assert torch.equal(batch.logits, views[0])
    assert hook.on_loss(None, batch, torch.tensor(1.0)).item() == pytest.approx(1 + 12 * jensen_shannon(views).item())


def test_without_the_term_images_are_replaced() -> None:
    hook = AugMix(AugMixSettings(), 0.0, (0.5,), (0.25,), per_image=True)
    batch = Batch(torch.zeros(4, 1, 28, 28), torch.arange(4), torch.arange(4))
    hook.on_batch(None, batch)
    assert batch.images.shape == (4, 1, 28, 28)
    assert hook.on_loss(None, batch, torch.tensor(1.0)).item() == 1


def test_per_image_and_batched_hooks_agree_for_equal_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = planes(pictures((28, 28, 3), 6))
    draws = Draws.sample(6, AugMixSettings(), np.random.default_rng(0))
    monkeypatch.setattr(Draws, "sample", classmethod(lambda *_: draws))
    monkeypatch.setattr(Draws, "in_released_order", classmethod(lambda *_: draws))
    statistics = ((0.5,) * 3, (0.25,) * 3)
    batched, single = (
        AugMix(AugMixSettings(), 12.0, *statistics, per_image=each).augment(pixels) for each in (False, True)
    )
    assert distance(batched, single.numpy()) < 1e-6


def test_a_cpu_augments_large_images_one_by_one_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, hook = planes(pictures((48, 56, 3), 4)), AugMix(AugMixSettings(), 12.0, (0.5,) * 3, (0.25,) * 3)
    results, calls = [], []
    monkeypatch.setattr(training, "_one_by_one", lambda *a, of=training._one_by_one: (calls.append(1), of(*a))[1])
    for largest in (40 * 40, 48 * 56):
        monkeypatch.setattr(training, "BATCHED_ON_CPU", largest)
        np.random.seed(0)  # noqa: NPY002
        results.append(hook.augment(pixels))
    assert calls == [1]
    assert distance(results[0], results[1].numpy()) < 1e-6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("mixup=0.8", "set mixup=0"),
        ("cutmix=1.0", "set cutmix=0"),
        ("random_erasing=0.25", "set random_erasing=0"),
        ("method.severity=0.05", "severity of AugMix"),
        ("method.width=0", "at least one chain"),
        ("method.depth=0", "at least one operation"),
        ("method.consistency=-1.0", "at least 0"),
    ],
)
def test_recipes_that_cannot_be_followed_are_refused(change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        hooks(recipe(change))


def test_recipe_follows_the_released_scripts() -> None:
    imagenet, cifar = recipe(setting="imagenet"), recipe(setting="cifar100")
    assert (imagenet.method["severity"], cifar.method["severity"]) == (1.0, 3.0)
    for name, epochs, decay in (("wideresnet40_2", 100, 5e-4), ("resnext29", 200, 5e-4), ("densenet40", 200, 1e-4)):
        chosen = load_recipe(RECIPE, "cifar10", model=f"{name}_cifar")
        assert (chosen.epochs, chosen.weight_decay) == (epochs, decay)


def test_decay_acts_on_every_group() -> None:
    class Holder:
        optimizer = torch.optim.SGD(
            [{"params": [nn.Parameter(torch.ones(1))], "weight_decay": d} for d in (0.0, 1.0)], lr=1
        )

    DecayAll(0.5).start(Holder())
    assert [group["weight_decay"] for group in Holder.optimizer.param_groups] == [0.5, 0.5]


def test_contenders_differ_in_the_method_only() -> None:
    sizes = {sum(p.numel() for p in contender.build().parameters()) for contender in contenders()}
    assert len(sizes) == 1
    plain, augmix, no_term = ([*c.hooks(c.settings())] for c in contenders())
    assert not plain
    assert [hook.consistency for hook in (*augmix, *no_term)] == [12.0, 0.0]


# -- networks


@pytest.mark.parametrize("name", VARIANTS)
def test_networks_behave_as_timm_models(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, in_chans=1)
    images = torch.randn(2, 1, 24, 24)
    features = model.forward_features(images)
    assert features.shape[1] == model.num_features
    assert torch.equal(model.eval().forward_head(model.forward_features(images)), model(images))
    model.train()(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.reset_classifier(3)
    assert model.get_classifier().out_features == model(images).shape[1] == 3
    model.reset_classifier(0)
    assert model(images[:1]).shape == (1, model.num_features), "a batch of one keeps its axis"
    assert timm.data.resolve_data_config({}, model=model)["input_size"] == (3, 32, 32)


def test_resnet_is_timms_with_the_released_preprocessing() -> None:
    with shapes_only():
        ours, theirs = timm.create_model("resnet50_augmix"), timm.create_model("resnet50")
    assert {n: p.shape for n, p in ours.state_dict().items()} == {n: p.shape for n, p in theirs.state_dict().items()}
    declared = timm.data.resolve_data_config({}, model=ours)
    assert (declared["crop_pct"], declared["interpolation"], declared["input_size"]) == (
        0.875,
        "bilinear",
        (3, 224, 224),
    )


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("wideresnet40_2", {}, "no network 'wideresnet40_2'.*wideresnet40_2_cifar"),
        ("allconv_cifar", {"pretrained": True}, "load_released"),
        ("allconv_cifar", {"drop_path_rate": 0.1}, "drop_path_rate=0"),
        ("wideresnet40_2_cifar", {"depth": 12}, "10, 16, 22"),
        ("densenet40_cifar", {"depth": 8}, "7, 10, 13"),
    ],
)
def test_networks_that_do_not_exist_are_refused(name: str, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        create(name, **arguments)


def test_pooling_and_checkpointing_are_what_they_are() -> None:
    model = WideResNet(10, 3, depth=10, widen=1)
    with pytest.raises(UserError, match="averages its features"):
        model.reset_classifier(10, "max")
    with pytest.raises(UserError, match="no gradient checkpointing"):
        model.set_grad_checkpointing()


def test_declared_networks_are_those_of_the_recipes() -> None:
    assert {model.name for model in PAPER.models} == {"resnet50_augmix", *VARIANTS}
    text = Path(RECIPE).read_text()
    assert all(f"models.{name}" in text for name in VARIANTS if name != "wideresnet40_2_cifar")
