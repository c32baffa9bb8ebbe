"""SMMix: parity with the released regions, outputs and losses; the second head; the hook and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import papers.smmix.training as training
from common import bench
from common.attention import LastAttention
from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.shapes import shapes_only
from common.training.data import TensorData
from common.training.hooks import Batch, Hook
from common.training.loop import train
from common.training.recipe import load_recipe
from papers.smmix import PAPER, claims
from papers.smmix.method import consistency_loss, corners, fine_grained_loss, paste, random_corners, window_attention
from papers.smmix.model import TokenHeadViT, create
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance

RECIPE = Path(training.__file__).with_name("recipe.toml")
VIT = {"img_size": 28, "num_classes": 10, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


def test_regions_outputs_and_losses_are_the_released_ones() -> None:
    fixture = Fixture.load("smmix", "region_and_losses")
    arrays = {name: torch.from_numpy(np.asarray(array)) for name, array in fixture.arrays.items()}
    settings = {key: value for key, value in fixture.about["model"].items() if key != "class"}
    model = TokenHeadViT(**settings).eval()
    load_released(model, fixture.state())
    assert {name: list(value.shape) for name, value in to_released(model).items()} == fixture.about["state"]
    attention, kept = LastAttention(model, token=None), []
    model.norm.register_forward_hook(lambda module, args, output: kept.append(output))

    def same(ours: Tensor, name: str) -> None:
        assert distance(ours, fixture.arrays[name]) < OUTPUT_TOLERANCE, name

    images, side, grid = arrays["x"], int(arrays["side"]), (14, 14)
    unmixed = model(images)
    same(unmixed, "logits_unmixed")
    maps = attention.take(56, 56)
    same(maps.flatten(1), "attention")
    scores = window_attention(maps, side)
    mixed, mask = paste(images, corners(scores, largest=True), corners(scores, largest=False), side, grid)
    assert torch.equal(mixed, arrays["x_mixed"])
    at_patches = mask[:, ::4, ::4].flatten(1)
    assert torch.equal(at_patches, arrays["source_mask"].float())

    share, first, second = mask.mean(dim=(1, 2)), arrays["y_target"], arrays["y_source"]
    same(first.lerp(second, share[:, None]), "y_mixed")
    same(unmixed.lerp(unmixed.flip(0), share[:, None]), "prediction_mixed")
    logits = model(mixed)
    same(logits, "logits_mixed")
    tokens = kept[-1][:, 1:]
    for part, name in ((1 - at_patches, "logits_target"), (at_patches, "logits_source")):
        same(model.token_head((tokens * part[:, :, None]).sum(dim=1) / part.sum(dim=1, keepdim=True)), name)
    loss = nn.functional.cross_entropy(logits, arrays["y_mixed"])
    fine = fine_grained_loss(tokens, at_patches, model.token_head, first, second)
    consistency = consistency_loss(logits, unmixed, share)
    same(loss, "loss_cls")
    same(fine, "loss_fine")
    same(consistency, "loss_con")
    same(loss + fine + consistency, "loss")


@pytest.mark.parametrize("model", [model.name for model in PAPER.models])
def test_released_names_are_deits_and_a_second_head(model: str) -> None:
    with shapes_only():
        ours, deit = timm.create_model(model), timm.create_model(model.removeprefix("smmix_"))
    shapes = {name: value.shape for name, value in deit.state_dict().items()}
    second = {f"token_{name}": shape for name, shape in shapes.items() if name.startswith("head.")}
    assert {name: value.shape for name, value in ours.state_dict().items()} == {**shapes, **second}


def test_it_behaves_like_a_timm_model() -> None:
    model = timm.create_model("smmix_deit_tiny_patch16_224", **VIT)
    assert model(torch.randn(1, 3, 28, 28)).shape == (1, 10)
    model.reset_classifier(3)
    assert model(torch.randn(2, 3, 28, 28)).shape == (2, 3)
    assert model.token_head.out_features == 3
    assert isinstance(
        timm.create_model("smmix_deit_tiny_patch16_224", **{**VIT, "num_classes": 0}).token_head, nn.Identity
    )
    features = timm.create_model("smmix_deit_tiny_patch16_224", features_only=True, out_indices=(0, 1), **VIT)
    assert [tuple(level.shape) for level in features(torch.randn(1, 3, 28, 28))] == [(1, 16, 7, 7)] * 2
    with pytest.raises(UserError, match="There is no DeiT of SMMix"):
        create("smmix_deit_tinny_patch16_224")
    with pytest.raises(UserError, match="nothing to download"):
        create("smmix_deit_tiny_patch16_224", pretrained=True)


def test_patches_are_asked_for_attention_also_beside_a_class_token() -> None:
    torch.manual_seed(0)
    model, images = timm.create_model("smmix_deit_tiny_patch16_224", **VIT).eval(), torch.randn(2, 3, 28, 28)
    attention, kept = LastAttention(model, token=None), []
    last = model.blocks[-1].attn
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda module, args, output: kept.append(args[0]))
    model(images)
    assert distance(attention.take(28, 28).flatten(1), kept[0][:, :, 1:, 1:].mean(dim=(1, 2)).detach().numpy()) < 1e-5


def test_a_random_window_is_one_for_the_batch_and_inside() -> None:
    torch.manual_seed(0)
    places = {tuple(int(each[0]) for each in random_corners(torch.rand(4, 7, 7), 5)) for _ in range(60)}
    assert places == {(row, column) for row in range(3) for column in range(3)}
    row, column = random_corners(torch.rand(4, 7, 7), 5)
    assert len(row.unique()) == len(column.unique()) == 1


def data() -> TensorData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(32) % 10
    return TensorData(images, labels, images[:16], labels[:16])


def few_steps(*changes: str):
    steps = ("epochs=1", "epoch_images=32", "total_batch=8", "warmup_epochs=0", "evaluate_every=1", "mix_probability=1")
    return load_recipe(RECIPE, "embedded", changes=(*steps, *changes))


class Watch(Hook):
    """Keeps batches and losses as the hooks before it left them, and checks that every parameter has a gradient."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.losses: list[tuple[float, float]] = []

    def on_loss(self, run, batch, loss) -> Tensor:
        self.batches.append(batch)
        plain = run.criterion(batch.logits, batch.targets)
        self.losses.append((float(plain.detach()), float(loss.detach())))
        gradients = torch.autograd.grad(loss, list(run.plain_model.parameters()), retain_graph=True, allow_unused=True)
        assert all(gradient is not None for gradient in gradients)
        return loss


def trained(*changes: str) -> tuple[Watch, Sequence[Hook], nn.Module]:
    torch.manual_seed(0)
    recipe, watch = few_steps(*changes), Watch()
    model = bench.hosts.vit_mini(depth=1, kind=TokenHeadViT)
    hooks = training.hooks(recipe)
    result = train(model, recipe, data(), hooks=(*hooks, watch))
    assert np.isfinite(result.metrics["loss"])
    assert not any(module._forward_hooks for module in model.modules())
    assert not watch.batches[0].images.requires_grad
    return watch, hooks, model


def test_training_mixes_by_attention_and_adds_both_losses() -> None:
    watch, _, _ = trained()
    for batch, (cross_entropy, loss) in zip(watch.batches, watch.losses, strict=True):
        sides = batch.mixed.mask[:, ::4, ::4].sum(dim=(1, 2)).sqrt()
        assert len(sides.unique()) == 1
        assert 1 <= int(sides[0]) <= 5
        torch.testing.assert_close(batch.targets, batch.mixed.labels(batch.mixed.share))
        assert loss > cross_entropy + 0.1
    assert any(not torch.equal(mask[0], mask[1]) for mask in (batch.mixed.mask for batch in watch.batches))


def test_each_part_can_be_left_out() -> None:
    alone, _, _ = trained("method.fine_grained=false", "method.consistency=false", "method.max_min=false")
    assert all(loss == cross_entropy for cross_entropy, loss in alone.losses)
    for batch in alone.batches:
        assert torch.equal(batch.mixed.mask, batch.mixed.mask[:1].expand_as(batch.mixed.mask))
    consistent, _, _ = trained("method.fine_grained=false")
    terms = [loss - cross_entropy for cross_entropy, loss in consistent.losses]
    assert min(terms) > 1e-4
    assert max(terms) < 2


def test_mixup_and_plain_batches_are_left_to_the_recipe() -> None:
    watch, _, _ = trained("mixup=0.8", "mix_switch_probability=0.5", "mix_probability=0.7", "epochs=4")
    kinds = set()
    for batch, (cross_entropy, loss) in zip(watch.batches, watch.losses, strict=True):
        values = batch.mixed.mask.unique()
        kind = "regions" if len(values) == 2 else "mixup" if float(values) > 0 else "plain"
        kinds.add(kind)
        assert (loss > cross_entropy + 1e-3) == (kind == "regions")
    assert kinds == {"regions", "mixup", "plain"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("method.smallest_side=0.9", "range of shares"),
        ("method.largest_side=1.0", "range of shares"),
        ("cutmix=0.0", "never does: set cutmix"),
        ("mix_mode=elem", "mix_mode=batch"),
    ],
)
def test_bad_recipes_are_told_in_a_sentence(change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        training.hooks(few_steps(change))


def test_a_model_without_the_second_head_is_refused() -> None:
    recipe = few_steps()
    with pytest.raises(UserError, match="has no token_head"):
        train(bench.hosts.vit_mini(depth=1), recipe, data(), hooks=training.hooks(recipe))


def test_identities_hold() -> None:
    run = SimpleNamespace(settings=SimpleNamespace(seed=0))
    found = {finding.name: finding.verdict for finding in claims.identity(run)}
    assert set(found.values()) == {"holds"}
    assert set(found) == {"regions", "pasted", "rest", "share", "consistency", "fine_grained"}


def test_contenders_lack_one_part_each() -> None:
    methods = {one.name: one.settings().method for one in claims.contenders() if one.name.startswith(claims.SMMIX)}
    whole = methods.pop(claims.SMMIX)
    assert all(whole[part] for part in ("max_min", "fine_grained", "consistency"))
    lacking = [{key for key in whole if method[key] != whole[key]} for method in methods.values()]
    assert lacking == [{"max_min"}, {"fine_grained"}, {"consistency"}]
