"""PRIME: parity with the released primitives and mixture, their properties, the hook, the networks."""

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

from common import bench
from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.measurement import Finding
from common.shapes import shapes_only
from common.training.data import TensorData
from common.training.loop import train
from common.training.randomness import preserved_global_state
from common.training.recipe import load_recipe
from papers.prime import claims, training
from papers.prime.draws import Draws, PrimeSettings, Step, sample_colours, sample_displacement
from papers.prime.method import apply_chains, augment
from papers.prime.model import create
from papers.prime.primitives import Colours, Displacement, Filters, displace, recolour, refilter, temperatures
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance

RECIPE = Path(training.__file__).with_name("recipe.toml")
CPU = torch.device("cpu")


class Recorded:
    """The arrays of a fixture, and its draws of a kind in the order of their calls."""

    def __init__(self, name: str) -> None:
        fixture = Fixture.load("prime", name)
        self.about, self.arrays = fixture.about, fixture.arrays
        names = sorted((n for n in self.arrays if n.startswith("draw")), key=lambda n: int(n[4:].partition("_")[0]))
        self.draws = [(n.partition("_")[2], torch.from_numpy(self.arrays[n])) for n in names]

    @property
    def images(self) -> Tensor:
        return torch.from_numpy(self.arrays["x"])

    def take(self, kind: str) -> Tensor:
        """The next draw of that kind; those before it are done with."""
        while (drawn := self.draws.pop(0))[0] != kind:
            assert drawn[0] == "dirichlet", "inside of a Beta distribution"
        return drawn[1]


@pytest.mark.parametrize("name", ["color", "color_band", "color_stochastic"])
def test_maps_of_colours_are_the_released_ones(name: str) -> None:
    recorded = Recorded(name)
    parameters, first = recorded.about["parameters"], 1
    if parameters["stochastic"]:
        recorded.take("randint"), recorded.take("uniform")
    if "freq_bandwidth" in parameters:
        first = int(recorded.take("randint"))
    ours = recolour(recorded.images, Colours(recorded.take("randn"), first, parameters["T"]))
    assert distance(ours, recorded.arrays["y"]) < OUTPUT_TOLERANCE
    assert not recorded.draws


@pytest.mark.parametrize("name", ["filter", "filter_stochastic"])
def test_filters_are_the_released_ones(name: str) -> None:
    recorded = Recorded(name)
    noise = torch.from_numpy(next(array for key, array in recorded.arrays.items() if key.endswith("randn")))
    drawn = Filters(noise, recorded.about["parameters"]["sigma"], centred=False)
    assert distance(refilter(recorded.images, drawn), recorded.arrays["y"]) < OUTPUT_TOLERANCE
    assert distance(refilter(recorded.images, replace(drawn, centred=True)), recorded.arrays["y"]) > 0.1


def recorded_displacement(recorded: Recorded, parameters: dict[str, Any], side: int) -> Displacement:
    """What the release draws, in its order: how many modes, the temperature, their coefficients."""
    lowest, highest = parameters["cutmin"], parameters["cutmax"]
    cut = int(float(recorded.take("beta")) * (highest + 1 - lowest) + lowest)
    low, high = temperatures(side, cut)
    high = max(low, parameters["alpha"] * high)
    temperature = low + (high - low) * float(recorded.take("beta"))
    x, y = recorded.take("randn"), recorded.take("randn")
    assert x.shape == (cut, cut)
    return Displacement(x, y, temperature)


@pytest.mark.parametrize("name", ["diffeo", "diffeo_stochastic"])
def test_displacements_are_the_released_ones(name: str) -> None:
    recorded = Recorded(name)
    if recorded.about["parameters"]["stochastic"]:
        recorded.take("randint")
    drawn = recorded_displacement(recorded, recorded.about["parameters"], recorded.images.shape[-1])
    assert distance(displace(recorded.images, drawn), recorded.arrays["y"]) < OUTPUT_TOLERANCE
    assert not recorded.draws


def test_mixtures_are_the_released_ones() -> None:
    recorded = Recorded("mixture")
    weights, share = recorded.take("dirichlet"), recorded.take("beta")[:, 0]
    depth, steps = recorded.take("randint") + 1, []
    while recorded.draws:
        steps.append(
            Step(
                primitive=recorded.take("randint"),
                displacement=recorded_displacement(recorded, {"cutmin": 2, "cutmax": 20, "alpha": 1.0}, 32),
                colours=Colours(recorded.take("randn"), 1, 0.01),
                filters=Filters(recorded.take("randn"), 4.0, centred=False),
            )
        )
    ours = augment(recorded.images, Draws(weights, share, depth, tuple(steps)))
    assert distance((ours - 0.5) / 0.5, recorded.arrays["y"]) < OUTPUT_TOLERANCE


def pictures(count: int = 4, side: int = 28) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_claims_that_are_exact_hold() -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(seed=0))
    results = [result for claim in (claims.identity, claims.maximum_entropy) for result in claim(run)]
    found = {result.name: result.verdict for result in results if isinstance(result, Finding)}
    names = ("displace", "recolour", "refilter", "ends", "released", "modes", "colours", "filters")
    assert found == dict.fromkeys(names, "holds")


def test_space_keeps_its_order_up_to_the_highest_temperature() -> None:
    """A ramp that is displaced still rises: the range of temperatures is right to its upper end, for most draws."""
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    rising = []
    for seed in range(20):
        x, y = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(seed))
        _, high = temperatures(64, 5)
        rising.append([
            bool((displace(ramp, Displacement(x, 0 * y, factor * high)).diff(dim=3) > -1e-6).all())
            for factor in (0.2, 20.0)
        ])  # fmt: skip
    gentle, wild = np.mean(rising, axis=0)
    assert gentle > 0.9
    assert wild < 0.1


def test_draws_are_within_what_the_settings_allow() -> None:
    settings = PrimeSettings(bandwidth=20)
    with preserved_global_state():
        torch.manual_seed(0)
        cuts = [len(sample_displacement(28, settings, CPU).x) for _ in range(200)]
        colours = [sample_colours(1, 1, settings, CPU) for _ in range(200)]
        draws = Draws.sample(pictures(100), settings)
    assert min(cuts) >= 2
    assert 50 < max(cuts) <= 100
    assert all(one.first >= 1 and one.first + one.coefficients.shape[2] - 1 <= 100 for one in colours)
    assert {one.coefficients.shape[2] for one in colours} >= {1, 20}
    assert max(one.strength for one in colours) <= 0.01
    assert set(draws.depth.tolist()) == {1, 2, 3}
    assert {code for step in draws.steps for code in step.primitive.tolist()} == {0, 1, 2}
    torch.testing.assert_close(draws.weights.sum(dim=1), torch.ones(100))


def test_a_chain_stops_at_its_depth() -> None:
    settings = PrimeSettings(depth=2)
    with preserved_global_state():
        torch.manual_seed(0)
        draws = Draws.sample(pictures(8), settings)
    whole = apply_chains(pictures(8), draws)
    shorter = apply_chains(pictures(8), replace(draws, depth=torch.tensor([1, 2] * 12)))
    first = apply_chains(pictures(8), replace(draws, steps=draws.steps[:1]))
    assert torch.equal(shorter[::2], first[::2])
    assert torch.equal(shorter[1::2], whole[1::2])


def test_without_mixing_the_result_is_the_end_of_a_chain() -> None:
    with preserved_global_state():
        torch.manual_seed(0)
        draws = Draws.sample(pictures(), PrimeSettings(mixing=False))
    torch.testing.assert_close(augment(pictures(), draws), apply_chains(pictures(), draws))
    none = replace(draws, share=torch.zeros(4))
    assert torch.equal(augment(pictures(), none), pictures())


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(UserError, match="28 x 20 pixels"):
        displace(torch.zeros(1, 3, 28, 20), Displacement(torch.zeros(2, 2), torch.zeros(2, 2), 0.0))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("width=0", "at least one chain"),
        ("depth=0", "at least one primitive"),
        ("highest_cut=2", "2 to 2"),
        ("colours=0", "at least one frequency"),
        ("kernel=4", "odd number"),
        ("cut_bias=0.0", "cut_bias must be above 0"),
        ("sigma=-1.0", "sigma cannot be below 0"),
        ("consistency=-1.0", "at least 0"),
    ],
)
def test_bad_settings_are_told_in_a_sentence(change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        training.hooks(load_recipe(RECIPE, "embedded", changes=(f"method.{change}",)))


def test_other_changes_of_images_are_refused() -> None:
    with pytest.raises(UserError, match="set mixup=0"):
        training.hooks(load_recipe(RECIPE, "embedded", changes=("mixup=0.8",)))
    assert not training.hooks(load_recipe(RECIPE, "embedded", changes=("mixup=0.8", "method.prime=false")))


@pytest.mark.parametrize("consistency", [0.0, 12.0])
def test_training_goes_through_augmented_images(consistency: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(16) % 10
    steps = ("epoch_images=16", "total_batch=8", "warmup_epochs=0", f"method.consistency={consistency}")
    recipe = load_recipe(RECIPE, "embedded", changes=steps)
    (hook,) = training.hooks(recipe)
    assert isinstance(hook, training.Prime)
    seen, augmented = [], hook.augmented

    def watched(images: Tensor) -> Tensor:
        seen.append((images, augmented(images)))
        return seen[-1][1]

    monkeypatch.setattr(hook, "augmented", watched)
    torch.manual_seed(0)
    result = train(
        bench.hosts.resnet_mini(widths=(8, 8)), recipe, TensorData(images, labels, images, labels), hooks=[hook]
    )
    assert np.isfinite(result.metrics["loss"])
    assert len(seen) == (4 if consistency else 2)
    for before, after in seen:
        assert not torch.equal(before, after)
        pixels = after * 0.3530 + 0.2860
        assert pixels.min() > -1e-5, "in the range of images, normalised"
        assert pixels.max() < 1 + 1e-5


def test_contenders_differ_in_what_is_compared() -> None:
    own = {contender.name: contender.settings() for contender in claims.contenders()}
    prime, other = own[claims.PRIME], own[claims.NO_MIXING]
    assert {key for key in prime.method if prime.method[key] != other.method[key]} == {"mixing"}
    term, augmix = own[claims.TERM], own[claims.AUGMIX]
    same = ("total_batch", "epoch_images", "label_smoothing", "learning_rate")
    assert [getattr(term, key) for key in same] == [getattr(augmix, key) for key in same]
    assert term.method["consistency"] == augmix.method["consistency"]
    assert {key for key in prime.method if prime.method[key] != term.method[key]} == {"consistency"}
    (quick,) = [one.settings(quick=True) for one in claims.contenders() if one.name == claims.TERM]
    assert quick.epoch_images == 640


def test_networks_are_timms_with_the_preprocessing_of_the_release() -> None:
    with shapes_only():
        ours = timm.create_model("resnet50_prime")
        theirs = timm.create_model("resnet50")
    assert {n: p.shape for n, p in ours.state_dict().items()} == {n: p.shape for n, p in theirs.state_dict().items()}
    assert timm.data.resolve_data_config({}, model=ours)["crop_pct"] == 0.875
    with pytest.raises(UserError, match="load_released"):
        create("resnet18_prime", pretrained=True)


def test_a_released_network_for_cifar_loads_and_comes_back() -> None:
    torch.manual_seed(0)
    one, other = (create("resnet18_prime_cifar", num_classes=10).eval() for _ in range(2))
    state = to_released(one)
    assert state["linear.weight"].shape == (10, 512)
    load_released(other, {"state_dict": {f"model.model.{name}": value for name, value in state.items()}})
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(one(x), other(x))
