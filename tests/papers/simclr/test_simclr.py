"""SimCLR: the loss against its recorded values, augmentation, networks, and the stages of training."""

from __future__ import annotations

import colorsys
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import create_pool2d
from torch import Tensor, nn

import papers
from common import bench
from common.checkpoints import from_released, load_released, to_released
from common.errors import UserError
from common.manifest import half_unit, load_manifest
from common.robustness.full_scale_measures import load_model
from common.run import Run
from common.run import Settings as RunSettings
from common.training.data import TensorData
from common.training.loop import train
from common.training.optimisation import make_optimizer
from common.training.options import Options
from common.training.recipe import Recipe, load_recipe
from papers.simclr import augmentation, claims, experiment
from papers.simclr.augmentation import (
    AugmentationSettings,
    Draws,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    blur,
    distort,
)
from papers.simclr.claims import loss, model_size
from papers.simclr.method import contrast_accuracy, nt_xent
from papers.simclr.model import SameAverage, SimCLR, create
from papers.simclr.released import names
from papers.simclr.training import hooks
from tests.parity import OUTPUT_TOLERANCE, Fixture

RECIPE = papers.find("simclr").recipe
TINY = {"layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8), "cifar_stem": True, "stem_stride": 2, "in_chans": 1}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def garments() -> TensorData:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 1, 28, 28), generator=draws, dtype=torch.uint8)
    labels = torch.arange(64) % 10
    return TensorData(images, labels, images[:20], labels[:20])


def tiny(**changes: object) -> SimCLR:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SimCLR(**{**TINY, "num_classes": 10, **changes})


def recipe(setting: str = "embedded", *changes: str) -> Recipe:
    small = ("total_batch=16", "epoch_images=32", "epochs=1", "evaluate_every=1", "warmup_epochs=0")
    return load_recipe(RECIPE, setting).with_changes(*small, *changes)


def trained(model: nn.Module, chosen: Recipe, data: TensorData, **options: object):
    return train(model, chosen, data, seed=0, hooks=hooks(chosen), options=Options(device="cpu", **options))


def definition(views: Tensor, temperature: float) -> Tensor:
    """Eq. 1 with the indicator written as a mask, in one process."""
    unit = F.normalize(views, dim=1)
    scores = (unit @ unit.T / temperature).exp() * (1 - torch.eye(len(views), dtype=views.dtype))
    partner = torch.arange(len(views)).roll(len(views) // 2)
    return -(scores[torch.arange(len(views)), partner] / scores.sum(dim=1)).log().mean()


# -- the loss


def test_the_loss_has_its_recorded_values() -> None:
    recorded = Fixture.load("simclr", "nt_xent")
    about, arrays = recorded.about, recorded.arrays
    hidden = torch.from_numpy(arrays["hidden"])
    assert contrast_accuracy(hidden).item() == pytest.approx(float(arrays["contrast_accuracy"]))
    released = float(arrays["loss_a"].mean() + arrays["loss_b"].mean())
    ours = nt_xent(hidden, about["temperature"]).item()
    assert ours == pytest.approx(about["nt_xent_definition_mean_over_2B"], rel=OUTPUT_TOLERANCE)
    assert 2 * ours == pytest.approx(about["loss_official_sum"], rel=OUTPUT_TOLERANCE)
    assert 2 * ours == pytest.approx(released, rel=OUTPUT_TOLERANCE)


@pytest.mark.parametrize(("pairs", "temperature"), [(1, 0.5), (4, 0.1), (33, 0.07)])
def test_values_and_gradients_are_those_of_the_definition(pairs, temperature) -> None:
    draws = torch.Generator().manual_seed(pairs)
    exact = torch.randn(2 * pairs, 16, generator=draws, dtype=torch.float64).requires_grad_()
    ours = exact.detach().float().requires_grad_()
    definition(exact, temperature).backward()
    value = nt_xent(ours, temperature)
    value.backward()
    assert value.item() == pytest.approx(definition(exact, temperature).item(), rel=1e-5, abs=1e-6)
    assert (ours.grad - exact.grad).abs().max() <= 1e-4 * exact.grad.abs().max() + 1e-7


def test_claim_of_the_loss_holds() -> None:
    findings = list(loss(SimpleNamespace(settings=SimpleNamespace(seed=3))))
    assert len(findings) == 4
    assert {finding.verdict for finding in findings} == {"holds"}


@pytest.mark.parametrize(("count", "temperature"), [(4, 0.0), (4, -1.0), (5, 0.5)])
def test_what_the_loss_refuses(count, temperature) -> None:
    with pytest.raises(UserError, match=r"above 0|not pairs"):
        nt_xent(torch.randn(count, 3), temperature)


def test_two_processes_have_the_loss_and_the_gradient_of_one(processes, process_group, tmp_path) -> None:
    draws = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 5, generator=draws).unbind()

    def child(rank: int) -> None:
        import os

        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        dist.init_process_group("gloo")
        own = torch.cat([first[rank::2], second[rank::2]]).requires_grad_()
        value = nt_xent(own, 0.2)
        value.backward()
        torch.save({"loss": value.detach(), "gradient": own.grad / 2}, tmp_path / f"{rank}.pt")

    assert processes(child, 2, **process_group(2)) == [0, 0]
    whole = torch.cat([first, second]).requires_grad_()
    value = nt_xent(whole, 0.2)
    value.backward()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.stack([part["loss"] for part in parts]).mean().item() == pytest.approx(value.item(), rel=1e-6)
    for rank, part in enumerate(parts):
        expected = torch.cat([whole.grad[:6][rank::2], whole.grad[6:][rank::2]])
        assert (part["gradient"] - expected).abs().max() < 1e-7


def test_two_processes_pretrain_as_one_does(garments, processes, process_group, tmp_path) -> None:
    """Without batch norm, whose statistics over processes need GPUs; crops and distortion are shared out too."""
    chosen = recipe("embedded", "optimizer=sgd", "learning_rate=1.6")

    def make() -> SimCLR:
        model = tiny(normalise=False, norm_layer=lambda channels, **_: nn.GroupNorm(1, channels))
        return model

    def child(rank: int) -> None:
        import os

        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        model = make()
        trained(model, chosen, garments)
        torch.save(model.state_dict(), tmp_path / f"{rank}.pt")

    single, start = make(), make()
    trained(single, chosen, garments)
    assert processes(child, 2, **process_group(2)) == [0, 0]
    ours = torch.load(tmp_path / "1.pt")
    moved = 0.0
    for name, tensor in single.state_dict().items():
        assert (ours[name] - tensor).abs().max() < 1e-5, name
        moved = max(moved, float((tensor - start.state_dict()[name]).abs().max()))
    assert moved > 1e-3


# -- augmentation


def draws_of(count: int, **values: object) -> Draws:
    still = {
        "order": torch.arange(4).expand(count, 4),
        "brightness": torch.zeros(count),
        "contrast": torch.ones(count),
        "saturation": torch.ones(count),
        "hue": torch.zeros(count),
        "coloured": torch.ones(count, dtype=torch.bool),
        "greyed": torch.zeros(count, dtype=torch.bool),
        "blurred": torch.zeros(count, dtype=torch.bool),
        "sigma": torch.ones(count),
    }
    return Draws(**{**still, **values})


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_strength_bounds_every_change(strength) -> None:
    for additive in (True, False):
        draws = Draws.sample(
            4000, AugmentationSettings(strength=strength, additive=additive), torch.Generator().manual_seed(0)
        )
        neutral = 0.0 if additive else 1.0
        for change, bound in (
            (draws.brightness - neutral, 0.8),
            (draws.contrast - 1, 0.8),
            (draws.saturation - 1, 0.8),
            (draws.hue, 0.2),
        ):
            assert change.abs().max() <= bound * strength + 1e-6
            assert change.abs().max() >= 0.98 * bound * strength
    assert abs(draws.coloured.float().mean() - 0.8) < 0.03
    assert abs(draws.greyed.float().mean() - 0.2) < 0.03
    assert (draws.order.sort(dim=1).values == torch.arange(4)).all()


def test_no_change_leaves_images_as_they_are() -> None:
    images = torch.rand(5, 3, 30, 30, generator=torch.Generator().manual_seed(0))
    assert (distort(images, draws_of(5), AugmentationSettings()) - images).abs().max() < 1e-5


def test_hue_and_saturation_are_those_of_hsv() -> None:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.rand(40, 3, generator=draws, dtype=torch.float64)
    for turn, factor in ((0.13, 0.4), (-0.2, 1.0), (0.0, 1.7)):
        images = adjust_hue(pixels.view(40, 3, 1, 1), torch.full((40, 1, 1, 1), turn, dtype=torch.float64))
        images = adjust_saturation(images, torch.full((40, 1, 1, 1), factor, dtype=torch.float64))
        for pixel, ours in zip(pixels.tolist(), images.view(40, 3).tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, min(1, saturation * factor), value)
            assert ours == pytest.approx(expected, abs=1e-9)


def test_changes_are_made_in_the_drawn_order() -> None:
    """Brightness clipped before contrast is not contrast before brightness."""
    image = torch.tensor([0.2, 0.9]).view(1, 1, 1, 2)
    brightness, contrast = torch.tensor([0.4]), torch.tensor([0.5])
    values = {}
    for first, order in (("brightness", [0, 1, 2, 3]), ("contrast", [1, 0, 2, 3])):
        draws = draws_of(1, order=torch.tensor([order]), brightness=brightness, contrast=contrast)
        values[first] = distort(image, draws, AugmentationSettings()).flatten().tolist()
    assert values["brightness"] == pytest.approx([0.7, 0.9])  # 0.6 and 1 about their mean 0.8
    assert values["contrast"] == pytest.approx([0.775, 1.0])
    assert adjust_contrast(image, torch.zeros(1, 1, 1, 1)).flatten().tolist() == pytest.approx([0.55, 0.55])


def test_a_blur_spreads_a_point_by_its_width() -> None:
    images = torch.zeros(2, 1, 61, 61)
    images[:, :, 30, 30] = 1
    blurred = blur(images, torch.tensor([0.1, 1.0]))
    assert torch.allclose(blurred[0], images[0], atol=1e-6)
    offsets = torch.arange(61) - 30
    assert blurred[1].sum().item() == pytest.approx(1, abs=1e-5)
    assert (blurred[1, 0].sum(0) * offsets**2).sum().item() == pytest.approx(1, abs=0.1)
    assert (blurred[1, 0].sum(0) > 0).sum() == 7  # a tenth of the image


def test_grey_images_have_equal_channels() -> None:
    images = torch.rand(2, 3, 8, 8)
    grey = distort(images, draws_of(2, greyed=torch.tensor([True, False])), AugmentationSettings())
    assert torch.equal(grey[0, 0], grey[0, 2])
    assert not torch.equal(grey[1, 0], grey[1, 2])
    assert torch.allclose(grey[0, 0], augmentation.luma(images)[0, 0])


@pytest.mark.parametrize("values", [{"strength": -0.1}, {"strength": 2.0}, {"grey": 1.2}, {"blur": -1.0}])
def test_settings_out_of_range(values) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        AugmentationSettings(**values)


# -- networks


def test_base_networks_are_of_the_printed_sizes() -> None:
    counted = [m for model in papers.find("simclr").models for m in model_size(model.name)]
    measured = {m.model: m.value for m in counted if m.metric == "params"}
    printed = load_manifest(papers.find("simclr").manifest)
    printed = printed[printed["metric"] == "params"]
    assert len(printed) == 13
    for row in printed.itertuples():
        assert abs(measured[row.model] - row.printed) <= half_unit(row.value), row.model


@pytest.mark.parametrize("name", ["resnet50_simclr", "resnet50_sk_simclrv2", "resnet18_cifar_simclr"])
def test_released_names_and_layouts_come_back(name) -> None:
    model = create(name, num_classes=7)
    released = to_released(model)
    kernels = [key for key in released if key.endswith("/kernel") and key.startswith("base_model")]
    assert len(kernels) == len([m for m in model.modules() if isinstance(m, nn.Conv2d)])
    assert released["head_supervised/linear_layer/dense/kernel"].shape == (model.num_features, 7)
    other = create(name, num_classes=7)
    as_trained = {f"{key}/Momentum": value for key, value in released.items()}
    load_released(other, {"model": {**released, **as_trained, "global_step": torch.tensor(9)}})
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    averaged = from_released({f"ema_model/{key}": value for key, value in released.items()}, model)
    assert torch.equal(averaged["fc.weight"], model.fc.weight)


def test_tensorflow_numbers_the_shortcut_of_a_block_first() -> None:
    """As the released resnet.py makes them: stem 0; shortcut 1, then 2, 3, 4 in the first block."""
    table = names(create("resnet50_simclr"))
    for ours, number in (
        ("conv1.weight", ""),
        ("layer1.0.downsample.0.weight", "_1"),
        ("layer1.0.conv1.weight", "_2"),
        ("layer1.0.conv3.weight", "_4"),
        ("layer1.1.conv1.weight", "_5"),
        ("layer2.0.downsample.0.weight", "_11"),
        ("layer4.2.conv3.weight", "_52"),
    ):
        assert table[ours] == f"base_model/conv2d{number}/kernel"
    assert table["layer1.0.downsample.1.weight"] == "base_model/batch_normalization_1/gamma"
    assert table["projection.norm.0.bias"] == "head_contrastive/nl_0/batch_normalization/beta"


def test_files_without_a_projection_head() -> None:
    """Those of SimCLRv1 have none, and need none but for networks whose classifier stands on it."""
    model = create("resnet18_cifar_simclr", num_classes=3)
    without = {k: v for k, v in to_released(model).items() if "head_contrastive" not in k and "projection" not in k}
    load_released(create("resnet18_cifar_simclr", num_classes=3), without)
    with pytest.raises(UserError, match="no projection head"):
        load_released(create("resnet18_cifar_simclr", num_classes=3, kept_layers=1), without)


def test_borders_are_as_tensorflow_pads_them() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4)
    pooled = create_pool2d("max", 3, stride=2, padding="same")(images)
    assert pooled.flatten().tolist() == [10, 11, 14, 15]  # windows begin at the first pixel
    average = SameAverage()(images)[0, 0]
    assert average[0].tolist() == [2.5, 3.5, 4.5, 5.0]
    assert average[3, 3] == 15


@pytest.mark.parametrize("name", ["resnet50_simclr", "resnet50_sk_simclrv2_finetuned", "resnet18_cifar_simclr"])
def test_networks_behave_as_timms_do(name) -> None:
    model = timm.create_model(name, num_classes=5, drop_rate=0.1)
    images = torch.rand(2, 3, 64, 64)
    logits = model(images)
    logits.sum().backward()
    unused = {"projection"} if not model.kept_layers else {"projection.linear.1", "projection.linear.2"}
    for key, parameter in model.named_parameters():
        if not key.startswith(tuple(unused)) and not key.startswith(("projection.norm.1", "projection.norm.2")):
            assert parameter.grad is not None, key
    model.eval()
    features = model.forward_features(images)
    assert torch.allclose(model.forward_head(features), model(images), atol=1e-5)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    model.reset_classifier(9)
    assert model(images[:1]).shape == (1, 9)


def test_names_that_are_none() -> None:
    with pytest.raises(UserError, match=r"Did you mean|no network"):
        create("resnet50_simcl")
    with pytest.raises(UserError, match="0 to 1 layers of the head"):
        tiny(kept_layers=2)
    with pytest.raises(UserError, match="at least one layer"):
        tiny(projection_layers=0)


def test_weights_that_the_file_does_not_tell_apart_must_be_named(tmp_path, monkeypatch) -> None:
    """So that what is measured stands beside the number that is printed for those weights, or beside none."""
    small = {"resnet50_simclrv2": 3, "resnet50_simclr": 2}

    def build(name: str, num_classes: int) -> SimCLR:
        return tiny(num_classes=num_classes, projection_layers=small.get(name, 4))

    monkeypatch.setattr(timm, "create_model", build)
    file = tmp_path / "released.pt"

    def chosen(name: str | None) -> str:
        settings = RunSettings(checkpoint=file, model=name)
        return load_model(Run(papers.find("simclr"), settings, tmp_path / "run"), num_classes=7)[1]

    torch.save(to_released(build("resnet50_simclr", 7)), file)
    assert chosen(None) == "resnet50_simclr"
    torch.save(to_released(build("resnet50_simclrv2", 7)), file)
    with pytest.raises(UserError, match=r"as resnet50_simclrv2\.linear, .*supervised: say which"):
        chosen(None)
    for name in ("resnet50_simclrv2.linear", "resnet50_simclrv2"):
        assert chosen(name) == name
    with pytest.raises(UserError, match=r"Did you mean resnet50_simclrv2\.linear\?"):
        chosen("resnet50_simclrv2.lineal")


# -- stages of training


def test_labels_do_not_reach_the_encoder(garments) -> None:
    shuffled = TensorData(garments.train[0], garments.train[1].flip(0), *garments.validation)
    first, second = tiny(), tiny()
    trained(first, recipe(), garments)
    trained(second, recipe(), shuffled)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]) != name.startswith("fc."), name
    assert not first.pretraining


def test_linear_evaluation_trains_the_classifier_alone(garments) -> None:
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    changes = ("num_classes=10", "input_size=28", "mean=[0.3]", "std=[0.3]", "epoch_images=32")
    trained(model, recipe("linear", *changes), garments)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith("fc."), name


def test_fine_tuning_starts_with_a_classifier_of_zeros_on_the_projection_head(garments) -> None:
    model = tiny(projection_layers=3, kept_layers=1)
    changes = ("num_classes=10", "input_size=28", "mean=[0.3]", "std=[0.3]", "method.global_batch_norm=false")
    chosen = recipe("finetune", *changes, "learning_rate=0.0")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained(model, chosen, garments)
    assert model.fc.weight.abs().max() == 0
    chosen = recipe("finetune", *changes, "learning_rate=1.0")
    trained(model, chosen, garments)
    state = model.state_dict()
    for name in ("conv1.weight", "projection.linear.0.weight", "fc.weight"):
        assert not torch.equal(state[name], before[name]), name
    for name in ("projection.linear.1.weight", "projection.linear.2.weight"):
        assert torch.equal(state[name], before[name]), name


def test_lars_leaves_out_what_the_release_leaves_out() -> None:
    model = tiny()
    chosen = recipe("finetune", "num_classes=10", "input_size=28")
    groups = make_optimizer(model, chosen).param_groups
    plain = {id(p) for group in groups if not group["always_adapt"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert (id(parameter) in plain) == (parameter.ndim == 1 or name == "fc.weight"), name


@pytest.mark.parametrize(
    ("setting", "batch", "rate"),
    [("imagenet", 4096, 4.8), ("imagenet", 256, 1.2), ("cifar10", 512, 2.0), ("linear", 4096, 1.6)],
)
def test_rates_follow_from_the_total_batch_alone(setting, batch, rate) -> None:
    """0.075 by the square root of the batch is 0.3 per 256 images at 4096; processes have no part in it."""
    chosen = load_recipe(RECIPE, setting).with_changes(f"total_batch={batch}")
    assert chosen.rate("learning_rate") == pytest.approx(rate)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("method.temperature=0.0", "temperature must be above 0"),
        ("method.stage=pretran", "stage must be one of pretrain"),
        ("method.colour_strength=3.0", "strength of colour distortion"),
        ("method.grey_probability=1.5", "grey is a probability"),
        ("label_smoothing=0.1", "set label_smoothing=0"),
        ("mixup=0.2", "set mixup=0"),
    ],
)
def test_bad_values_of_a_recipe(change, says) -> None:
    with pytest.raises(UserError, match=says):
        hooks(load_recipe(RECIPE, "embedded").with_changes(change))


def test_batches_are_not_cut_by_accumulation(garments) -> None:
    with pytest.raises(UserError, match="negatives of a batch are compared in one pass"):
        trained(tiny(), recipe(), garments, device_batch=8)


def test_the_encoder_of_the_bench_is_pretrained_without_labels(garments) -> None:
    colours = TensorData(
        *(
            tensor.repeat(1, 3, 1, 1) if tensor.ndim == 4 else tensor
            for tensor in (*garments.train, *garments.validation)
        )
    )
    shuffled = TensorData(colours.train[0], colours.train[1].flip(0), *colours.validation)
    states = []
    for data in (colours, shuffled):
        torch.manual_seed(0)
        model = experiment.Encoder()
        before = model.encoder.stem[0].weight.detach().clone()
        trained(model, recipe(), data)
        assert not model.pretraining
        assert not torch.equal(model.encoder.stem[0].weight, before)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]) != name.startswith("fc."), name


def test_contenders_of_the_bench_differ_in_what_they_learn_from() -> None:
    chosen = {contender.name: contender for contender in claims.contenders()}
    settings = {name: contender.settings() for name, contender in chosen.items()}
    both, crop, jitter = (settings[name] for name in (claims.SIMCLR, claims.CROP, claims.JITTER))
    assert (both.train_crop, crop.train_crop, jitter.train_crop) == ("random_resized", "random_resized", "none")
    assert [one.method["colour_probability"] for one in (both, crop, jitter)] == [0.8, 0.0, 0.8]
    still = settings[claims.RANDOM]
    assert (still.learning_rate, still.warmup_learning_rate, still.min_learning_rate) == (0, 0, 0)


def test_probe_of_features_that_tell_the_classes(monkeypatch) -> None:
    """A linear probe finds what is linear in the features, and nothing in features that do not depend on the image."""
    tests = bench.test_set(quick=True)
    few = bench.TestSet(tests.clean[:2], tests.labels[:2], tests.corrupted[:2], tests.occluded[:2])
    monkeypatch.setattr(bench, "test_set", lambda quick: few)
    monkeypatch.setattr(experiment, "SHARES", {"1pct": 600})

    class Pixels(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward_features(self, x: Tensor) -> Tensor:
            return self.scale * F.avg_pool2d(x[:, :1], 2)

        def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor:
            return x.flatten(1)

    chosen = load_recipe(RECIPE, "embedded")
    seen = experiment.probe(Pixels(1.0), chosen, True)["linear_probe_top1/1pct"]
    blind = experiment.probe(Pixels(0.0), chosen, True)["linear_probe_top1/1pct"]
    assert seen.shape == few.labels.shape
    assert seen.mean() > 0.6
    assert blind.mean() < 0.2
