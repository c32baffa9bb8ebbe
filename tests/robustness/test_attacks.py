"""Attacks: parity with the released evaluations, closed forms, and the properties that make them attacks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.data.fashion_mnist import load_fashion_mnist
from common.errors import UserError
from common.robustness.attacks import PROTOCOLS, Attack, AutoAttack, PatchPgd, Pgd, fgsm, patch_mask
from common.robustness.normalisation import Normalized
from tests.parity import DEVICES

FIXTURES = Path(__file__).parent / "fixtures" / "attacks"
EPSILON = 8 / 255


def recorded(name: str, device: str) -> tuple[dict, dict[str, Tensor], nn.Module]:
    """A fixture's notes, its arrays, and its linear classifier on images in [0, 1]."""
    notes = json.loads((FIXTURES / f"{name}.json").read_text())
    with np.load(FIXTURES / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]).to(device) for key in file.files}
    linear = nn.Linear(*reversed(arrays["w1"].shape))
    linear.load_state_dict({"weight": arrays["w1"], "bias": arrays["b1"]})
    settings = notes["settings_as_evaluated"]
    model = Normalized(nn.Sequential(nn.Flatten(), linear), settings["mean"], settings["std"])
    return notes, arrays, model.eval().to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "metric"), [("attack_fgsm", "fgsm_top1"), ("attack_pgd", "pgd_top1")])
def test_equals_released_attack(name: str, metric: str, device: str) -> None:
    notes, arrays, model = recorded(name, device)
    attack = PROTOCOLS[metric]
    case = notes["this_case"]
    assert attack.epsilon == pytest.approx(case["eps_pixels"])
    assert attack.step == pytest.approx(case["alpha_pixels"], rel=1e-6)
    assert (attack.steps, attack.random_start, attack.norm) == (case["steps"], case["random_start"], "linf")
    images = arrays["x_uint8"].float() / 255
    draws = {"start_uniform01": arrays["start_uniform01"]} if attack.random_start else None
    adversarial = attack(model, images, arrays["y"], draws=draws)
    # Fixtures are in units of normalised images.
    difference = (adversarial - model.mean) / model.std - arrays["x_adv"]
    assert difference.abs().max() / arrays["x_adv"].abs().max() < 1e-5
    with torch.no_grad():
        logits = model(adversarial)
    assert (logits - arrays["logits_adv"]).abs().max() / arrays["logits_adv"].abs().max() < 1e-5


@pytest.fixture
def network() -> nn.Module:
    """A small convolutional classifier with fixed random weights, on images in [0, 1]."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.GELU(), nn.Conv2d(8, 16, 3, 2), nn.GELU(), nn.Flatten(), nn.LazyLinear(10)
        )
        layers(torch.zeros(1, 3, 16, 16))
    return Normalized(layers).eval()


@pytest.fixture
def batch(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], extremes included, and the classes that the network gives them."""
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[0] = 0
    images[1] = 1
    with torch.no_grad():
        return images, network(images).argmax(1)


ATTACKS = [
    fgsm(EPSILON),
    fgsm(1.0, norm="l2"),
    Pgd(epsilon=EPSILON, step=EPSILON / 2, steps=4, random_start=True),
    Pgd(epsilon=1.0, step=0.5, steps=4, norm="l2", random_start=True),
]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.norm}-{a.steps}")
def test_stays_in_ball_and_range(attack: Pgd, targeted: bool, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    attack = Pgd(**{**attack.__dict__, "targeted": targeted})
    before = images.clone()
    adversarial = attack(network, images, labels, generator=torch.Generator().manual_seed(1))
    assert torch.equal(images, before)
    assert adversarial.shape == images.shape
    assert not adversarial.requires_grad
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    change = (adversarial - images).flatten(1)
    size = change.abs().amax(1) if attack.norm == "linf" else change.norm(dim=1)
    assert (size <= attack.epsilon * (1 + 1e-5)).all()
    assert (size > 0.1 * attack.epsilon).all()
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_are_never_weaker(norm: str, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    epsilon = 2 / 255 if norm == "linf" else 0.3
    for seed in range(3):
        losses, errors = [], []
        for steps in (0, 1, 2, 4, 8, 16):
            attack = Pgd(epsilon=epsilon, step=epsilon / 4, steps=steps, norm=norm, random_start=True)
            adversarial = attack(network, images, labels, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                logits = network(adversarial)
            losses.append(nn.functional.cross_entropy(logits, labels).item())
            errors.append((logits.argmax(1) != labels).sum().item())
        assert losses == sorted(losses)
        assert errors == sorted(errors)
        assert losses[-1] > losses[0]


def test_targeted_attack_reaches_its_class(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    targets = (labels + 1) % 10
    attack = Pgd(epsilon=0.3, step=0.02, steps=60, targeted=True)
    with torch.no_grad():
        reached = network(attack(network, images, targets)).argmax(1)
    assert (reached == targets).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 5])
def test_closed_form_on_linear_model(norm: str, steps: int) -> None:
    """Of two classes with logits w.x, the strongest point of the ball is where the gradient w1 - w0 points."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 3 * 8 * 8, generator=generator)
    linear = nn.Linear(3 * 8 * 8, 2)
    linear.load_state_dict({"weight": weights, "bias": torch.zeros(2)})
    std = (0.2, 0.5, 1.0)
    model = Normalized(nn.Sequential(nn.Flatten(), linear), (0.5, 0.4, 0.3), std).eval()
    images = 0.4 + 0.2 * torch.rand(4, 3, 8, 8, generator=generator)
    labels = torch.tensor([0, 1, 0, 1])
    epsilon = 0.05
    toward = (weights[1] - weights[0]).view(3, 8, 8) / torch.tensor(std).view(3, 1, 1)
    direction = toward.sign() if norm == "linf" else toward / toward.norm()
    signs = torch.where(labels == 0, 1.0, -1.0).view(-1, 1, 1, 1)
    expected = images + epsilon * signs * direction
    attack = Pgd(epsilon=epsilon, step=epsilon, steps=steps, norm=norm)
    assert torch.allclose(attack(model, images, labels), expected, atol=1e-6)
    # Aiming at the other class is the same as leaving this one.
    aimed = Pgd(epsilon=epsilon, step=epsilon, steps=steps, norm=norm, targeted=True)
    assert torch.allclose(aimed(model, images, 1 - labels), expected, atol=1e-6)


def test_pixel_units_do_not_depend_on_normalisation(batch: tuple[Tensor, Tensor], network: nn.Module) -> None:
    """Folding the normalisation into the first layer changes nothing but rounding."""
    images, labels = batch
    layers = network.model
    with torch.no_grad():
        first = layers[0]
        folded = nn.Conv2d(3, 8, 3, 2)
        folded.weight.copy_(first.weight / network.std.view(1, -1, 1, 1))
        folded.bias.copy_(first.bias - (first.weight * (network.mean / network.std).view(1, -1, 1, 1)).sum((1, 2, 3)))
    plain = nn.Sequential(folded, *layers[1:]).eval()
    attack = fgsm(EPSILON)
    agree = attack(network, images, labels) == attack(plain, images, labels)
    assert agree.float().mean() > 0.995


def test_seeds_make_results_independent_of_batching(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    for attack in (ATTACKS[2], ATTACKS[3], PatchPgd(size=4, steps=2)):
        together = attack(network, images, labels, seeds=range(6))
        apart = torch.cat([attack(network, images[i : i + 1], labels[i : i + 1], seeds=[i]) for i in range(6)])
        assert torch.allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("attack", [ATTACKS[2], PatchPgd(size=4, steps=2)], ids=["pgd", "patch"])
def test_model_in_training_is_left_as_it_was(attack: Pgd | PatchPgd) -> None:
    """Its batch statistics do not move, no module changes its mode, and the attack does not depend on dropout."""
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(392, 10)
    )
    model = Normalized(layers).train()
    layers[1].eval()  # as one does to fine-tune with frozen statistics
    images, labels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    adversarial = attack(model, images, labels, seeds=range(4))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(adversarial, attack(model.eval(), images, labels, seeds=range(4)))


def test_gradients_are_found_in_inference_mode(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    expected = ATTACKS[2](network, images, labels, seeds=range(6))
    with torch.inference_mode():
        assert torch.equal(ATTACKS[2](network, images.clone(), labels.clone(), seeds=range(6)), expected)


def test_labels_of_other_classes_are_refused(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    for wrong in (labels + 10, labels - 10):
        with pytest.raises(UserError, match="the model has 10 classes"):
            fgsm(EPSILON)(network, images, wrong)
    assert torch.equal(fgsm(EPSILON)(network, images, labels.int()), fgsm(EPSILON)(network, images, labels))


@pytest.mark.parametrize("attack", [*ATTACKS, PatchPgd(size=4, steps=1)])
def test_empty_batch(attack: Pgd | PatchPgd, network: nn.Module) -> None:
    images, labels = torch.empty(0, 3, 16, 16), torch.empty(0, dtype=torch.long)
    assert attack(network, images, labels, seeds=[]).shape == images.shape


def test_random_start_is_uniform_in_ball(network: nn.Module) -> None:
    images = torch.full((512, 3, 4, 4), 0.5)
    labels = torch.zeros(512, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    start = Pgd(epsilon=0.1, step=0, steps=0, random_start=True)(network, images, labels, generator=generator) - 0.5
    assert start.abs().max() <= 0.1 + 1e-6
    assert start.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    start = Pgd(epsilon=0.1, step=0, steps=0, norm="l2", random_start=True)(
        network, images, labels, generator=generator
    )
    # Radii of points uniform in a ball of d dimensions: (r / epsilon)^d is uniform in [0, 1].
    share = ((start - 0.5).flatten(1).norm(dim=1) / 0.1) ** 48
    assert share.mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("aligned", [True, False])
def test_patch_attack_changes_one_patch_only(aligned: bool, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    generator = torch.Generator().manual_seed(0)
    adversarial = PatchPgd(size=4, steps=3, step=0.1, aligned=aligned)(network, images, labels, generator=generator)
    changed = (adversarial != images).any(1)
    for image in changed:
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        assert rows.max() - rows.min() < 4
        assert columns.max() - columns.min() < 4
        if aligned:
            assert rows.min() // 4 == rows.max() // 4
            assert columns.min() // 4 == columns.max() // 4
    assert 0 <= adversarial.min() <= adversarial.max() <= 1


def test_patch_positions_cover_the_image() -> None:
    images = torch.zeros(2, 3, 8, 12)
    first = patch_mask(images, 4, draws={"position01": torch.tensor([[0.0, 0.0], [0.999, 0.999]])})
    assert first.sum().item() == 2 * 16
    assert first[0, 0, :4, :4].all()
    assert first[1, 0, 4:, 8:].all()
    # In half precision this position would be 1, outside of the image.
    half = patch_mask(images.half(), 4, draws={"position01": torch.full((2, 2), 0.9999)})
    assert half[:, 0, 4:, 8:].all()
    free = patch_mask(images, 4, aligned=False, draws={"position01": torch.tensor([[0.999, 0.999], [0.5, 0.5]])})
    assert free[0, 0, 4:, 8:].all()
    assert free[1, 0, 2:6, 4:8].all()


def test_autoattack_is_at_least_as_strong_as_pgd(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    pytest.importorskip("pyautoattack")
    images, labels = batch
    epsilon = 2 / 255
    state = torch.random.get_rng_state()
    attack = AutoAttack(epsilon=epsilon, attacks=("apgd-ce",))
    adversarial = attack(network, images, labels, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (adversarial - images).abs().max() <= epsilon + 1e-6
    reference = Pgd(epsilon=epsilon, step=epsilon / 4, steps=20)(network, images, labels)
    with torch.no_grad():
        survivors = (network(adversarial).argmax(1) == labels).sum()
        assert survivors <= (network(reference).argmax(1) == labels).sum()


@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 0.5), ("l1", 6.0)])
def test_autoattack_keeps_to_the_ball_of_its_norm(norm: str, epsilon: float) -> None:
    pytest.importorskip("pyautoattack")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).eval()
        images = torch.rand(3, 3, 8, 8)
    labels = network(images).argmax(1)
    attack = AutoAttack(epsilon=epsilon, norm=norm, attacks=("apgd-ce",))
    change = (attack(network, images, labels, seeds=range(3)) - images).flatten(1)
    lengths = change.norm(p=int(norm[1]), dim=1)
    assert 0 < lengths.max() <= epsilon * (1 + 1e-4)
    with pytest.raises(UserError, match="'linf', 'l2', 'l1', not 'l3'"):
        AutoAttack(epsilon=1.0, norm="l3")


@pytest.mark.slow
def test_autoattacks_ensemble_on_a_trained_network() -> None:
    """All four attacks; the last one, without gradients, finds what the others miss where gradients are zero."""
    package = pytest.importorskip("pyautoattack")
    data = load_fashion_mnist()
    images, labels = data.train_images[:12000, None].float() / 255, data.train_labels[:12000].long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
        )
        optimizer = torch.optim.Adam(layers.parameters(), 3e-3)
        for batch in torch.randperm(2 * len(images)).remainder(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layers(images[batch]), labels[batch]).backward()
            optimizer.step()
    layers.eval().requires_grad_(False)
    images, labels = data.test_images[:32, None].float() / 255, data.test_labels[:32].long()

    def right(model: nn.Module, images: Tensor) -> int:
        with torch.no_grad():
            return int((model(images).argmax(1) == labels).sum())

    clean = right(layers, images)
    assert clean >= 20
    standard = package.AutoAttack(layers, norm="Linf", eps=EPSILON, version="standard", device="cpu")
    assert standard.attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]
    adversarial = AutoAttack(epsilon=EPSILON)(layers, images, labels, generator=torch.Generator().manual_seed(0))
    assert (adversarial - images).abs().max() <= EPSILON + 1e-6
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    pgd = Pgd(epsilon=EPSILON, step=EPSILON / 4, steps=20)
    assert right(layers, adversarial) <= right(layers, pgd(layers, images, labels)) < clean

    class Masked(nn.Module):
        """The same network behind a quantisation, through which no gradient comes."""

        def forward(self, images: Tensor) -> Tensor:
            return layers((images * 64).round() / 64)

    masked = Masked()
    unmoved = pgd(masked, images, labels)
    assert right(masked, unmoved) == right(masked, images)
    square = AutoAttack(epsilon=EPSILON, attacks=("square",))
    found = square(masked, images, labels, generator=torch.Generator().manual_seed(0))
    assert right(masked, found) < right(masked, images)


def test_autoattack_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, network: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyautoattack", None)
    with pytest.raises(UserError, match=r"resight\[attacks\]"):
        AutoAttack(epsilon=0.1)(network, *batch, generator=torch.Generator())


KINDS = [ATTACKS[2], ATTACKS[3], PatchPgd(size=4, steps=2), AutoAttack(epsilon=EPSILON, attacks=("apgd-ce",))]


@pytest.mark.parametrize("attack", KINDS, ids=["linf", "l2", "patch", "autoattack"])
def test_all_attacks_take_the_same(attack: Attack, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Integers of any type, other floating-point types, empty batches, inference mode; each with the same result."""
    images, labels = batch
    seeds = range(6)
    if isinstance(attack, AutoAttack):  # hundreds of steps: a layer and an image
        pytest.importorskip("pyautoattack")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Flatten(), nn.Linear(768, 10)).eval()
        images, seeds = images[2:3], range(1)
        labels = network(images).argmax(1)
    expected = attack(network, images, labels, seeds=seeds)
    assert torch.equal(attack(network, images, labels.int(), seeds=seeds), expected)
    with torch.inference_mode():
        assert torch.equal(attack(network, images.clone(), labels.clone(), seeds=seeds), expected)
    assert attack(network, images[:0], labels[:0], seeds=[]).shape == (0, 3, 16, 16)
    double = copy.deepcopy(network).double()
    for model, given in ((double, images), (double, images.double()), (network, images.double())):
        found = attack(model, given, labels, seeds=seeds)
        assert found.dtype == given.dtype
        # A sign of a gradient near 0 may differ in another precision.
        assert (found - expected).abs().gt(1e-4).float().mean() < 0.02
    assert not network.training


class _Wrapped(nn.Module):
    def __init__(self, model: nn.Module, kind: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, images: Tensor) -> object:
        return self.kind(self.model(images))


@pytest.mark.parametrize("attack", KINDS, ids=["linf", "l2", "patch", "autoattack"])
def test_all_attacks_refuse_the_same(attack: Attack, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    with pytest.raises(UserError, match=r"labels lie in .* and the model has 10 classes"):
        attack(network, images, labels + 10, seeds=range(6))
    with pytest.raises(UserError, match="6 class indices are needed"):
        attack(network, images, labels > 3, seeds=range(6))
    for kind, name in (
        (lambda logits: (logits, logits), "tuple"),
        (lambda logits: {"logits": logits}, "dict"),
        (lambda logits: SimpleNamespace(logits=logits), "SimpleNamespace"),
    ):
        with pytest.raises(UserError, match=f"the model returns a {name} where the tensor of its logits"):
            attack(_Wrapped(network, kind), images, labels, seeds=range(6))
    with pytest.raises(UserError, match=r"shape \(6, 10, 1\); attacks need logits|shape \(1, 10, 1\); attacks need"):
        attack(_Wrapped(network, lambda logits: logits[:, :, None]), images, labels, seeds=range(6))
    with pytest.raises(UserError, match=r"a function; attacks need a torch\.nn\.Module"):
        attack(lambda images: network(images), images, labels, seeds=range(6))
    with torch.inference_mode():
        frozen = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    with pytest.raises(UserError, match=r"made inside torch\.inference_mode"):
        attack(frozen, images, labels, seeds=range(6))


def test_autoattack_fits_its_targets_to_the_classes(batch: tuple[Tensor, Tensor]) -> None:
    pytest.importorskip("pyautoattack")
    images = batch[0][2:4]
    for classes in (3, 4):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(768, classes))
        with torch.no_grad():
            labels = model(images).argmax(1)
        attack = AutoAttack(epsilon=32 / 255)
        if classes < 4:
            with pytest.raises(UserError, match="the model has 3 classes and AutoAttack's apgd-t needs 4 for its loss"):
                AutoAttack(epsilon=32 / 255)(model, images, labels, seeds=range(2))
        # The whole ensemble would take seconds.
        attack = AutoAttack(epsilon=32 / 255, attacks=("apgd-ce", "apgd-t" if classes == 4 else "apgd-dlr"))
        found = attack(model, images, labels, seeds=range(2))
        with torch.no_grad():  # a linear model falls where its weights say so
            logits, weight = model(images), model[1].weight
            reach = torch.stack([
                (torch.where(weight[k] > weight[labels], 1 - images.flatten(1), images.flatten(1)).clamp(max=32 / 255)
                 * (weight[k] - weight[labels]).abs()).sum(1) + logits[:, k] - logits.gather(1, labels[:, None])[:, 0]
                for k in range(classes)
            ], dim=1).scatter(1, labels[:, None], -torch.inf)  # fmt: skip
            falls = (reach > 1e-3).any(1)
            assert ((model(found).argmax(1) != labels) == falls).all()
    with pytest.raises(UserError, match=r"AutoAttack has no 'apgd'\. Did you mean apgd-"):
        AutoAttack(epsilon=0.1, attacks=("apgd",))


def test_user_errors(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    attack = PROTOCOLS["pgd_top1"]
    with pytest.raises(UserError, match="generator"):
        attack(network, images, labels)
    with pytest.raises(UserError, match="5 seeds for 6 images"):
        attack(network, images, labels, seeds=range(5))
    with pytest.raises(UserError, match=r"\[0, 1\] is needed"):
        attack(network, 2 * images - 1, labels, seeds=range(6))
    with pytest.raises(UserError, match=r"\[0, 1\] is needed"):
        attack(network, images * float("nan"), labels, seeds=range(6))
    with pytest.raises(UserError, match="divide by 255"):
        network((images * 255).byte())
    with pytest.raises(UserError, match="6 class indices"):
        attack(network, images, labels[:3], seeds=range(6))
    with pytest.raises(UserError, match="does not fit"):
        PatchPgd(size=17)(network, images, labels, seeds=range(6))
    with pytest.raises(UserError, match="'l1' is not known"):
        Pgd(epsilon=1, step=1, steps=1, norm="l1")
    with pytest.raises(UserError, match="start_uniform01"):
        attack(network, images, labels, draws={"start_uniform01": torch.rand(1)})
