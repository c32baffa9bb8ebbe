"""DeiT: timm's models against the release, distillation, what DeiT III changes about training, and the two tokens."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn

from common import bench
from common.bench import Scores
from common.checkpoints import load_initial, load_released, to_released
from common.errors import UserError
from common.robustness.full_scale_measures import identify
from common.shapes import shapes_only
from common.training.data import TensorData
from common.training.distillation import Distillation
from common.training.hooks import Hook
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import load_recipe
from papers.deit import PAPER, claims, heads
from papers.deit.training import hooks
from tests.parity import Fixture, check_model, distance, images

RECIPE = Path(claims.__file__).with_name("recipe.toml")
PLAIN, DISTILLED, THREE = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"
#: Parameters of the released networks that have no fixture here.
PARAMETERS = {
    "deit_small_patch16_224": 22050664,
    "deit_small_distilled_patch16_224": 22436432,
    "deit_base_patch16_224": 86567656,
    "deit_base_distilled_patch16_224": 87338192,
}


def small(name: str, **changes) -> nn.Module:
    """A variant with two narrow blocks, for images of 64 pixels and 7 classes."""
    torch.manual_seed(0)
    sizes = {"num_classes": 7, "img_size": 64, "depth": 2, "embed_dim": 24, "num_heads": 3}
    return timm.create_model(name, **{**sizes, **changes})


def test_model_matches_the_release() -> None:
    check_model("deit", PLAIN)


def test_both_heads_match_the_release() -> None:
    model = check_model("deit", DISTILLED).eval()
    recorded = Fixture.load("deit", DISTILLED).arrays
    with torch.no_grad():
        first, second, cosines = heads.forward(model, images(2, 3, 224, 224))
    assert distance(first, recorded["cls_logits"]) < 1e-4
    assert distance(second, recorded["dist_logits"]) < 1e-4
    assert distance(heads.CLASSIFIERS["both"](first, second), recorded["logits"]) < 1e-4
    assert [cosine.shape for cosine in cosines] == [(2,)] * 13


@pytest.mark.parametrize("name", PARAMETERS)
def test_variant_has_the_size_of_its_checkpoint(name: str) -> None:
    with shapes_only():
        assert sum(p.numel() for p in timm.create_model(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", [PLAIN, DISTILLED, THREE])
def test_released_names_load_strictly_and_come_back(name: str) -> None:
    state = to_released(small(name))
    assert ("blocks.1.gamma_2" in state) == name.startswith("deit3")
    assert not [key for key in state if ".ls" in key]
    other = small(name)
    nn.init.ones_(other.head.weight)
    loaded = load_released(other, {"model": state})
    assert all(torch.equal(value, state[key]) for key, value in to_released(loaded).items())
    first = next(iter(state))
    with pytest.raises(UserError, match=re.escape(first)):
        load_released(small(name), {key: value for key, value in state.items() if key != first})
    with pytest.raises(UserError, match="surplus"):
        load_released(small(name), {**state, "surplus": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "prefix"),
    [(PLAIN, 1), (DISTILLED, 2), (THREE, 0)],
)
def test_fine_tuning_starts_from_positions_that_are_resized_as_released(name: str, prefix: int, tmp_path: Path) -> None:
    origin, file = small(name), tmp_path / "small.pth"
    torch.save({"model": to_released(origin)}, file)
    model = small(name, img_size=96, num_classes=5)
    assert load_initial(model, file)  # the classifier starts anew
    grid = origin.pos_embed[:, prefix:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.pos_embed, torch.cat([origin.pos_embed[:, :prefix], resized], dim=1))
    assert torch.equal(model.blocks[1].mlp.fc1.weight, origin.blocks[1].mlp.fc1.weight)


@pytest.mark.parametrize("name", ["deit3_small_patch16_384", "deit_base_patch16_384", DISTILLED])
def test_a_file_is_recognised(name: str) -> None:
    with shapes_only():
        state = to_released(timm.create_model(name))
    size = name.split("_")[1]
    among = replace(PAPER, reused_models=tuple(m for m in PAPER.reused_models if m.name.split("_")[1] == size))
    assert len(among.reused_models) > 1
    assert identify(among, {"model": state}, Path("deit.pth")) == name


@pytest.mark.parametrize(
    ("setting", "model", "changed"),
    [
        ("distillation", "deit_base_distilled_patch16_224", {"distillation": "hard", "distillation_alpha": 0.5}),
        ("finetune_384", "deit_base_patch16_384", {"input_size": 384, "total_batch": 512, "weight_decay": 1e-8}),
        ("deit3_imagenet", "deit3_huge_patch14_224", {"input_size": 160, "drop_path_rate": 0.6, "learning_rate": 3e-3}),
        ("deit3_imagenet_21k", "deit3_huge_patch14_224", {"input_size": 128, "epochs": 90, "train_crop": "simple"}),
        ("deit3_finetune_21k", "deit3_huge_patch14_224", {"input_size": 224, "epochs": 50, "drop_path_rate": 0.45}),
        ("deit3_finetune_384", "deit3_large_patch16_384", {"input_size": 384, "epochs": 20, "drop_path_rate": 0.4}),
    ],
)
def test_a_setting_is_that_of_the_printed_command(setting: str, model: str, changed: dict[str, object]) -> None:
    recipe = load_recipe(RECIPE, setting, model=model)
    assert {key: getattr(recipe, key) for key in changed} == changed


# -- training


def tiny_data() -> TensorData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return TensorData(pixels, torch.arange(8) % 7, pixels, torch.arange(8) % 7, num_classes=7)


def tiny_recipe(setting: str, *changes: str, model: str = ""):
    plain = ("num_classes=7", "input_size=64", "total_batch=8", "epochs=1", "warmup_epochs=0", "epoch_images=8")
    simple = ("train_crop=none", "auto_augment=''", "color_jitter=0", "repeated_augmentation=1", "precision=float32")
    return load_recipe(RECIPE, setting, model=model, changes=(*plain, *simple, "random_erasing=0", *changes))


class First(Hook):
    """Keeps what the first step's loss was made of, and its gradients."""

    def on_loss(self, run, batch, loss):
        self.batch, self.loss = batch, loss.item()
        return loss


def first_step(model: nn.Module, recipe, *extra: Hook) -> First:
    first = First()
    train(model, recipe, tiny_data(), hooks=[*extra, first], options=Options(device="cpu"))
    return first


def test_the_teacher_speaks_to_the_distillation_head_alone() -> None:
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(192, 7))
    recipe = tiny_recipe("distillation", "weight_decay=0", "distillation_alpha=1", "label_smoothing=0")
    model = small(DISTILLED)
    before = model.head.weight.clone(), model.head_dist.weight.clone()
    first = first_step(model, recipe, Distillation.of(recipe, teacher))
    _, second = first.batch.outputs
    assert first.loss == pytest.approx(F.cross_entropy(second, teacher(first.batch.images).argmax(1)).item(), rel=1e-5)
    assert torch.equal(model.head.weight, before[0])
    assert not torch.equal(model.head_dist.weight, before[1])
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_the_control_learns_labels_by_both_heads() -> None:
    model = small(DISTILLED)
    recipe = tiny_recipe("imagenet", "mix_probability=0", "label_smoothing=0")
    first = first_step(model, recipe, *heads.second_class_token(recipe))
    both = [F.cross_entropy(logits, first.batch.labels).item() for logits in first.batch.outputs]
    assert first.loss == pytest.approx(sum(both) / 2, rel=1e-5)


def test_deit_3_trains_with_a_yes_or_no_for_each_class_constant_drop_path_and_its_own_scales() -> None:
    model, recipe = small(THREE), tiny_recipe("deit3_imagenet", "learning_rate=0")
    first = first_step(model, recipe, *hooks(recipe))
    logits, shares = first.batch.logits, first.batch.targets
    assert (shares > 0).sum() > len(shares)  # images are mixed
    signs = torch.where(shares > 0, logits, -logits)
    assert first.loss == pytest.approx(F.softplus(-signs).mean().item(), rel=1e-5)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == [0.05] * 4
    assert all(torch.equal(block.ls1.gamma, torch.full((24,), 1e-4)) for block in model.blocks)
    fine = tiny_recipe("deit3_finetune_224")
    assert [type(hook).__name__ for hook in hooks(fine)] == ["ConstantDropPath"]
    assert not hooks(tiny_recipe("imagenet"))


def test_a_wrong_word_or_scale_in_the_method_is_one_sentence() -> None:
    for change, match in (
        ("method.loss=binary_cross", "method.loss must be one of .*binary_cross_entropy"),
        ("method.drop_path=constand", "constant"),
        ("method.layer_scale=-1.0", "cannot be -1"),
    ):
        with pytest.raises(UserError, match=match):
            hooks(tiny_recipe("deit3_imagenet", change))


# -- the two tokens


def test_tokens_that_are_the_same_have_a_cosine_of_one_at_every_depth() -> None:
    model = claims.TOKEN.build().eval()
    with torch.no_grad():
        model.dist_token.copy_(model.cls_token)
        model.pos_embed[:, 1] = model.pos_embed[:, 0]
        first, second, cosines = heads.forward(model, torch.rand(2, 3, 28, 28))
        torch.testing.assert_close(torch.stack(cosines), torch.ones(4, 2))
        assert not torch.allclose(first, second)  # two heads read them
        model.dist_token.copy_(-model.cls_token)
        model.pos_embed[:, :2] = 0
        _, _, cosines = heads.forward(model, torch.rand(2, 3, 28, 28))
    torch.testing.assert_close(cosines[0], torch.full((2,), -1.0))


def test_heads_are_fused_by_logits_as_released_or_by_probabilities_as_published() -> None:
    first, second = torch.tensor([[9.0, 0.0, 8.9]]), torch.tensor([[-9.0, 0.0, 0.2]])
    assert heads.CLASSIFIERS["both"](first, second).argmax() == 2
    expected = first.softmax(1) + second.softmax(1)
    assert torch.equal(heads.CLASSIFIERS["softmax"](first, second), expected)
    model, x = claims.TOKEN.build().eval(), torch.rand(3, 3, 28, 28)
    with torch.no_grad():
        one, two, _ = heads.forward(model, x)
        torch.testing.assert_close(model(x), heads.CLASSIFIERS["both"](one, two))


def test_measures_are_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (2, 3, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tests = bench.TestSet(pixels, torch.zeros(2, 3, dtype=torch.long), pixels, pixels)
    monkeypatch.setattr(bench, "test_set", lambda quick: tests)
    model, recipe = claims.TOKEN.build().eval(), claims.TOKEN.settings(quick=True)
    measured, decided = heads.measure(model, recipe, True), heads.decisions(model, recipe, True)
    assert {name for name in measured if "/" not in name} == {"top1"}
    assert [f"token_cosine/{depth}" in measured for depth in range(5)] == [True] * 4 + [False]
    for name, classes in decided.items():
        assert np.array_equal(measured[f"top1/{name}"], classes == 0)
    plain = claims.PLAIN.build().eval()
    assert set(heads.decisions(plain, recipe, True)) == {"both"}


def test_the_claim_about_tokens_compares_depths(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)

    def made(run, contenders, measure) -> Scores:
        return Scores(
            {
                (one.name, seed): {
                    "top1": np.ones((20, 50)),
                    **{
                        f"token_cosine/{depth}": generator.normal(0.1 + 0.25 * depth, 0.01, (20, 50))
                        for depth in range(claims.DEPTH + 1)
                    },
                }
                for one in contenders
                for seed in range(2)
            }
        )

    monkeypatch.setattr(bench, "scores", made)
    *_, rising, control, picture = claims.tokens(None)
    assert (rising.verdict, control.verdict) == ("holds", "unclear")
    assert rising.value == pytest.approx(0.75, abs=0.01)
    assert picture.svg.count("<path") > 8
    assert math.isfinite(control.value)
