"""TransMix: parity with the released label mixing, properties of the labels, and the hook on every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.data.mixup import Mixup
from timm.layers import Attention
from torch import Tensor, nn

import papers.transmix.training as training
from common import bench
from common.attention import LastAttention
from common.errors import UserError
from common.shapes import shapes_only
from common.training.data import TensorData
from common.training.hooks import Batch, Hook
from common.training.loop import train
from common.training.mixing import Mixed, Mixing
from common.training.optimisation import make_mixing
from common.training.recipe import load_recipe
from papers.fan.model import create as create_fan
from papers.rvt.model import create as create_rvt
from papers.transmix import claims, experiment
from papers.transmix.method import attention_share, mix_labels
from papers.transmix.model import create as create_ca_swin
from papers.vars.model import create as create_vars
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance

RECIPE = Path(training.__file__).with_name("recipe.toml")
SMALL = {"img_size": 28, "num_classes": 10}
RVT = {**SMALL, "embed_dims": (16,), "depths": (1,), "num_heads": (2,), "stem_strides": (2, 2, 1), "stem_width": 8}
VIT = {**SMALL, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
AVERAGED = {"class_token": False, "global_pool": "avg"}
SWIN = {**SMALL, "patch_size": 2, "window_size": 7, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2)}
FAN = {**SMALL, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "cls_attn_layers": 1}

#: Each way in which a model of ours, or one that TransMix was published with, attends.
MODELS: dict[str, Callable[[], nn.Module]] = {
    "class token": lambda: timm.create_model("deit_tiny_patch16_224", **VIT),
    "class and distillation token": lambda: timm.create_model("deit_tiny_distilled_patch16_224", **VIT),
    "average of patches": lambda: timm.create_model("vit_tiny_patch16_224", **VIT, **AVERAGED),
    "class attention": lambda: timm.create_model(
        "cait_xxs24_224", **VIT, depth_token_only=1
    ),
    "cross-covariance": lambda: timm.create_model(
        "xcit_nano_12_p8_224", img_size=56, num_classes=10, embed_dim=16, depth=1, num_heads=2, cls_attn_layers=1
    ),
    "ca_swin": lambda: create_ca_swin("ca_swin_tiny_patch4_window7_224", **SWIN),
    "fan": lambda: create_fan("fan_tiny_12_p16_224", **FAN),
    "rvt": lambda: create_rvt("rvt_tiny", **RVT),
    "performer": lambda: create_vars("performer_rvt_tiny", **RVT),
    "vars_s": lambda: create_vars("vars_s_rvt_tiny", **RVT, attention_args={"sparsity": 0.1}),
    "vars_d": lambda: create_vars("vars_d_rvt_tiny", **RVT),
    "vars_d in deit": lambda: create_vars("vars_d_deit_tiny", **VIT),
}  # fmt: skip


def side(name: str) -> int:
    return 56 if name == "cross-covariance" else 28


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    arrays = Fixture.load("transmix", "mixed_label").arrays
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def recorded_mixing(recorded: dict[str, Tensor]) -> Mixed:
    top, bottom, left, right = recorded["box"].tolist()
    mask = torch.zeros(len(recorded["x"]), *recorded["x"].shape[2:])
    mask[:, top:bottom, left:right] = 1
    return Mixed(recorded["y1"], recorded["y2"], mask)


def random_mixed(batch: int = 6, seed: int = 0) -> tuple[Mixed, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(batch, 32, 32)
    for i, (top, left) in enumerate(torch.randint(0, 24, (batch, 2), generator=generator).tolist()):
        mask[i, top : top + 13, left : left + 9] = 1
    labels = torch.rand(2, batch, 10, generator=generator).softmax(-1)
    return Mixed(*labels, mask), torch.rand(batch, 8, 8, generator=generator)


def test_parity_with_the_released_labels(recorded) -> None:
    mixed = recorded_mixing(recorded)
    attention = recorded["attention"].unflatten(1, (14, 14))
    assert distance(mix_labels(mixed, attention), recorded["y_transmix"].numpy()) < OUTPUT_TOLERANCE
    assert distance(mixed.labels(mixed.share), recorded["y_area"].numpy()) < OUTPUT_TOLERANCE
    pasted = torch.where(mixed.mask[:, None] > 0, recorded["x"].flip(0), recorded["x"])
    assert torch.equal(pasted, recorded["x_mixed"])
    alone = mix_labels(mixed, attention, area_share=0.0)
    assert distance(alone, recorded["y_transmix"].numpy()) > 0.01, "the released labels are the mean with the area"


def test_todays_box_is_the_released_one_but_for_its_last_row_and_column(recorded, monkeypatch) -> None:
    about = Fixture.load("transmix", "mixed_label").about
    draws = {name: [] for name in ("rand", "beta", "randint")}
    for name, _, value in about["draw_log"]:
        draws[name.rpartition(".")[2]].append(value)
    twice = {name: iter(values * 2) for name, values in draws.items()}  # the record of the mask draws again
    for name, values in twice.items():
        monkeypatch.setattr(np.random, name, lambda *args, values=values, **kwargs: next(values))
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=10)
    _, targets, mixed = Mixing(mixup)(recorded["x"].clone(), recorded["y"])
    rows, columns = (mixed.mask[0].any(dim=dim).nonzero().flatten() for dim in (1, 0))
    top, bottom, left, right = recorded["box"].tolist()
    assert (int(rows[0]), int(columns[0])) == (top, left)
    assert int(rows[-1]) + 1 - bottom in (0, 1)
    assert int(columns[-1]) + 1 - right in (0, 1)
    assert torch.equal(mixed.first, recorded["y1"])
    assert torch.equal(mixed.second, recorded["y2"])
    torch.testing.assert_close(targets, mixed.labels(mixed.share))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_the_mask_tells_what_timm_mixed(mode, mixup, cutmix) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(8, 3, 16, 12, generator=generator), torch.arange(8)
    arguments = {"mixup_alpha": mixup, "cutmix_alpha": cutmix, "mode": mode, "prob": 0.9, "num_classes": 10}
    np.random.seed(1)  # noqa: NPY002
    expected = Mixup(**arguments)(images.clone(), labels)
    after = np.random.rand()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    mixed_images, targets, mixed = Mixing(Mixup(**arguments))(images.clone(), labels)
    assert np.random.rand() == after, "recording draws nothing"  # noqa: NPY002
    assert torch.equal(mixed_images, expected[0])
    assert torch.equal(targets, expected[1])
    torch.testing.assert_close(mixed_images, images.lerp(images.flip(0), mixed.mask[:, None]))
    torch.testing.assert_close(mixed.labels(mixed.share), targets)


def test_shares_lie_in_the_unit_interval_and_keep_the_sum_of_labels() -> None:
    mixed, attention = random_mixed()
    share = attention_share(mixed.mask, attention)
    assert ((share >= 0) & (share <= 1)).all()
    assert share.std() > 0
    for area_share in (0.0, 0.5, 1.0):
        torch.testing.assert_close(mix_labels(mixed, attention, area_share).sum(dim=1), torch.ones(6))


def test_even_attention_gives_cutmix_and_attention_in_the_box_gives_its_label() -> None:
    mask = torch.zeros(2, 32, 32)
    mask[0, 8:20, 4:28], mask[1, :, 16:] = 1, 1
    mixed = Mixed(*torch.rand(2, 2, 10).softmax(-1), mask)
    even, inside = torch.full((2, 8, 8), 0.2), nn.functional.avg_pool2d(mask, 4)
    for area_share in (0.0, 0.5):
        torch.testing.assert_close(mix_labels(mixed, even, area_share), mixed.labels(mixed.share))
    assert torch.equal(attention_share(mask, inside), torch.ones(2))
    assert torch.equal(attention_share(mask, (1 - inside)), torch.zeros(2))
    torch.testing.assert_close(mix_labels(mixed, inside, 0.0), mixed.second)
    assert torch.equal(mix_labels(mixed, inside, 1.0), mixed.labels(mixed.share))


def test_a_map_of_zeros_says_nothing_and_gives_the_area() -> None:
    mixed, _ = random_mixed()
    assert torch.equal(
        mix_labels(mixed, torch.zeros(6, 8, 8), 0.0), mix_labels(mixed, torch.full((6, 8, 8), 0.25), 0.0)
    )


def test_scale_of_the_map_and_mixup_change_nothing() -> None:
    mixed, attention = random_mixed()
    torch.testing.assert_close(mix_labels(mixed, attention), mix_labels(mixed, 7 * attention))
    weighted = Mixed(mixed.first, mixed.second, torch.full((6, 32, 32), 0.3))
    torch.testing.assert_close(mix_labels(weighted, attention), mixed.first.lerp(mixed.second, 0.3))


@pytest.mark.parametrize("name", MODELS)
def test_a_map_of_the_pass_that_is_made_anyway(name) -> None:
    """One map an image over a grid of patches, which depends on the image, and leaves the model as it was."""
    torch.manual_seed(0)
    model, images = MODELS[name]().train(), torch.randn(2, 3, side(name), side(name))
    hooks_before = sum(len(module._forward_hooks) for module in model.modules())
    attention = LastAttention(model)
    model(images)
    taken = attention.take(*images.shape[2:])
    assert taken.shape == (2, 7, 7)
    assert taken.dtype == torch.float32
    assert not taken.requires_grad
    assert (taken >= 0).all()
    assert (taken.sum(dim=(1, 2)) <= 1 + 1e-5).all()
    assert not torch.equal(taken[0], taken[1])
    attention.close()
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks_before


@pytest.mark.parametrize("name", ["class token", "class and distillation token", "average of patches"])
def test_the_map_is_that_of_the_unfused_attention(name) -> None:
    torch.manual_seed(0)
    model, images = MODELS[name]().eval(), torch.randn(2, 3, 28, 28)
    attention = LastAttention(model)
    model(images)
    ours = attention.take(28, 28)
    last = [module for module in model.modules() if isinstance(module, Attention)][-1]
    last.fused_attn, kept = False, []
    last.attn_drop.register_forward_hook(lambda module, args, output: kept.append(args[0]))
    model(images)
    prefix = model.num_prefix_tokens
    whole = kept[0].mean(dim=1)
    expected = whole[:, 0, prefix:] if prefix else whole.mean(dim=1)
    assert distance(ours, expected.unflatten(1, (7, 7)).detach().numpy()) < OUTPUT_TOLERANCE


def test_class_attention_and_fans_own_maps_agree() -> None:
    torch.manual_seed(0)
    model, images = MODELS["fan"]().eval(), torch.randn(2, 3, 28, 28)
    attention = LastAttention(model)
    model(images)
    ours = attention.take(28, 28)
    expected = model.class_attention_maps(images)[-1].mean(dim=1).detach().numpy()
    assert distance(ours, expected) < OUTPUT_TOLERANCE


def test_grids_that_are_not_square() -> None:
    model = timm.create_model("deit_tiny_patch16_224", **{**VIT, "img_size": (28, 56)})
    attention = LastAttention(model)
    model(torch.randn(2, 3, 28, 56))
    assert attention.take(28, 56).shape == (2, 7, 14)
    model(torch.randn(2, 3, 28, 56))
    with pytest.raises(UserError, match="98 patches are no grid"):
        attention.take(28, 28)


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(UserError, match="has no attention that can be listened to"):
        LastAttention(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()))


def data() -> TensorData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(32) % 10
    return TensorData(images, labels, images[:16], labels[:16])


def few_steps(*changes: str):
    steps = ("epochs=1", "epoch_images=16", "total_batch=8", "warmup_epochs=0", "evaluate_every=1", "mix_probability=1")
    return load_recipe(RECIPE, "embedded", changes=(*steps, *changes))


class Watch(Hook):
    """Keeps the batches as the hooks before it left them."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def on_output(self, run, batch) -> None:
        self.batches.append(batch)


@pytest.mark.parametrize("name", ["class token", "class attention", "ca_swin", "rvt", "vars_d"])
def test_training_takes_the_label_from_the_attention(name) -> None:
    torch.manual_seed(0)
    recipe = few_steps()
    model, watch = MODELS[name](), Watch()
    hooks = training.hooks(recipe)
    result = train(model, recipe, data(), hooks=(*hooks, watch))
    assert np.isfinite(result.metrics["loss"])
    for batch in watch.batches:
        by_area = batch.mixed.labels(batch.mixed.share)
        assert not torch.allclose(batch.targets, by_area), "each batch is cut, and no attention is even"
        torch.testing.assert_close(batch.targets.sum(dim=1), torch.ones(8))
    assert not any(module._forward_hooks for module in model.modules())


def test_no_gradient_flows_through_the_map() -> None:
    """The gradient of the loss is that with the same targets given as numbers."""
    torch.manual_seed(0)
    model = MODELS["class token"]().train()
    mixed, _ = random_mixed(2)
    mixed = Mixed(mixed.first, mixed.second, mixed.mask[:, :28, :28])
    images, attention = torch.randn(2, 3, 28, 28), LastAttention(model)

    def gradients(targets: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        model.zero_grad()
        logits = model(images)
        targets = mix_labels(mixed, attention.take(28, 28)) if targets is None else targets
        nn.functional.cross_entropy(logits, targets).backward()
        return [parameter.grad.clone() for parameter in model.parameters()], targets

    through, targets = gradients()
    given, _ = gradients(targets.clone())
    assert all(torch.equal(a, b) for a, b in zip(through, given, strict=True))


def test_area_trains_as_plain_cutmix() -> None:
    """``label_mixing = "area"``, and TransMix with all weight on the area, are CutMix.

    By SGD: Muon makes steps of one size from gradients that rounding alone tells from zero.
    """
    states = []
    for changes, hooks in (
        (("method.label_mixing=area",), None),
        (("method.area_share=1.0",), None),
        (("method.label_mixing=area",), ()),
    ):
        torch.manual_seed(0)
        model, recipe = MODELS["class token"](), few_steps("optimizer=sgd", *changes)
        train(model, recipe, data(), hooks=training.hooks(recipe) if hooks is None else hooks)
        states.append(torch.cat([value.flatten() for value in model.state_dict().values()]))
    assert torch.equal(states[0], states[2])
    torch.testing.assert_close(states[0], states[1])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("method.label_mixing=atention", "did you mean|Did you mean|attention, area"),
        ("method.area_share=1.5", "between 0 .* and 1"),
        ("method.area_share=-0.1", "between 0 .* and 1"),
        ("cutmix=0.0", "never does: set cutmix"),
        ("mix_probability=0.0", "never does: set cutmix"),
    ],
)
def test_bad_recipes_are_told_in_a_sentence(change, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        training.hooks(few_steps(change))


def test_switching_to_mixup_alone_is_refused() -> None:
    recipe = load_recipe(RECIPE, "imagenet", changes=("mix_switch_probability=0.0",))
    with pytest.raises(UserError, match="never does"):
        training.hooks(recipe)


def test_the_recipes_are_those_of_the_released_configurations() -> None:
    small = load_recipe(RECIPE, "imagenet", model="deit_small_patch16_224")
    base = load_recipe(RECIPE, "imagenet", model="deit_base_patch16_224")
    assert (small.weight_decay, small.warmup_epochs) == (0.03, 20)
    assert (base.weight_decay, base.warmup_epochs) == (0.05, 5)
    assert small.rate("learning_rate") == base.rate("learning_rate") == 1e-3
    assert make_mixing(small).switch_prob == 0.8


def test_ca_swin_is_as_large_as_swin() -> None:
    with shapes_only():
        ours = timm.create_model("ca_swin_tiny_patch4_window7_224")
        swin = timm.create_model("swin_tiny_patch4_window7_224")
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, swin)]
    assert sizes[0] <= sizes[1] + ours.num_features
    assert sizes[0] > 0.99 * sizes[1]


def test_ca_swin_behaves_like_a_timm_model() -> None:
    model = MODELS["ca_swin"]().eval()
    images = torch.randn(1, 3, 28, 28)
    logits = model(images)
    assert logits.shape == (1, 10)
    logits.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters())
    assert "cls_token" in model.no_weight_decay()
    assert model.forward_head(model.forward_features(images), pre_logits=True).shape == (1, model.num_features)
    model.reset_classifier(3)
    assert model(images).shape == (1, 3)
    features = timm.create_model("ca_swin_tiny_patch4_window7_224", features_only=True, **SWIN, out_indices=(0, 1))
    assert [level.shape[1:3] for level in features(images)] == [(14, 14), (7, 7)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "ca_swin_tinny_patch4_window7_224"}, "There is no CA-Swin"),
        ({"name": "ca_swin_tiny_patch4_window7_224", "pretrained": True}, "No weights were released"),
        ({"name": "ca_swin_tiny_patch4_window7_224", "depths": (1, 1), "num_heads": (1, 2)}, "the last stage has 1"),
    ],
)
def test_ca_swin_tells_what_is_wrong(arguments, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        create_ca_swin(**arguments)


def test_errors_of_shares_are_zero_where_the_label_is_what_is_seen(monkeypatch) -> None:
    """Where every pixel is garment, the area is what is seen."""
    white = torch.full((2, 40, 3, 28, 28), 255, dtype=torch.uint8)
    labels = (torch.arange(40) % 10).expand(2, 40)
    tests = bench.TestSet(clean=white, labels=labels, corrupted=white, occluded=white)
    monkeypatch.setattr(bench, "test_set", lambda quick: tests)
    monkeypatch.setattr(bench, "accuracy", lambda model, recipe, quick: {})
    torch.manual_seed(0)
    model = bench.hosts.vit_mini().eval()
    errors = experiment.share_errors(model, load_recipe(RECIPE, "embedded"), quick=True)
    area, attention, mean = (errors[f"label_share_error/{share}"] for share in ("area", "attention", "mean"))
    assert area.shape == (2, 20)
    assert area.max() < 1e-5
    assert attention.mean() > 0.001
    assert mean == pytest.approx(attention / 2, abs=1e-5)


def test_contenders_differ_in_how_labels_are_mixed() -> None:
    recipes = {contender.name: contender.settings() for contender in claims.contenders()}
    assert not recipes[claims.HOST].mixes
    names = (claims.CUTMIX, claims.TRANSMIX, claims.ATTENTION)
    for name in names[1:]:
        assert replace(recipes[name], method={}, changes=()) == replace(recipes[names[0]], method={}, changes=())
    hooks = {contender.name: contender.hooks(recipes[contender.name]) for contender in claims.contenders()}
    assert [len(hooks[name]) for name in names] == [0, 1, 1]
    assert [hook.area_share for name in names[1:] for hook in hooks[name]] == [0.5, 0.0]
