"""PixMix: parity with the released mixings and mixtures, the pictures, the hook, the battery."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from common import bench
from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.measurement import Finding
from common.robustness.metrics.calibration import adaptive_calibration_error
from common.shapes import shapes_only
from common.training.data import TensorData
from common.training.loop import train
from common.training.recipe import load_recipe
from papers.augmix.draws import ALL_OPERATIONS, FIXED, SIGNED
from papers.pixmix import claims, mixing, training
from papers.pixmix.anomalies import anomalies
from papers.pixmix.draws import MIXINGS, Draws, PixMixSettings
from papers.pixmix.fractals import COVERED, fractal
from papers.pixmix.frames import FRAMES, PERTURBATIONS, sequences
from papers.pixmix.measures import BATTERY, battery
from papers.pixmix.method import augmented_copies, pixmix
from papers.pixmix.model import create
from papers.pixmix.pictures import Folder, Generated, load
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance

RECIPE = Path(training.__file__).with_name("recipe.toml")


def weights(draws: list[Any]) -> tuple[np.float32, np.float32]:
    """The weights (a, b) that the release makes of the next three draws."""
    positive, a, b = draws.pop(0) < 0.5, np.float32(draws.pop(0)), np.float32(draws.pop(0))
    return (a, b) if positive else (1 + a, -b)


@pytest.mark.parametrize("name", ["add", "multiply", "screen", "overlay", "darken_or_lighten", "swap_channel"])
@pytest.mark.parametrize("number", range(4))
def test_mixings_are_the_released_ones(name: str, number: int) -> None:
    fixture = Fixture.load("pixmix", "mixing")
    first, second = (torch.from_numpy(fixture.arrays[key])[None] for key in ("img1", "img2"))
    drawn = [value for _, _, value in fixture.about["draws"][f"{name}_{number}"]]

    def pair() -> tuple[Tensor, Tensor]:
        a, b = weights(drawn)
        return torch.tensor([a]), torch.tensor([b])

    if name == "overlay":
        ours = mixing.overlay(first, second, pair(), pair(), drawn.pop(0) < 0.5)
    elif name == "darken_or_lighten":
        ours = mixing.darken_or_lighten(first, second, drawn.pop(0) < 0.5)
    elif name == "swap_channel":
        ours = mixing.swap_channel(first, second, drawn.pop(0))
    else:
        ours = getattr(mixing, name)(first, second, *pair())
    assert not drawn
    assert distance(ours.nan_to_num(-12345, 1e38, -1e38)[0], fixture.arrays[f"out_{name}_{number}"]) < OUTPUT_TOLERANCE


def recorded_draws(stream: list[list[Any]], k: int) -> Draws:
    """The draws of one image of the fixture, in the released order."""
    rest = list(stream)
    copies, rounds = (1, k + 1), (1, k)
    draws = Draws(
        rounds=np.zeros(1, int), augmented=np.zeros(copies, bool), operation=np.zeros(copies, int),
        level=np.zeros(copies), negative=np.zeros(copies, bool), mixing=np.zeros(rounds, int),
        a=np.zeros(rounds, np.float32), b=np.zeros(rounds, np.float32),
    )  # fmt: skip

    def take(kind: str) -> Any:
        found, value = rest.pop(0)
        assert found == kind
        return value

    def copy(number: int) -> None:
        draws.augmented[0, number] = take("random") < 0.5
        if draws.augmented[0, number]:
            name = take("choice")
            draws.operation[0, number] = ALL_OPERATIONS.index(name)
            if name not in FIXED:
                draws.level[0, number] = take("uniform")
            if name in SIGNED:
                draws.negative[0, number] = take("random" if name.startswith("translate") else "uniform") > 0.5

    copy(0)
    draws.rounds[0] = take("randint")
    for number in range(draws.rounds[0]):
        copy(number + 1)
        draws.mixing[0, number] = MIXINGS.index(take("choice"))
        draws.a[0, number], draws.b[0, number] = weights([take("random"), take("beta"), take("beta")])
    assert not rest
    return draws


def test_mixtures_are_the_released_ones() -> None:
    fixture = Fixture.load("pixmix", "pixmix")
    image, picture = (torch.from_numpy(fixture.arrays[key]).permute(2, 0, 1)[None] for key in ("x", "mixing_picture"))
    cases = [recorded_draws(stream, fixture.about["k"]) for stream in fixture.about["draws"]]
    for number, draws in enumerate(cases):
        ours = pixmix(image, picture, draws)[0]
        assert distance((ours - 0.5) / 0.5, fixture.arrays[f"out_{number}"]) < OUTPUT_TOLERANCE
    together = Draws(**{key: np.concatenate([getattr(one, key) for one in cases]) for key in vars(cases[0])})
    batch = pixmix(image.repeat(4, 1, 1, 1), picture.repeat(4, 1, 1, 1), together)
    recorded = np.stack([fixture.arrays[f"out_{number}"] for number in range(4)])
    assert distance((batch - 0.5) / 0.5, recorded) < OUTPUT_TOLERANCE


def test_calibration_errors_are_the_released_ones() -> None:
    fixture = Fixture.load("pixmix", "calibration")
    sure, right = fixture.arrays["confidence"], fixture.arrays["correct"]
    for norm in ("rms", "mad", "max"):
        ours = adaptive_calibration_error(sure, right, norm=norm)
        assert ours == pytest.approx(fixture.about["results"][norm], rel=1e-6)
        assert adaptive_calibration_error(sure, right, norm=norm, last_bin=True) >= ours


def test_identities_hold() -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(seed=0))
    found = {result.name: result.verdict for result in claims.identity(run) if isinstance(result, Finding)}
    assert found == dict.fromkeys(("nothing", "grey", "all", "rounds"), "holds")


def test_draws_have_the_released_distributions() -> None:
    draws = Draws.sample(20_000, PixMixSettings(k=4, beta=3.0), np.random.default_rng(0))
    assert set(draws.rounds.tolist()) == {0, 1, 2, 3, 4}
    positive = draws.b > 0
    assert positive.mean() == pytest.approx(0.5, abs=0.01)
    assert draws.a[positive].mean() == pytest.approx(3 / 4, abs=0.01), "Beta(3, 1)"
    assert draws.a[~positive].mean() == pytest.approx(5 / 4, abs=0.01), "1 + Beta(1, 3)"
    assert np.abs(draws.b).mean() == pytest.approx(1 / 4, abs=0.01), "Beta(1, 3)"
    few = Draws.sample(1000, PixMixSettings(all_operations=False), np.random.default_rng(0))
    assert few.operation.max() < 9 <= draws.operation.max()


def test_results_are_images() -> None:
    generator = np.random.default_rng(0)
    images, pictures = torch.from_numpy(generator.integers(0, 256, (2, 64, 3, 28, 28), dtype=np.uint8))
    draws = Draws.sample(64, PixMixSettings(), generator)
    mixed = pixmix(images, pictures, draws)
    assert mixed.dtype == torch.float32
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    alone = pixmix(images, torch.zeros_like(pictures), draws)
    same = (mixed == alone).flatten(1).all(dim=1).numpy()
    used = ((draws.rounds[:, None] > np.arange(4)) & ~draws.augmented[:, 1:]).any(axis=1)
    assert (same == ~used).all(), "pictures count where a round takes one, and nowhere else"


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_get_the_same_one_by_one(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (24, channels, 28, 28), dtype=np.uint8))
    draws = Draws.sample(24, PixMixSettings(), generator)
    at_once = augmented_copies(images, draws)
    monkeypatch.setattr("papers.pixmix.method.BATCHED_ON_CPU", 0)
    monkeypatch.setattr("papers.pixmix.method.apply", None)  # it must not be called
    assert torch.equal(augmented_copies(images, draws), at_once)


def test_fractals_cover_their_picture_and_differ() -> None:
    one, again, other = (fractal(24, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (3, 24, 24)
    assert one.dtype == np.uint8
    assert (one == again).all()
    assert (one != other).any()
    background = one.reshape(3, -1).T
    _, counts = np.unique(background, axis=0, return_counts=True)
    assert counts.max() <= (1 - COVERED) * 24 * 24 + 1


def test_generated_pictures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIGHT_DATA", str(tmp_path))
    monkeypatch.setattr("papers.pixmix.pictures.COUNT", 3)
    taken = Generated(30).take(8, 28, np.random.default_rng(0))
    assert taken.shape == (8, 3, 28, 28)
    (kept,) = (tmp_path / "pixmix").iterdir()
    before = kept.stat().st_mtime_ns
    assert torch.equal(Generated(30).take(8, 28, np.random.default_rng(0)), taken)
    assert kept.stat().st_mtime_ns == before


def test_a_folder_of_pictures_is_resized_and_cropped(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "more" / "grey.JPG")
    folder = load(str(tmp_path), 36)
    assert isinstance(folder, Folder)
    taken = folder.take(6, 32, np.random.default_rng(0))
    assert taken.shape == (6, 3, 32, 32)
    whole = folder._picture([path.name for path in folder.files].index("wide.png"))
    assert whole.shape == (3, 36, 54)


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda folder: "", "set method.pictures"),
        (lambda folder: str(folder / "none"), "There is no folder"),
        (lambda folder: str(folder), "has no pictures"),
    ],
)
def test_missing_pictures_are_told_in_a_sentence(prepare: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        load(prepare(tmp_path), 36)


def test_pictures_that_cannot_be_used_are_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png cannot be read"):
        Folder(tmp_path, 36).take(1, 32, np.random.default_rng(0))
    Image.new("RGB", (20, 20)).save(tmp_path / "broken.png")
    with pytest.raises(UserError, match="too small for images of 32"):
        Folder(tmp_path, 24).take(1, 32, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("method.k=-1", "at least 0"),
        ("method.beta=0.0", "above 0"),
        ("method.severity=0.1", "above 0.1"),
        ("method.picture_size=20", "crops of larger pictures"),
        ("cutmix=1.0", "set cutmix=0"),
    ],
)
def test_bad_recipes_are_told_in_a_sentence(change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        training.hooks(load_recipe(RECIPE, "embedded", changes=(change,)))


@pytest.mark.parametrize("channels", [1, 3])
def test_training_goes_through_mixed_images(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, channels, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(16) % 10
    steps = ("epoch_images=16", "total_batch=8", "warmup_epochs=0", f"method.pictures={tmp_path}")
    recipe = load_recipe(RECIPE, "embedded", changes=steps)
    (hook,) = training.hooks(recipe)
    seen = []
    plain = hook.on_batch

    def watched(run: Any, batch: Any) -> None:
        before = batch.images
        plain(run, batch)
        seen.append((before, batch.images))

    monkeypatch.setattr(hook, "on_batch", watched)
    torch.manual_seed(0)
    model = bench.hosts.resnet_mini(widths=(8, 8), in_chans=channels)
    result = train(model, recipe, TensorData(images, labels, images, labels), hooks=[hook])
    assert np.isfinite(result.metrics["loss"])
    for before, after in seen:
        assert before.shape == after.shape
        assert not torch.equal(before, after)
        pixels = after * 0.3530 + 0.2860
        assert pixels.min() > -1e-5, "in the range of images, normalised"
        assert pixels.max() < 1 + 1e-5


def test_sequences_change_little_from_frame_to_frame() -> None:
    frames = sequences(quick=True).float() / 255
    assert frames.shape == (len(PERTURBATIONS), 50, FRAMES, 3, 28, 28)
    middle = frames[:, :, FRAMES // 2]
    clean = bench.test_set(quick=True).clean[: len(PERTURBATIONS)].float() / 255
    assert (middle - clean)[1:].abs().max() < 3 / 255, "all but noise pass through the image itself"
    steps = frames.diff(dim=2).abs().mean(dim=(1, 2, 3, 4, 5))
    assert ((steps > 0.005) & (steps < 0.1)).all()


def test_the_battery_measures_what_it_names() -> None:
    torch.manual_seed(0)
    recipe = load_recipe(RECIPE, "embedded")
    found = battery(bench.hosts.resnet_mini(widths=(8, 8)).eval(), recipe, quick=True)
    assert set(BATTERY) <= set(found)
    assert np.shape(found["flip_rate"]) == (len(PERTURBATIONS), 50)
    assert {name for name in found if name.startswith("auroc/")} == {f"auroc/{name}" for name in anomalies(True)}
    for images in anomalies(True).values():
        assert images.shape == (50, 3, 28, 28)
        assert images.dtype == torch.uint8
        assert images.float().std() > 20


def test_contenders_have_the_bench_budget_and_their_method_alone() -> None:
    own = {contender.name: contender.settings() for contender in claims.contenders()}
    host = own[claims.HOST]
    for name in (claims.MIXUP, claims.CUTMIX, claims.PIXMIX):
        unmixed = replace(own[name], method={}, mixup=0.0, cutmix=0.0, mix_probability=0.0, changes=())
        assert unmixed == replace(host, method={}, changes=()), name


def test_networks_load_released_names_and_have_its_preprocessing() -> None:
    torch.manual_seed(0)
    one, other = (create("wideresnet40_4_cifar", num_classes=10).eval() for _ in range(2))
    state = to_released(one)
    assert state["block2.layer.0.conv_shortcut.weight"].shape == (128, 64, 1, 1)
    load_released(other, {"state_dict": {f"module.{name}": value for name, value in state.items()}})
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(one(x), other(x))
    with shapes_only():
        assert timm.data.resolve_data_config({}, model=timm.create_model("resnet50_pixmix"))["crop_pct"] == 0.875
    with pytest.raises(UserError, match="no network 'wideresnet40_2_cifar'"):
        create("wideresnet40_2_cifar")
