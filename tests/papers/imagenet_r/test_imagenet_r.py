"""The Many Faces of Robustness: DeepAugment as released, the folders that it writes, the embedded experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from common import bench
from common.errors import UserError
from common.training.batch import Batch
from common.training.hooks import Training
from common.training.recipe import load_recipe
from papers._commands import dispatch
from papers.augmix.training import DecayAll
from papers.imagenet_r import claims, distortions, experiment
from papers.imagenet_r.claims import RECIPE
from papers.imagenet_r.draws import Draws
from papers.imagenet_r.folder import deepaugment_folder, load
from papers.imagenet_r.method import DeepAugment
from papers.imagenet_r.networks import CAE, EDSR
from papers.imagenet_r.noise2net import Noise2Net
from papers.imagenet_r.training import NoisyHalf, hooks
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance, fill

EDSR_FIXTURE, CAE_FIXTURE = (Fixture.load("imagenet-r", f"deepaugment_{kind}") for kind in ("edsr", "cae"))


class Recorded(Draws):
    """Gives back recorded draws, in order."""

    def __init__(self, draws: list[list[Any]], first_layer: int = 0) -> None:
        self.left = list(draws)
        self.first_layer = first_layer  # the number of the first of the layers that are chosen from

    def _next(self, *names: str) -> list[Any]:
        name, *values = self.left.pop(0)
        assert name in names, (name, names)
        return values

    def choice(self, items: Sequence[Any]) -> Any:
        (value,) = self._next("choice", "numpy choice")
        return items[value - self.first_layer] if items and isinstance(items[0], str) else value

    def integer(self, low: int, high: int) -> int:
        (value,) = self._next("randint")
        assert low <= value <= high
        return value

    def place(self) -> tuple[int, int]:
        return tuple(self._next("numpy randint")[0])

    def uniform(self) -> float:
        return self._next("random", "numpy uniform")[0]

    def uniforms(self, shape: Sequence[int]) -> Tensor:
        recorded, seed = self._next("uniform array")
        assert list(shape) == recorded
        return torch.from_numpy(np.random.Generator(np.random.Philox(seed)).random(tuple(shape), dtype=np.float32))

    def dirichlet(self, count: int, shape: Sequence[int]) -> Tensor:
        recorded, seed = self._next("dirichlet array")
        assert list(shape) == recorded
        made = np.random.Generator(np.random.Philox(seed)).dirichlet([0.1] * count, tuple(shape))
        return torch.from_numpy(made.astype(np.float32))

    def permutation(self, count: int) -> list[int]:
        if self.left[0][0] == "randint":  # drawn and never used by the release
            self.left.pop(0)
        (order,) = self._next("shuffle", "numpy permutation")
        assert sorted(order) == list(range(count))
        return order

    def all_used(self) -> bool:
        return not self.left


def edsr_state() -> dict[str, Tensor]:
    fixed = {name: t for name, t in EDSR().state_dict().items() if "mean" in name}
    return {name: fixed.get(name, fill(name, tuple(s))) for name, s in EDSR_FIXTURE.about["state"].items()}


def edsr(key: str, state: dict[str, Tensor], **distorted: Any) -> float:
    """How far EDSR's output is from the recorded one."""
    network = EDSR()
    network.load_state_dict(state)
    with torch.no_grad():
        output = network(torch.from_numpy(EDSR_FIXTURE.arrays["x"]), **distorted)
    return distance(output[:, :, ::4, ::2], EDSR_FIXTURE.arrays[key])


def test_edsr_is_the_released_one() -> None:
    network = EDSR()
    assert {name: list(t.shape) for name, t in network.state_dict().items()} == EDSR_FIXTURE.about["state"]
    assert sum(p.numel() for p in network.parameters()) == EDSR_FIXTURE.about["params"]
    assert edsr("plain", edsr_state()) < OUTPUT_TOLERANCE


@pytest.mark.parametrize("option", range(1, 4))
def test_edsr_features_are_distorted_as_released(option: int) -> None:
    draws = Recorded(EDSR_FIXTURE.about["draws"][f"pre_{option}"])
    change = distortions.EDSR_FEATURES[option - 1]
    assert edsr(f"pre_{option}", edsr_state(), features=lambda x: change(x, draws)) < OUTPUT_TOLERANCE
    assert draws.all_used()


@pytest.mark.parametrize("option", range(1, 5))
def test_edsr_body_is_distorted_as_released(option: int) -> None:
    draws = Recorded(EDSR_FIXTURE.about["draws"][f"body_{option}"])
    change = distortions.EDSR_BODY[option - 1]
    assert edsr(f"body_{option}", edsr_state(), body=lambda layers, x: change(layers, x, draws)) < OUTPUT_TOLERANCE
    assert draws.all_used()


@pytest.mark.parametrize("option", range(17))
def test_edsr_weights_are_distorted_as_released(option: int) -> None:
    recorded = EDSR_FIXTURE.about["draws"]
    plain, draws = edsr_state(), Recorded(recorded[f"weights_{option:02}"])
    state = dict(plain)
    distortions.OF_EDSR[option](state, (), draws)
    assert draws.all_used()
    changed = {name for name in state if not torch.equal(state[name], plain[name])}
    assert changed == set(recorded[f"weights_{option:02}_changed"])
    assert edsr(f"weights_{option:02}", state) < OUTPUT_TOLERANCE


def cae_state() -> dict[str, Tensor]:
    return {name: fill(name, tuple(shape)) for name, shape in CAE_FIXTURE.about["state"].items()}


def cae(key: str, state: dict[str, Tensor], draws: Recorded, **distorted: Any) -> float:
    network, images = CAE(), torch.from_numpy(CAE_FIXTURE.arrays["x_uint8"]).float() / 255
    network.load_state_dict(state)
    with torch.no_grad():
        output = network(images, draws, **distorted)
    assert draws.all_used()
    return distance(output[:, :, ::2, ::2], CAE_FIXTURE.arrays[key])


def test_autoencoder_is_the_released_one() -> None:
    network = CAE()
    assert {name: list(t.shape) for name, t in network.state_dict().items()} == CAE_FIXTURE.about["state"]
    assert sum(p.numel() for p in network.parameters()) == CAE_FIXTURE.about["params"]
    convolutions = [name.removesuffix(".weight") for name in network.state_dict() if name.endswith("weight")]
    assert tuple(convolutions) == distortions.CAE_LAYERS
    draws = Recorded(CAE_FIXTURE.about["draws"]["plain"])
    assert cae("plain", cae_state(), draws) < OUTPUT_TOLERANCE
    network.load_state_dict(cae_state())
    with torch.no_grad():
        code = network.encode(torch.from_numpy(CAE_FIXTURE.arrays["x_uint8"]).float() / 255)
    assert distance(code[:, :, ::2, ::2], CAE_FIXTURE.arrays["code"]) < OUTPUT_TOLERANCE


@pytest.mark.parametrize("option", range(9))
def test_code_is_distorted_as_released(option: int) -> None:
    draws = Recorded(CAE_FIXTURE.about["draws"][f"latent_{option}"])
    if option == 0:
        change = {"bits": lambda bits: distortions.enlarge_bits(bits, draws)}
    else:
        change = {"code": lambda code: distortions.CAE_CODE[option - 1](code, draws)}
    assert cae(f"latent_{option}", cae_state(), draws, **change) < OUTPUT_TOLERANCE


@pytest.mark.parametrize("option", range(9))
def test_autoencoder_weights_are_distorted_as_released(option: int) -> None:
    recorded = CAE_FIXTURE.about["draws"]
    drawn = list(recorded[f"weights_{option}"])
    if option != 4:
        drawn.pop(1)  # of a second layer, which the release draws for every option and changes by one
    draws = Recorded(drawn, first_layer=distortions.CAE_LAYERS.index(distortions.cae_layers(option)[0]))
    plain = cae_state()
    state = dict(plain)
    distortions.OF_CAE[option](state, distortions.cae_layers(option), draws)
    assert draws.all_used()
    changed = {name for name in state if not torch.equal(state[name], plain[name])}
    assert changed == set(recorded[f"weights_{option}_changed"])
    assert cae(f"weights_{option}", state, Recorded(recorded["plain"])) < OUTPUT_TOLERANCE


def test_noise2net_is_the_released_one() -> None:
    fixture = Fixture.load("imagenet-r", "noise2net")
    about = fixture.about
    reach = [(kernel[0], dilation[0]) for _, kernel, dilation in about["convolutions"]]
    draws = Recorded([["choice", value] for pair in reach for value in pair])
    network = Noise2Net(about["batch_size"], draws, about["hidden_planes"])
    assert draws.all_used()
    network.load_state_dict(
        {name: fill(name, tuple(s)) if s else torch.tensor(0) for name, s in about["state"].items()}
    )
    output = network(torch.from_numpy(fixture.arrays["x"]), about["epsilon"])
    assert distance(output, fixture.arrays["output"]) < OUTPUT_TOLERANCE


def test_noise2net_treats_every_image_by_itself() -> None:
    torch.manual_seed(0)
    network = Noise2Net(3, Draws(0), hidden=4)
    images = torch.randn(3, 3, 12, 12)
    before = network(images, 0.5)
    changed = images.clone()
    changed[1] += 1 + torch.randn(3, 12, 12)
    after = network(changed, 0.5)
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])
    assert not torch.allclose(after[1], before[1])
    torch.testing.assert_close(network(images, 0.0), images)
    network.reset()
    assert not torch.allclose(network(images, 0.5), before)


def test_distortions_leave_the_plain_weights_alone() -> None:
    for kind, state in (("edsr", EDSR().state_dict()), ("cae", CAE().state_dict())):
        augment = DeepAugment(kind, state)
        for seed in range(12):
            augment.renew(Draws(seed))
            assert any(augment.weights[name] is not augment.plain[name] for name in state)
            assert all(torch.equal(augment.plain[name], state[name]) for name in state)
            assert {name: t.shape for name, t in augment.weights.items()} == {
                name: t.shape for name, t in state.items()
            }


def test_a_folder_is_distorted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("papers.imagenet_r.method.SIDES", {"edsr": 12, "cae": 16})
    source, target, weights = tmp_path / "source", tmp_path / "target", tmp_path / "weights.pt"
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        levels = np.random.default_rng(len(name)).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(levels).save(source / name)
    torch.manual_seed(0)
    torch.save(CAE().state_dict(), weights)
    assert dispatch(["deepaugment", str(source), str(target), "--network", "cae", "--weights", str(weights)]) == 0
    written = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*.png")}
    assert set(written) == {"cat/a.png", "cat/b.png", "dog/c.png"}
    (target / "cat/b.png").unlink()
    assert deepaugment_folder(source, target, load("cae", weights)) == 1
    assert (target / "cat/b.png").read_bytes() == written["cat/b.png"]
    with pytest.raises(UserError, match="has not the weights of edsr"):
        load("edsr", weights)
    torch.save(EDSR().state_dict(), weights)
    deepaugment_folder(source, tmp_path / "large", load("edsr", weights))
    assert Image.open(tmp_path / "large/cat/a.png").size == (56, 48)


def test_half_of_a_batch_is_noisy() -> None:
    recipe = load_recipe(RECIPE, "noise2net")
    hook, decay = hooks(recipe)
    assert isinstance(hook, NoisyHalf)
    assert isinstance(decay, DecayAll)
    images = torch.randn(6, 3, 12, 12)
    batch = Batch(images.clone(), torch.zeros(6, dtype=torch.long), torch.zeros(6, 10), None)
    run = cast("Training", SimpleNamespace(epoch=0, device="cpu"))
    hook.on_batch(run, batch)
    assert torch.equal(batch.images[3:], images[3:])
    assert all(not torch.equal(ours, before) for ours, before in zip(batch.images[:3], images[:3], strict=True))
    with pytest.raises(UserError, match="at least 0"):
        hooks(recipe.with_changes("method.noise2net=-1.0"))


def test_groups_of_images_stay_apart() -> None:
    images = bench.test_set(True).clean[0, :6, 0]
    other = images.clone()
    other[2] = 255 - other[2]
    differ = 0
    for seed in range(30):
        one, changed = (experiment.distorted(group, Draws(seed)) for group in (images, other))
        assert one.dtype == torch.uint8
        keep = [0, 1, 3, 4, 5]
        assert torch.equal(one[keep], changed[keep])
        differ += not torch.equal(one[2], changed[2])
    assert differ > 25


def test_garments_are_placed_elsewhere() -> None:
    images, labels = experiment.placed(True)
    tests = bench.test_set(True)
    assert images.shape == (experiment.CELLS, *tests.clean.shape[1:])
    assert torch.equal(labels, tests.labels[: experiment.CELLS])
    assert 0.3 < (images > 8).sum() / (tests.clean[: experiment.CELLS] > 8).sum() < 0.7


def scores(table: dict[str, list[float]], seeds: int = 6) -> bench.Scores:
    """Accuracies (0 to 1) of each contender under the shifts, a little different with each seed."""
    values: dict[tuple[str, int], Mapping[str, Any]] = {}
    for name, accuracies in table.items():
        for seed in range(seeds):
            shift = 1e-4 * ((seed * 7 + len(name)) % 5)
            values[name, seed] = {s: a + shift for s, a in zip(experiment.SHIFTS, accuracies, strict=True)}
    return bench.Scores(values)


def test_a_method_that_wins_everywhere_is_found() -> None:
    plain, one, two, three = (claims.PLAIN, claims.AUGMIX, claims.DEEP, claims.BOTH)
    wins = scores({plain: [0.5] * 4, one: [0.6] * 4, two: [0.7] * 4, three: [0.8] * 4})
    assert claims.best_everywhere(wins).verdict == "does not hold"
    assert claims.rank_correlation(wins) == pytest.approx(1)
    mixed = {plain: [0.5] * 4, one: [0.8, 0.6, 0.6, 0.6], two: [0.6, 0.8, 0.6, 0.6], three: [0.7, 0.7, 0.7, 0.7]}
    found = claims.best_everywhere(scores(mixed))
    assert found.verdict == "holds"
    assert found.value == pytest.approx(claims.rank_correlation(scores(mixed)))
    assert claims.rank_correlation(scores(mixed)) < 1
    assert claims.best_everywhere(scores(mixed, seeds=1)).verdict == "unclear"
    near = {plain: [0.5] * 4, one: [0.6] * 4, two: [0.60001] * 4, three: [0.6] * 4}
    assert claims.best_everywhere(scores(near)).verdict == "unclear"
