"""MixMIM: parity with the release, the mask and its loss, separation of the two images, stages of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import timm
import torch

import papers
from common.checkpoints import load_initial, load_released
from common.errors import UserError
from common.run import Run
from common.run import Settings as RunSettings
from common.training.data import TensorData
from common.training.hooks import Training
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import Recipe, load_recipe
from papers.mixmim import claims
from papers.mixmim.experiment import SIZES, classifier, finetuning, mask_tokens, mixed
from papers.mixmim.method import mask_of, normalised, patches, pictures, reconstruction_loss
from papers.mixmim.model import MixMIM, MixMIMPretraining, create, position_table
from papers.mixmim.training import hooks
from tests.parity import Fixture, check_gradients, check_model, distance, images


def test_the_classifier_matches_the_release() -> None:
    check_model("mixmim", "mixmim_base")


def test_pretraining_matches_the_release() -> None:
    fixture = Fixture.load("mixmim", "mixmim_base_pretrain")
    model: Any = timm.create_model("mixmim_base_pretrain")
    assert sum(p.numel() for p in model.parameters()) == fixture.about["params"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == fixture.about["params_trainable"]
    load_released(model, fixture.state())
    x = images(2, 3, 224, 224)
    noise = torch.from_numpy(fixture.arrays["noise"]).view(7, 7)
    mask = mask_of(noise, 0.5)
    assert torch.equal(mask.flatten(), torch.from_numpy(fixture.arrays["mask"]).flatten().bool())
    latent = model.encode(x, mask)
    assert distance(latent[:, ::4], fixture.arrays["latent"]) < 1e-4
    reconstructed = model.decode(latent, mask)
    assert distance(reconstructed[:, ::4, ::32], fixture.arrays["reconstruction_every16"]) < 1e-4
    raw = reconstruction_loss(x, reconstructed, mask, 32, normalise=False)
    assert distance(raw.view(1), fixture.arrays["loss_raw_pixels"].reshape(1)) < 1e-4
    loss = reconstruction_loss(x, reconstructed, mask, 32)
    assert distance(loss.view(1), fixture.arrays["loss"].reshape(1)) < 1e-4
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    check_gradients(norms, fixture)


# -- the mask and its loss


def test_the_mask_has_its_share_of_places() -> None:
    mask = mask_of(torch.rand(7, 7), 0.5)
    assert mask.shape == (7, 7)
    assert int(mask.sum()) == 24
    assert mask_of(torch.tensor([[0.3, 0.1], [0.2, 0.4]]), 0.5).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("ratio", [0.0, 0.01, 1.0])
def test_a_mask_leaves_places_to_both_images(ratio: float) -> None:
    with pytest.raises(UserError, match="leaves one image without any"):
        mask_of(torch.rand(7, 7), ratio)


def test_patches_are_pictures_cut() -> None:
    x = torch.rand(2, 3, 12, 12)
    cut = patches(x, 4)
    assert torch.equal(cut[1, 4, :3], x[1, :, 4, 4]), "the middle patch begins with the colours of its first pixel"
    assert torch.equal(pictures(cut, 4), x)


def test_a_true_reconstruction_has_no_error_and_visible_patches_do_not_count() -> None:
    x, mask = torch.rand(2, 3, 12, 12), torch.rand(3, 3) < 0.5
    target, hidden = normalised(patches(x, 4)), mask.flatten()[:, None]
    noise = torch.full_like(target, 9.0)
    reconstructed = torch.cat([torch.where(hidden, target, noise), torch.where(hidden, noise, target.flip(0))])
    assert reconstruction_loss(x, reconstructed, mask, 4) == 0
    assert reconstruction_loss(x, reconstructed + hidden, mask, 4) > 0


# -- identities


def test_claim_of_separation_holds() -> None:
    results: list[Any] = list(claims.separation(cast(Run, SimpleNamespace(settings=RunSettings()))))
    found = {finding.name: finding for finding in results}
    assert {name: finding.verdict for name, finding in found.items()} == dict.fromkeys(found, "holds")


def test_the_claim_sees_a_mask_that_is_too_coarse() -> None:
    """Masked in one stage only, images meet in the other."""
    torch.manual_seed(0)
    model: Any = mixed().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, mask = torch.randn(2, 3, 28, 28), mask_of(torch.rand(7, 7), 0.5)
    assert claims.influence(model, x, mask)[1] == 0
    model.layers[1].register_forward_pre_hook(lambda module, args: args[:1])
    assert claims.influence(model, x, mask)[1] > 0


def test_own_features_are_those_whatever_the_other_image_is() -> None:
    model = mixed().eval()
    x, mask = torch.randn(2, 3, 28, 28), mask_of(torch.rand(7, 7), 0.5)
    own = ~mask.flatten()
    other = torch.stack([x[0], torch.randn(3, 28, 28)])
    assert torch.equal(model.encode(x, mask)[0, own], model.encode(other, mask)[0, own])
    assert not torch.equal(model.encode(x, mask)[0, ~own], model.encode(other, mask)[0, ~own])


# -- models


def test_positions_have_the_column_first() -> None:
    table = position_table(8, 2, 3)[0].unflatten(0, (2, 3))
    assert torch.equal(table[0, :, :4], table[1, :, :4])
    assert torch.equal(table[:, 0, 4:], table[:, 2, 4:])
    angle = torch.tensor([2.0, 0.02])
    assert torch.allclose(table[0, 2, :4], torch.cat([angle.sin(), angle.cos()]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"img_size": 30}, "multiples of 4 pixels"), ({"window_sizes": (5, 7)}, "cannot be cut into windows of 5")],
)
def test_sizes_that_are_none(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        MixMIM(**{**SIZES, **changes})
    with pytest.raises(UserError, match=r"no MixMIM called 'mixmim_bas'"):
        create("mixmim_bas")


def test_it_behaves_as_timms_models_do() -> None:
    model = classifier()
    x = torch.randn(1, 3, 28, 28)
    final, stages = model.forward_intermediates(x, norm=True)
    assert [tuple(stage.shape) for stage in stages] == [(1, 24, 14, 14), (1, 48, 7, 7)]
    assert torch.equal(final.permute(0, 3, 1, 2), stages[-1])
    assert torch.equal(model(x), model.forward_head(final))
    plain = model.train()(x)
    model.set_grad_checkpointing()
    assert torch.equal(model(x), plain)
    model.reset_classifier(3)
    assert model(x).shape == (1, 3)
    wide = MixMIM(**{**SIZES, "img_size": (28, 56)})
    assert wide(torch.randn(1, 3, 28, 56)).shape == (1, 10)


def test_layers_of_fine_tuning_are_the_released_ones() -> None:
    """util/lr_decay.py: patches 0, then blocks; merging with the next block, norm and classifier with the last."""
    layer = classifier().group_matcher()
    found = {name: layer(name) for name, _ in classifier().named_parameters()}
    assert found["absolute_pos_embed"] == found["patch_embed.proj.weight"] == 0
    assert found["layers.0.blocks.0.attn.qkv.weight"] == 1
    assert found["layers.0.downsample.reduction.weight"] == found["layers.1.blocks.0.attn.qkv.weight"] == 2
    assert found["layers.1.blocks.1.mlp.fc2.bias"] == found["norm.weight"] == found["head.weight"] == 3


def test_fine_tuning_takes_the_encoder_of_a_pretrained_file(tmp_path: Path) -> None:
    torch.save({"model": mixed().state_dict()}, tmp_path / "pretrained.pth")
    larger: Any = MixMIM(**{**SIZES, "img_size": 56, "window_sizes": (14, 14)})
    head = larger.head.weight.detach().clone()
    notes = load_initial(larger, tmp_path / "pretrained.pth")
    assert any("relative_position_bias_table" in note for note in notes)
    assert torch.equal(larger.head.weight, head)
    assert torch.equal(larger.absolute_pos_embed, position_table(24, 28, 28))
    with pytest.raises(UserError, match=r"which the model lacks"):
        load_released(classifier(), tmp_path / "pretrained.pth")  # evaluation takes no file without its classifier


# -- stages of training


@pytest.fixture(scope="module")
def garments() -> TensorData:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 28, 28), generator=draws, dtype=torch.uint8)
    labels = torch.arange(64) % 10
    return TensorData(pixels, labels, pixels[:20], labels[:20])


def recipe(*changes: str) -> Recipe:
    small = ("total_batch=16", "epoch_images=32", "epochs=1", "evaluate_every=1", "warmup_epochs=0")
    return load_recipe(papers.find("mixmim").recipe, "embedded").with_changes(*small, *changes)


@pytest.mark.parametrize("build", [mixed, mask_tokens])
def test_labels_do_not_reach_the_encoder(build: Callable[[], MixMIMPretraining], garments: TensorData) -> None:
    shuffled = TensorData(garments.train[0], garments.train[1].flip(0), *garments.validation)
    states = []
    for data in (garments, shuffled):
        torch.manual_seed(0)
        model: Any = build()
        before = model.patch_embed.proj.weight.detach().clone()
        train(model, recipe(), data, seed=0, hooks=hooks(recipe()), options=Options(device="cpu"))
        assert not model.pretraining
        assert not torch.equal(model.patch_embed.proj.weight, before)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]) != name.startswith("head."), name


def test_fine_tuning_on_the_bench_starts_from_what_was_pretrained(garments: TensorData) -> None:
    teacher: Any = mixed()
    model: Any = classifier()
    start = finetuning(recipe())
    start[0].teacher = teacher  # type: ignore[attr-defined]
    still = recipe("learning_rate=0.0", "warmup_learning_rate=0.0", "min_learning_rate=0.0")
    head = model.head.weight.detach().clone()
    train(model, still, garments, seed=0, hooks=start, options=Options(device="cpu"))
    assert torch.equal(model.layers[1].blocks[0].attn.qkv.weight, teacher.layers[1].blocks[0].attn.qkv.weight)
    assert torch.equal(model.head.weight, head)


def test_fine_tuning_starts_with_a_classifier_that_is_almost_zero() -> None:
    model: Any = classifier()
    hooks(recipe("method.stage=finetune"))[0].on_model(cast(Training, None), model)
    assert 0 < model.head.weight.abs().max() < 1e-3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("method.stage=pretran", "stage must be one of pretrain"),
        ("method.mask_ratio=1.5", "share of masked places"),
        ("label_smoothing=0.1", "set label_smoothing=0"),
    ],
)
def test_bad_values_of_a_recipe(change: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        hooks(recipe(change))


def test_pretraining_needs_a_decoder_and_pairs(garments: TensorData) -> None:
    with pytest.raises(UserError, match="has no decoder"):
        train(classifier(), recipe(), garments, seed=0, hooks=hooks(recipe()), options=Options(device="cpu"))
    odd = recipe("total_batch=15", "epoch_images=30")
    with pytest.raises(UserError, match="mixed in pairs"):
        train(mixed(), odd, garments, seed=0, hooks=hooks(odd), options=Options(device="cpu"))
