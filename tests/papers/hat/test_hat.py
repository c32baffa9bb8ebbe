"""HAT: parity with the released step, what the two forms do, and the hook in training."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import papers.hat.training as training
from common import bench
from common.errors import UserError
from common.measurement import Finding
from common.robustness.frequency import low_pass
from common.training.batch import Batch
from common.training.data import TensorData
from common.training.hooks import Hook, Training
from common.training.loop import train
from common.training.recipe import load_recipe
from papers.hat import claims
from papers.hat.method import HatSettings, divergence
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance

RECIPE = Path(training.__file__).with_name("recipe.toml")
SETTINGS = HatSettings("published", 3, 2 / 255, 1 / 255, 3.0, 0.01, 200, 0.25)


class Recorded(nn.Module):
    """The network of the fixture."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.inputs: list[torch.Tensor] = []
        self.w1, self.b1, self.w2, self.b2 = (
            nn.Parameter(torch.from_numpy(arrays[name])) for name in ("w1", "b1", "w2", "b2")
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inputs.append(x.detach().clone())
        return 2 * (2 * x.flatten(1) @ self.w1.T + self.b1).tanh() @ self.w2.T + self.b2


class Steps:
    """What HAT's hook sees of a training."""

    steps_per_epoch, step = 10, 0

    def __init__(self, model: Recorded, hook: training.Hat) -> None:
        self.model, self.hook = model, hook
        self.losses: list[torch.Tensor] = []
        self.accelerator = SimpleNamespace(no_sync=lambda model: nullcontext(), scaler=None)
        self.device = torch.device("cpu")

    def loss(self, batch: Batch) -> torch.Tensor:
        batch.logits = self.model(batch.images)
        plain = nn.functional.cross_entropy(batch.logits, batch.targets)
        self.losses.append(self.hook.on_loss(cast(Training, self), batch, plain))
        return self.losses[-1]

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def do(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        run, batch = cast(Training, self), Batch(images, targets.argmax(dim=1), targets)
        self.hook.start(run)
        self.hook.on_batch(run, batch)
        self.backward(self.loss(batch))


def steps(arrays: dict[str, np.ndarray], settings: HatSettings) -> Steps:
    run = Steps(Recorded(arrays), training.Hat(settings, (0.5, 0.5, 0.5), 300))
    run.do(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["target"]))
    return run


def test_a_step_is_the_released_one() -> None:
    fixture = Fixture.load("hat", "adversarial_step")
    about, arrays = fixture.about, fixture.arrays
    settings = HatSettings(
        "released", about["iters"], about["eps"], about["step"], about["ce_weight"], about["kl_weight"], 200, 0.25
    )
    run = steps(arrays, settings)
    used = torch.stack(run.model.inputs) - torch.from_numpy(arrays["x"])
    assert distance(used, arrays["delta_used"]) < 1e-3, "what a sum of image and perturbation rounds"
    assert [loss.item() for loss in run.losses] == pytest.approx(arrays["loss"], rel=1e-5)
    for name, parameter in run.model.named_parameters():
        assert parameter.grad is not None
        assert distance(parameter.grad, arrays[f"grad_{name}"]) < OUTPUT_TOLERANCE


def test_the_published_form_trains_by_the_clean_and_the_last_pass() -> None:
    arrays = Fixture.load("hat", "adversarial_step").arrays
    run = steps(arrays, SETTINGS)
    assert len(run.losses) == 3
    clean, _, last = run.model.inputs
    change = (last - clean) * 0.5
    assert 1 / 255 < change.abs().max() < 4 / 255, "in units of pixels, whose standard deviation is 0.5"
    assert low_pass(change, 0.25).abs().max() < 1e-6
    again = Recorded(arrays)
    targets = torch.from_numpy(arrays["target"])
    own, other = again(clean), again(last)
    total = nn.functional.cross_entropy(own, targets) + 3 * nn.functional.cross_entropy(other, targets)
    (total + 0.01 * divergence(own.detach(), other)).backward()
    for ours, expected in zip(run.model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_later_epochs_and_a_single_pass_are_plain() -> None:
    arrays = Fixture.load("hat", "adversarial_step").arrays
    single = steps(arrays, replace(SETTINGS, passes=1))
    late = Steps(Recorded(arrays), training.Hat(replace(SETTINGS, adversarial_epochs=0.5), (0.5,) * 3, 300))
    late.step = 5
    late.do(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["target"]))
    for run in (single, late):
        assert len(run.losses) == 1
        assert run.losses[0].item() == pytest.approx(float(arrays["ce"][0]), rel=1e-5)
    assert single.hook.copies == 1
    assert training.Hat(SETTINGS, (1.0,), 300).copies == pytest.approx(1 + 2 * 2 / 3)


def test_the_divergence_is_symmetric_and_zero_for_equal_predictions() -> None:
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    assert divergence(a, a) == 0
    assert divergence(a, b).item() == pytest.approx(divergence(b, a).item())
    p, q = a.softmax(dim=1), b.softmax(dim=1)
    expected = ((p * (p / q).log()).sum(dim=1) + (q * (q / p).log()).sum(dim=1)).mean() / 2
    assert divergence(a, b).item() == pytest.approx(expected.item(), rel=1e-5)


def data() -> TensorData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(32) % 10
    return TensorData(images, labels, images[:16], labels[:16])


class Count(Hook):
    """Counts passes."""

    passes = 0

    def on_output(self, run: Training, batch: Batch) -> None:
        self.passes += 1


def test_training_perturbs_the_first_share_of_the_steps() -> None:
    changes = ("epochs=1", "epoch_images=32", "total_batch=8", "warmup_epochs=0", "evaluate_every=1")
    recipe = load_recipe(RECIPE, "embedded", changes=(*changes, "method.adversarial_epochs=0.5"))
    count = Count()
    torch.manual_seed(0)
    result = train(bench.hosts.vit_mini(depth=1), recipe, data(), hooks=[*training.hooks(recipe), count])
    assert np.isfinite(result.metrics["loss"])
    assert count.passes == 2 * 2 + 2, "two passes in each of two steps, then one"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("method.form=publishd", "published, released"),
        ("method.passes=0", "at least 1"),
        ("method.epsilon=-0.1", "epsilon must not be negative"),
    ],
)
def test_bad_recipes_are_told_in_a_sentence(change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        training.hooks(load_recipe(RECIPE, "embedded", changes=(change,)))


def test_identities_hold() -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(seed=0))
    found = {f.name: f.verdict for f in claims.identity(run) if isinstance(f, Finding)}
    assert found == dict.fromkeys(("high_frequencies_alone", "parts", "epsilon", "clean_pass"), "holds")
