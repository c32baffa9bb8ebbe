"""OAMixer: parity with the release, what masks do to each kind of layer, and the scenes that networks are tested in."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import bench
from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.protocols import ListensToSteps
from common.run import Run
from common.shapes import shapes_only
from common.training.hooks import Training
from common.training.recipe import load_recipe
from papers.oamixer import PAPER, claims, identities, mini, pictures, scenes
from papers.oamixer.layers import MaskedAttention, SharedConv, reweighted
from papers.oamixer.mask import ObjectMask, distances
from papers.oamixer.model import VARIANTS, create
from papers.oamixer.training import hooks
from tests.parity import Fixture, check_model, distance, images

#: Parameters of every variant that was recorded.
PARAMETERS = {
    "convmixer_s32": 4205688, "convmixer_s32_mask": 4205696, "deit_t": 5717416, "deit_t_mask": 5717428,
    "deit_t_mask_cosine": 5717428, "deit_t_mask_minus": 5717428, "deit_t_mask_tok": 5719358, "mixer_s32": 19104624,
    "mixer_s32_mask": 19104632, "convmixer_s16": 3026040, "convmixer_s16_mask": 3026048,
    "convmixer_s16_noshare": 3361256, "deit_s_mask": 22050676, "deit_t_coat": 5710264, "deit_t_convit": 5717374,
    "deit_t_convit_mask": 5717386, "mixer_b16_mask": 59880484, "mixer_b32_mask": 60293440, "mixer_s16": 18528264,
    "mixer_s16_mask": 18528272,
}  # fmt: skip

SMALL: dict[str, dict[str, Any]] = {
    "oamixer_deit_tiny": {"embed_dim": 24, "depth": 2, "img_size": 64},
    "oamixer_deit_tiny_tokens": {"embed_dim": 24, "depth": 2, "img_size": 64},
    "oamixer_coatnet_tiny": {"embed_dim": 24, "depth": 2, "img_size": 64},
    "oamixer_convit_tiny": {"embed_dim": 8, "num_heads": 4, "depth": 2, "local_up_to_layer": 1, "img_size": 64},
    "oamixer_mixer_s32": {"embed_dim": 16, "num_blocks": 2, "img_size": 64, "patch_size": 16},
    "oamixer_convmixer_s32": {"dim": 16, "depth": 2, "patch_size": 16, "kernel_size": 3},
    "oamixer_convmixer_s16_unshared": {"dim": 16, "depth": 2, "patch_size": 16, "kernel_size": 3},
}


def small(name: str, **kwargs: object) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 7, **SMALL[name], **kwargs})


def recorded_labels(patches: int) -> Tensor:
    """Those that fixtures were recorded with."""
    return (2 * images(1, 2, patches, 10, seed=3)[0]).softmax(dim=-1)


@pytest.mark.parametrize("variant", ["deit_t", "mixer_s32", "convmixer_s32"])
def test_hosts_match_the_release(variant: str) -> None:
    check_model("oamixer", variant)


@pytest.mark.parametrize(
    "variant",
    [
        "deit_t_mask",
        "deit_t_mask_cosine",
        "deit_t_mask_minus",
        "deit_t_mask_tok",
        "mixer_s32_mask",
        "convmixer_s32_mask",
    ],
)
def test_masked_networks_match_the_release(variant: str) -> None:
    labels = recorded_labels(49 if "s32" in variant else 196)

    def call(model: Any, x: Tensor) -> Tensor:
        if not hasattr(model, "tok_head"):
            return model(x, labels.to(x.device))
        logits, tokens = model.forward_tokens(x, labels.to(x.device))
        assert distance(tokens, Fixture.load("oamixer", variant).arrays["tok"]) < 1e-4
        return logits + 0 * tokens.sum()  # recorded with gradients of zero for what the logits do not depend on

    def scale(value: Tensor) -> Tensor:
        return (20 * value.abs()).clamp(max=1) if "minus" in variant else 50 * value.abs()

    check_model("oamixer", variant, vary={"*.mask_scale": scale}, call=call)


def test_every_variant_has_the_recorded_size() -> None:
    assert {model.released for model in PAPER.all_models} == set(PARAMETERS)
    for model in PAPER.all_models:
        with shapes_only():
            network = timm.create_model(model.name)
        assert sum(p.numel() for p in network.parameters()) == PARAMETERS[model.released], model.name


@pytest.mark.parametrize("name", SMALL)
def test_released_names_load_strictly_and_come_back(name: str) -> None:
    model, other = small(name), small(name)
    state = {key: value + 0.1 if value.is_floating_point() else value for key, value in to_released(model).items()}
    loaded = load_released(other, {**state, "blocks.0.attn.fn.relative_index": torch.zeros(1)})
    assert all(torch.equal(value, state[key]) for key, value in to_released(loaded).items())
    first = {
        "oamixer_coatnet_tiny": "blocks.1.attn.fn.to_out.0.bias",
        "oamixer_mixer_s32": "blocks.0.mlp_tokens.mask_scale",
        "oamixer_convmixer_s32": "blocks.0.block.0.fn.0.mask_scale",
        "oamixer_convmixer_s16_unshared": "blocks.1.block.0.fn.0.conv.weight",
    }.get(name, "blocks.0.attn.mask_scale")
    with pytest.raises(UserError, match="missing"):
        load_released(small(name), {key: value for key, value in state.items() if key != first})
    with pytest.raises(UserError, match="surplus"):
        load_released(small(name), {**state, "surplus": torch.zeros(1)})


@pytest.mark.parametrize("name", SMALL)
def test_model_behaves_as_timm_models_do(name: str) -> None:
    model, x = small(name, in_chans=1), images(2, 1, 64, 64)
    labels = torch.rand(2, 16, 3).softmax(dim=-1)
    model.train()(x, labels).square().mean().backward()
    unread = {"coatnet": "mask_scale", "tokens": "tok_head"}  # scales that the release never reads; another loss's
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert all(any(part in name and word in key for part, word in unread.items()) for key in idle)
    model.eval()
    with torch.no_grad():
        logits = model(x, labels)
        assert logits.shape == (2, 7)
        torch.testing.assert_close(logits[:1], model(x[:1], labels[:1]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x, labels).isfinite().all()
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)


@pytest.mark.parametrize("name", ["oamixer_deit_tiny", "oamixer_mixer_s32", "oamixer_convmixer_s32"])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    gradients, labels = [], torch.rand(1, 16, 3).softmax(dim=-1)
    for enable in (False, True):
        model = small(name).eval()
        model.set_grad_checkpointing(enable)
        model(images(1, 3, 64, 64), labels).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_distances_are_those_of_distributions() -> None:
    labels = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]])
    assert distances(labels)[0].tolist() == [[0, 2, 1], [2, 0, 1], [1, 1, 0]]
    cosine = distances(labels, "cosine")[0]
    torch.testing.assert_close(cosine[0], torch.tensor([0.0, 1.0, 1 - 1 / math.sqrt(2)]))


def test_scale_stays_in_its_range_and_keeps_its_gradient() -> None:
    for form, given, kept in (("exp", -0.5, 0.0), ("minus", 1.5, 1.0), ("exp", 1.5, 1.5)):
        layer = ObjectMask()
        layer.add_mask(form)
        nn.init.constant_(layer.mask_scale, given)
        assert layer.scale_of_mask.item() == kept
        layer.on_optimizer_step(1)
        assert layer.mask_scale.item() == kept
        layer.mask(torch.ones(1, 2, 2)).sum().backward()
        assert layer.mask_scale.grad is not None
        assert float(layer.mask_scale.grad) < 0
        torch.testing.assert_close(layer.excess(torch.ones(1, 2, 2)), 1 - layer.mask(torch.ones(1, 2, 2)))


def test_bias_of_attention_is_a_factor_of_its_weights() -> None:
    torch.manual_seed(0)
    host: Any = timm.create_model("deit_tiny_patch16_224", embed_dim=24, depth=1)
    layer = host.blocks[0].attn
    MaskedAttention.convert(layer, "exp")
    nn.init.constant_(layer.mask_scale, 1.5)
    x, apart = torch.randn(2, 5, 24), distances(torch.rand(2, 4, 3).softmax(dim=-1))
    q, k, v = layer.qkv(x).view(2, 5, 3, 3, 8).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) * layer.scale).softmax(dim=-1)
    mask = layer.mask(F.pad(apart, (1, 0, 1, 0)))
    expected = layer.proj((reweighted(weights, mask) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, apart), expected, rtol=1e-4, atol=1e-5)


def test_matrix_of_a_convolution_is_the_convolution() -> None:
    torch.manual_seed(0)
    layer, x = SharedConv(5), torch.randn(2, 3, 4, 6)
    convolved = layer.conv(x.flatten(0, 1)[:, None])[:, 0].unflatten(0, (2, 3))
    torch.testing.assert_close(layer(x), convolved, rtol=1e-4, atol=1e-5)


def test_identities_hold_and_fail_without_their_mechanism(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {each.name: each for each in (*identities.one_object(), *identities.separation())}
    assert {name: each.verdict for name, each in found.items()} == dict.fromkeys(found, "holds")
    monkeypatch.setattr(ObjectMask, "excess", lambda self, distance: 0 * distance)
    monkeypatch.setattr(ObjectMask, "mask", lambda self, distance: 1 + 0 * distance)
    broken = {each.name: each.verdict for each in identities.separation()}
    assert broken["separate"] == "does not hold"
    assert {each.name: each.verdict for each in identities.one_object()}["two_objects"] == "does not hold"


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="one kernel for all channels"):
        small("oamixer_convmixer_s32", shared=False)
    with pytest.raises(UserError, match="exp, minus"):
        small("oamixer_deit_tiny", form="plus")
    with pytest.raises(UserError, match="Did you mean cosine"):
        small("oamixer_deit_tiny", distance="cosin")
    with pytest.raises(UserError, match="Did you mean"):
        create("oamixer_deit_tin")
    with pytest.raises(UserError, match="Nothing is downloaded"):
        create(next(iter(VARIANTS)), pretrained=True)


def test_command_trains_hosts_alone() -> None:
    recipe = load_recipe(claims.mini.scenes.__file__.replace("scenes.py", "recipe.toml"), "imagenet")
    (hook,) = hooks(recipe)
    loop = cast("Training", SimpleNamespace())
    with pytest.raises(UserError, match="labels of patches"):
        hook.on_model(loop, small("oamixer_deit_tiny"))
    hook.on_model(loop, small("oamixer_deit_tiny", form=""))


def test_scenes_show_garments_whole_and_give_their_masks() -> None:
    torch.manual_seed(0)
    garments, labels = torch.randint(50, 255, (6, 28, 28), dtype=torch.uint8), torch.arange(6)
    found = scenes.in_scenes(garments, labels, labels, seed=3)
    assert found.shape == (6, 3, 28, 28)
    mask = found[:, 2] == 255
    assert mask.flatten(1).sum(dim=1).tolist() == [scenes.GARMENT**2] * 6
    assert int(found[:, 0][~mask].min()) >= 30
    other = scenes.in_scenes(garments, labels, labels.roll(1), seed=3)
    assert torch.equal(found[:, 0][mask], other[:, 0][mask])
    assert not torch.equal(found[:, 0][~mask], other[:, 0][~mask])
    kinds = scenes.kinds_of(torch.full((5000,), 4), 0.75, torch.Generator().manual_seed(0))
    assert (kinds == 4).float().mean().item() == pytest.approx(0.75 + 0.025, abs=0.02)


def test_gap_is_the_difference_of_accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([[0, 1], [2, 3]])
    answers = {"top1": labels, scenes.SAME: labels, scenes.RAND: torch.tensor([[0, 0], [0, 0]])}
    sets = {name: F.one_hot(value, 10).float() for name, value in answers.items()}
    monkeypatch.setattr(scenes, "test_set", lambda quick: SimpleNamespace(labels=labels))
    monkeypatch.setattr(scenes, "test_scenes", lambda quick: sets)
    monkeypatch.setattr(scenes.bench, "normalised", lambda model, recipe: model)
    monkeypatch.setattr(scenes.bench, "correct", lambda _, x, truth: (x.argmax(-1) == truth).numpy())
    found = scenes.robustness(nn.Identity(), cast("Any", None), quick=True)
    assert found[scenes.GAP].tolist() == [[0, 1], [1, 1]]


def test_labels_are_the_garments_share_of_each_patch() -> None:
    model: Any = mini.vit("exp").eval()
    image = torch.zeros(1, 3, 28, 28)
    image[:, 2, :4, :2] = 1.0
    labels = model.labels((image - model.mean) / model.std)
    assert labels.shape == (1, 49, 2)
    torch.testing.assert_close(labels[0, 0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(labels[0, 1:], torch.tensor([0.0, 1.0]).expand(48, 2))


def test_networks_of_the_bench_start_as_their_hosts() -> None:
    x = images(2, 3, 28, 28)
    for host, aware in zip(claims.contenders()[::2], claims.contenders()[1::2], strict=True):
        torch.manual_seed(0)
        plain = host.build().eval()
        torch.manual_seed(0)
        masked = aware.build().eval()
        torch.testing.assert_close(masked(x), plain(x), rtol=1e-4, atol=1e-5)
        assert mini.scales(masked) == [0.0, 0.0, 0.0]
        assert mini.scales(plain) == []
        for part in (*plain.modules(), *masked.modules()):
            if isinstance(part, ListensToSteps):
                part.on_optimizer_step(1)


def test_picture_says_who_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    both = claims.contenders()[:2]
    networks = {each.name: each.build().eval() for each in both}
    sets = {name: torch.randint(0, 255, (1, 7, 3, 28, 28), dtype=torch.uint8) for name in pictures.TITLES}
    monkeypatch.setattr(bench, "trained", lambda run, contender, seed: networks[contender.name])
    monkeypatch.setattr(bench, "test_set", lambda quick: SimpleNamespace(labels=torch.zeros(1, 7, dtype=torch.long)))
    monkeypatch.setattr(scenes, "test_scenes", lambda quick: sets)
    run = cast("Run", SimpleNamespace(seeds=lambda: [0], settings=SimpleNamespace(quick=True)))
    drawn = pictures.backgrounds(run, both)
    assert "0.00, 0.00, 0.00" in drawn.caption
    assert "mixed-rand" in drawn.svg
