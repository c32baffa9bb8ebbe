"""ReLICv2: the loss by known answers, views and the target network, encoders as released, and what claims measure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import papers
from common import bench
from common.checkpoints import from_released, load_released, to_released
from common.errors import UserError
from common.measurement import Finding, Picture
from common.training.data import TensorData
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import Recipe, load_recipe
from papers.relicv2 import claims, experiment
from papers.relicv2.method import negatives, relic_terms, small_views, target_decay, without_background
from papers.relicv2.model import VARIANTS, ReLIC
from papers.relicv2.released import encoder_name, names
from papers.relicv2.training import hooks
from papers.simclr.experiment import Encoder

SLUG = "relicv2"
RECIPE = papers.find(SLUG).recipe
TINY: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (4, 8, 8, 16), "num_classes": 10}


def tiny(**changes: Any) -> ReLIC:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ReLIC(**{**TINY, **changes})


def recipe(*changes: str, setting: str = "embedded") -> Recipe:
    small = ("total_batch=16", "epoch_images=32", "warmup_epochs=0")
    return load_recipe(RECIPE, setting).with_changes(*small, *changes)


# -- the loss


def test_terms_are_those_of_the_definition() -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(seed=1))
    found = {finding.name: finding.verdict for finding in claims.loss(run) if isinstance(finding, Finding)}
    assert found == dict.fromkeys(("definition", "invariance", "target", "negatives", "background"), "holds")


def test_terms_by_hand() -> None:
    online = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    terms = relic_terms(online, target, 1.0)
    # Online 0 finds both targets equal to itself, online 1 neither: each is even between the two.
    assert terms.contrast.item() == pytest.approx(np.log(2))
    p = torch.tensor([1.0, 0.0]).softmax(dim=0)  # what each target says of online 0 and online 1
    assert terms.invariance.item() == pytest.approx(float((p * (p / 0.5).log()).sum()))
    with pytest.raises(UserError, match="above 0"):
        relic_terms(online, target, 0.0)


def test_two_processes_have_the_loss_and_the_gradient_of_one(processes, process_group, tmp_path) -> None:  # type: ignore[no-untyped-def]
    online, target = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    kept = negatives(2, 6, torch.Generator().manual_seed(1))
    assert kept is not None

    def child(rank: int) -> None:
        import os

        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        dist.init_process_group("gloo")
        own = online[3 * rank : 3 * rank + 3].clone().requires_grad_()
        terms = relic_terms(own, target[3 * rank : 3 * rank + 3], 0.2, kept.unflatten(0, (2, -1))[rank])
        (terms.contrast + terms.invariance).backward()
        torch.save({"terms": torch.stack(list(terms)).detach(), "gradient": own.grad / 2}, tmp_path / f"{rank}.pt")

    assert processes(child, 2, **process_group(2)) == [0, 0]
    whole = online.clone().requires_grad_()
    terms = relic_terms(whole, target, 0.2, kept)
    (terms.contrast + terms.invariance).backward()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.stack([part["terms"] for part in parts]).mean(dim=0), torch.stack(list(terms)))
    torch.testing.assert_close(torch.cat([part["gradient"] for part in parts]), whole.grad)


def test_negatives_are_others_without_repetition() -> None:
    kept = negatives(3, 9, torch.Generator().manual_seed(0))
    assert kept is not None
    assert kept.diagonal().all()
    assert kept.sum(dim=1).tolist() == [4] * 9
    assert len({tuple(row.tolist()) for row in kept}) > 1
    assert negatives(0, 9, torch.Generator()) is None
    with pytest.raises(UserError, match="8 others, not 9"):
        negatives(9, 9, torch.Generator())


# -- views and the target network


def test_small_views_show_their_share_of_an_image() -> None:
    ramp = torch.arange(28.0).expand(64, 1, 28, 28) / 28
    cut = small_views(ramp, 14, (0.25, 0.25), 64, slice(None), torch.Generator().manual_seed(0))
    assert cut.shape == (64, 1, 14, 14)
    width = (cut[:, 0, 0, -1] - cut[:, 0, 0, 0]) * 28 * 14 / 13
    assert ((width > 11) & (width < 17)).all(), "a quarter of the area, between 3/4 and 4/3 as wide as high"
    halves = [
        small_views(ramp[r::2], 14, (0.2, 0.8), 64, slice(r, None, 2), torch.Generator().manual_seed(0)) for r in (0, 1)
    ]
    whole = small_views(ramp, 14, (0.2, 0.8), 64, slice(None), torch.Generator().manual_seed(0))
    assert torch.equal(whole[1::2], halves[1])


def test_the_target_network_slows_down() -> None:
    assert [target_decay(0.9, step, 10) for step in (0, 5, 10, 20)] == pytest.approx([0.9, 0.95, 1, 1])


@pytest.fixture(scope="module")
def garments() -> TensorData:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(64, 256, (64, 3, 28, 28), generator=draws, dtype=torch.uint8)
    masks = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    masks[:, :, :, :14] = 255
    labels = torch.arange(64) % 10
    return TensorData(torch.cat([images, masks], dim=1), labels, images[:20], labels[:20])


def plan_of(chosen: Recipe) -> Any:
    plan = SimpleNamespace(seed=0, rank=0, world=1, total_batch=chosen.total_batch, accumulation=1)
    return SimpleNamespace(plan=plan, step=0, device=torch.device("cpu"), total_steps=2)


def test_views_lose_their_background_as_often_as_said(garments: TensorData) -> None:
    for probability in (0.0, 1.0):
        chosen = recipe(
            f"method.mask_probability={probability}", "method.colour_probability=0.0", "method.grey_probability=0.0"
        )
        (hook,) = hooks(chosen)
        images = (garments.train[0][:16].float() / 255 - 0.2860) / 0.3530
        batch: Any = SimpleNamespace(images=images[:, None].repeat(1, 2, 1, 1, 1), labels=torch.arange(16))
        hook.on_batch(plan_of(chosen), batch)
        assert batch.images.shape == (32, 3, 28, 28)
        assert batch.labels.tolist() == [*range(16), *range(16)]
        pixels = batch.images * 0.3530 + 0.2860
        torch.testing.assert_close(pixels[:16, :, :, :14], images[:, :3, :, :14] * 0.3530 + 0.2860)
        assert bool(pixels[..., 14:].abs().max() < 1e-6) is (probability == 1)
        small: list[Tensor] = hook._small  # type: ignore[attr-defined]
        assert [each.shape for each in small] == [(16, 3, 14, 14)] * 2
        assert all((each * 0.3530 + 0.2860).min() > 0.2 for each in small), "small views keep their background"


def test_training_teaches_the_encoder_and_the_target_follows(garments: TensorData) -> None:
    chosen = recipe("method.negatives=5", "method.same_view=true", "optimizer=sgd", "learning_rate=0.1")
    torch.manual_seed(0)
    model = Encoder()
    before = {name: value.clone() for name, value in model.named_parameters()}
    (hook,) = hooks(chosen)
    train(model, chosen, garments, seed=0, hooks=[hook], options=Options(device="cpu"))
    target: nn.Module = hook.target  # type: ignore[attr-defined]
    assert not model.pretraining
    for name, value in model.named_parameters():
        if not value.requires_grad:
            continue
        slow = dict(target.named_parameters())[name]
        assert not torch.equal(value, before[name]), name
        assert (slow - before[name]).norm() < (value - before[name]).norm(), name
    kept = hook.state_dict()
    (other,) = hooks(chosen)
    other.target = Encoder()  # type: ignore[attr-defined]
    other.load_state_dict(kept)
    for name, value in other.target.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(value, target.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("method.large_views=1", "two large views"),
        ("method.mask_probability=1.5", "mask_probability lies between 0 and 1"),
        ("method.target_decay=-0.1", "target_decay lies between 0 and 1"),
        ("method.smallest_share=0.9", "no range of shares"),
        ("method.temperature=0.0", "temperature must be above 0"),
        ("method.small_views=-1", "small_views is 0 or more"),
        ("method.invariance=-1.0", "invariance is 0 or more"),
        ("method.small_side=0", "a pixel at least"),
        ("method.negatives=16", "15 other images, not 16"),
        ("method.negatives=-1", "15 other images, not -1"),
        ("total_batch=1", "total_batch to 2 at least"),
    ],
)
def test_what_a_recipe_may_not_ask_for(change: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        hooks(recipe(change))


def test_a_linear_stage_trains_the_classifier_alone(garments: TensorData) -> None:
    (hook,) = hooks(load_recipe(RECIPE, "linear"))
    model = tiny()
    hook.on_model(SimpleNamespace(accelerator=SimpleNamespace(num_processes=1)), model)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["fc.weight", "fc.bias"]


# -- networks


def same(x: Tensor, size: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad as TensorFlow and Haiku do: as many outputs as the stride leaves of the input, the rest at the end."""
    total = max((-(-x.shape[-1] // stride) - 1) * stride + size - x.shape[-1], 0)
    return F.pad(x, (total // 2, total - total // 2) * 2, value=value)


@pytest.mark.parametrize("side", [32, 35])
def test_an_encoder_computes_what_haikus_does(side: int) -> None:
    """Written out in the released order, from tensors under the released names."""
    model = tiny(width=2).eval()
    with torch.no_grad():
        for index, value in enumerate(model.state_dict().values()):
            if value.is_floating_point():
                value.copy_(
                    torch.rand(value.shape, generator=torch.Generator().manual_seed(index)) - 0.3 * (value.ndim > 1)
                )
    state = to_released(model)
    encoder = encoder_name(model)

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = state[f"{encoder}/~/{name}/w"].permute(3, 2, 0, 1)
        return F.conv2d(same(x, kernel.shape[-1], stride), kernel, stride=stride)

    def norm(x: Tensor, name: str) -> Tensor:
        scope = f"{encoder}/~/{name}"
        scale, offset, mean, var = (
            state[f"{scope}/{key}"].view(1, -1, 1, 1)
            for key in ("scale", "offset", "~/mean_ema/average", "~/var_ema/average")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + offset

    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    x = norm(conv(images, "initial_conv", 2), "initial_batchnorm").relu()
    x = F.max_pool2d(same(x, 3, 2, -torch.inf), 3, stride=2)
    for group, stride in enumerate((1, 2, 2, 2)):
        block = f"block_group_{group}/~/block_0/~"
        shortcut = norm(conv(x, f"{block}/shortcut_conv", stride), f"{block}/shortcut_batchnorm")
        for number, step in enumerate((1, stride, 1)):
            x = norm(conv(x, f"{block}/conv_{number}", step), f"{block}/batchnorm_{number}")
            x = x.relu() if number < 2 else (x + shortcut).relu()
    expected = x.mean(dim=(2, 3)) @ state["linear/w"] + state["linear/b"]
    ours = model(images).detach()
    assert float((ours - expected).abs().max() / expected.abs().max()) < 1e-5


def test_files_of_pretraining_load_strictly() -> None:
    source, model = tiny(), tiny(num_classes=3)
    released = {name: value for name, value in to_released(source).items() if not name.startswith("projection.")}
    encoder = encoder_name(source)
    released |= {
        "linear/w": torch.zeros(16 * 4, 3),
        "linear/b": torch.zeros(3),
        "predictor/linear/w": torch.zeros(2, 2),
    }
    released[f"{encoder}/~/initial_batchnorm/~/mean_ema/counter"] = torch.tensor(7)
    released[f"{encoder}/~/initial_batchnorm/~/mean_ema/hidden"] = torch.zeros(1, 1, 1, 4)
    load_released(model, released)
    for name in names(model):
        assert torch.equal(model.state_dict()[name], source.state_dict()[name]), name
    assert not model.fc.weight.any()
    without = {name: value for name, value in released.items() if not name.startswith("linear/")}
    with pytest.raises(UserError, match=r"fc\.weight .* is missing"):
        load_released(model, without)
    with pytest.raises(UserError, match="does not fit"):
        load_released(tiny(layers=(2, 1, 1, 1), num_classes=3), released)
    with pytest.raises(UserError, match=r"it has scale \[4\]"):
        load_released(model, {**released, "scale": torch.ones(4)})
    other = {**released, f"{encoder}/~/block_group_0/~/block_7/~/conv_0/w": torch.zeros(1, 1, 4, 4)}
    with pytest.raises(UserError, match="block_7"):
        load_released(model, other)
    own = source.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in from_released(to_released(source), source).items())


@pytest.mark.parametrize("name", VARIANTS)
def test_released_names_have_the_depth_of_their_network(name: str) -> None:
    from common.shapes import shapes_only

    with shapes_only():
        model = timm.create_model(name)
        state = to_released(model)
    depth, width = VARIANTS[name]["depth"], VARIANTS[name]["width"]
    convolutions = [key for key in state if key.endswith("/w") and "/conv_" in key]
    assert len(convolutions) == depth - 2
    assert all(key.startswith(f"res_net{depth}/~/block_group_") for key in convolutions)
    assert state[f"res_net{depth}/~/initial_conv/w"].shape == (7, 7, 3, 64 * width)
    assert state[f"res_net{depth}/~/block_group_3/~/block_0/~/shortcut_conv/w"].shape == (
        1,
        1,
        1024 * width,
        2048 * width,
    )


# -- claims


def test_canvases_have_the_masks_of_their_garments() -> None:
    masked, plain = experiment.masked_canvases(), experiment.canvases()
    images, labels = masked.train[0][:500], masked.train[1][:500]
    assert torch.equal(images[:, :3], plain.train[0][:500])
    assert plain.validation[0].shape[1] == 3
    garments, own_labels = bench.training_data().train
    assert torch.equal(labels, own_labels[:500])
    # A garment keeps its grey values, scaled from 28 to 24 pixels; the clutter is outside of the mask.
    inside = (images[:, 0] * (images[:, 3] > 0)).float().sum(dim=(1, 2)) / 24**2
    torch.testing.assert_close(inside, garments[:500, 0].float().mean(dim=(1, 2)), rtol=0.05, atol=1)
    assert (images[:, 0] * (images[:, 3] == 0)).any()


def test_probes_are_measured_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "LABELLED", 300)
    torch.manual_seed(0)
    found: Any = experiment.probe(Encoder().eval(), recipe(), quick=True)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(
        (claims.PROBE, claims.CORRUPTED, claims.CLUTTERED), (4, 50)
    )
    assert found[claims.PROBE].mean() > found[claims.CLUTTERED].mean() > 0.1
    built = claims.contenders()
    scores = bench.Scores({(contender.name, seed): found for contender in built for seed in (0, 1)})
    monkeypatch.setattr(bench, "scores", lambda run, contenders, measure: scores)
    run: Any = SimpleNamespace()
    for claim in papers.find(SLUG).claims[:3]:
        results = list(getattr(claims, claim.name)(run))
        assert claim.primary in [result.name for result in results if isinstance(result, Finding)]
        assert all(result.svg.startswith("<svg") for result in results if isinstance(result, Picture))


def test_methods_cost_the_same_passes() -> None:
    budget = 51200
    for contender in claims.contenders()[1:]:
        chosen = contender.settings()
        copies = max(hook.copies for hook in contender.hooks(chosen))
        assert 0.99 * budget <= copies * chosen.epoch_images <= budget, contender.name


def test_without_background_leaves_the_object() -> None:
    images = torch.rand(2, 3, 4, 4)
    masks = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    masks[..., 0] = True
    gone = without_background(images, masks, torch.tensor([True, False]))
    assert torch.equal(gone[0, :, :, 0], images[0, :, :, 0])
    assert not gone[0, :, :, 1:].any()
    assert torch.equal(gone[1], images[1])
