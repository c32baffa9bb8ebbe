"""DynamicViT: parity with the release in inference and training, what selection computes, and its training hook."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from common.checkpoints import load_released, to_released, under_released_names
from common.errors import UserError
from common.profiling import flops
from common.run import Run
from common.shapes import shapes_only
from common.training.data import TensorData
from common.training.distillation import with_teacher
from common.training.hooks import Training
from common.training.loop import train
from common.training.recipe import Recipe, load_recipe
from papers.dynamicvit import PAPER, claims, cost, identities, mini, selected
from papers.dynamicvit.model import create
from papers.dynamicvit.selection import Predictor, Sparsified, draw, places_kept
from papers.dynamicvit.training import Sparsification, class_distance, hooks, ratio_distance, start_from
from tests.parity import OUTPUT_TOLERANCE, Fixture, check_gradients, check_model, distance, images

#: Parameters of every released variant.
PARAMETERS = {
    "deit-256": 10304942,
    "deit-s": 22774414,
    "deit-b": 89452846,
    "lvvit-s": 26875574,
    "lvvit-s-0.5": 26875574,
    "lvvit-m": 57115030,
    "convnext-t": 30504814,
    "convnext-s": 54523246,
    "convnext-b": 96216558,
    "swin-t": 29755144,
    "swin-s": 52707736,
    "swin-b": 93271590,
}

SMALL: dict[str, dict[str, Any]] = {
    "dynamicvit_deit_256": {"img_size": 64, "embed_dim": 32, "depth": 4, "locations": (1, 2, 3)},
    "dynamicvit_lvvit_small": {
        "img_size": 64, "embed_dim": 32, "depth": 4, "num_heads": 2, "locations": (1, 2, 3), "keep_rate": 0.7,
    },
    "dynamicvit_convnext_tiny": {"depths": (1, 1, 4, 1), "dims": (8, 16, 24, 32), "ls_init_value": 1.0},
    "dynamicvit_swin_tiny": {
        "img_size": 64, "embed_dim": 8, "depths": (2, 2, 4, 2), "num_heads": (1, 2, 2, 2), "window_size": 2,
    },
}  # fmt: skip
each_kind = pytest.mark.parametrize("name", SMALL)


def small(name: str, **kwargs: object) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 7, **SMALL[name], **kwargs})


@pytest.mark.parametrize(("variant", "ratio_weight"), [("deit-256", 2.0), ("convnext-t", 10.0)])
def test_model_matches_the_release(variant: str, ratio_weight: float) -> None:
    model: Any = check_model("dynamicvit", variant)
    fixture = Fixture.load("dynamicvit", variant)
    arrays = fixture.arrays

    # In training, with its draws; dropout and the like are off, as they were when it was recorded.
    model.train()
    model.zero_grad()
    noise = [torch.from_numpy(arrays[f"train_gumbel_{step}"]) for step in range(3)]
    noise = [each.flatten(2).transpose(1, 2) if each.ndim == 4 else each for each in noise]
    ours = model.forward_sparse(images(2, 3, 224, 224), noise)
    assert distance(ours.logits, arrays["train_logits"]) < OUTPUT_TOLERANCE
    assert distance(ours.tokens[:, :16], arrays["train_features_first16"]) < OUTPUT_TOLERANCE
    for step, decision in enumerate(ours.decisions):
        assert np.array_equal(decision.detach().round().numpy(), arrays[f"train_keep_{step}"])

    host = Sparsified(
        images(1, 1, 2, 1000, seed=31)[0, 0],
        images(1, 1, ours.tokens.shape[1] * 2, ours.tokens.shape[2], seed=32).view_as(ours.tokens),
        (),
    )
    parts = [
        F.cross_entropy(ours.logits, torch.tensor([3, 7])),
        ratio_distance(ours, model.selector.keep_rates),
        class_distance(ours, host),
        model.token_distance(ours, host),
    ]
    loss = parts[0] + ratio_weight * parts[1] / 3 + 0.5 * (parts[2] + parts[3])
    assert torch.stack([loss, *parts]).tolist() == pytest.approx(arrays["train_losses"].tolist(), rel=1e-4)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    norms = {name: float(value.norm()) for name, value in under_released_names(model, gradients).items()}
    fixture.about["unused_params"] = []
    check_gradients(norms, fixture, "train_grad_norms")


def test_every_variant_has_the_size_of_its_checkpoint() -> None:
    assert {model.released for model in PAPER.models if model.released} == set(PARAMETERS)
    released_as = {model.name: model.released for model in PAPER.models}  # those of rho = 0.9 are of the same shapes
    for model in PAPER.models:
        with shapes_only():
            network = timm.create_model(model.name)
        released = model.released or released_as[model.name.removesuffix("_keep90")]
        assert sum(p.numel() for p in network.parameters()) == PARAMETERS[released], model.name


def test_keep_rates_are_the_released_ones() -> None:
    transformer: Any
    convnext: Any
    with shapes_only():
        transformer, convnext = timm.create_model("dynamicvit_deit_256"), timm.create_model("dynamicvit_convnext_tiny")
    assert [places_kept(196, rate) for rate in transformer.keep_rates] == [137, 96, 67]
    assert [places_kept(196, rate) for rate in convnext.selector.keep_rates] == [137, 97, 58]
    transformer.set_keep_rate((0.9, 0.5, 0.5))
    assert transformer.keep_rates == (0.9, 0.5, 0.5)
    transformer.set_keep_rate(1)
    assert transformer.keep_rates == (1.0, 1.0, 1.0)
    assert places_kept(4, 0.1) == 1
    for rate, message in ((0.0, "above 0"), ((0.5, 0.7, 0.3), "never rise"), ((0.5,), "3 steps"), (1.1, "at most 1")):
        with pytest.raises(UserError, match=message):
            transformer.set_keep_rate(rate)


@each_kind
def test_released_names_load_strictly_and_come_back(name: str) -> None:
    model, other = small(name), small(name)
    state = to_released(model)
    for value in state.values():
        if value.is_floating_point():
            value.add_(0.1)
    assert all(torch.equal(value, state[key]) for key, value in to_released(load_released(other, state)).items())
    assert all(
        torch.equal(v, other.state_dict()[k]) for k, v in load_released(model, other.state_dict()).state_dict().items()
    )
    released = {
        "dynamicvit_deit_256": "score_predictor.2.out_conv.4.bias",
        "dynamicvit_lvvit_small": "patch_embed.conv3.weight",
        "dynamicvit_convnext_tiny": "stages.2.3.fast_path.1.weight",
        "dynamicvit_swin_tiny": "layers.2.blocks.1.fastmlp.fc1.1.weight",
    }[name]
    with pytest.raises(UserError, match="missing"):
        load_released(other, {key: value for key, value in state.items() if key != released})
    with pytest.raises(UserError, match="surplus"):
        load_released(other, {**state, "surplus": torch.zeros(1)})


@each_kind
def test_model_behaves_as_timm_models_do(name: str) -> None:
    model = small(name, in_chans=1, drop_path_rate=0.1)
    x = images(2, 1, 64, 64)
    model.train()(x).square().mean().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    model.eval()
    with torch.no_grad():
        logits = model(x)
        assert logits.shape == (2, 7)
        torch.testing.assert_close(logits[:1], model(x[:1]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.forward_head(model.forward_features(x)), logits)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x).isfinite().all()
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
        assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.num_features)


def test_dropping_tokens_can_be_exported() -> None:
    model, x = small("dynamicvit_deit_256", depth=2, locations=(1,)).eval(), images(2, 3, 64, 64)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x), rtol=1e-4, atol=1e-5)


@each_kind
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    gradients = []
    for enable in (False, True):
        model = small(name).eval()
        model.set_grad_checkpointing(enable)
        model.set_sparse_training()
        model.train()
        torch.manual_seed(0)
        outputs = model(images(1, 3, 64, 64))
        (outputs.logits.sum() + outputs.tokens.square().mean()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_hierarchies_have_features_and_transformers_say_why_not() -> None:
    model = small("dynamicvit_convnext_tiny", features_only=True).eval()
    assert [tuple(each.shape[1:]) for each in model(images(1, 3, 64, 64))] == [
        (8, 16, 16),
        (16, 8, 8),
        (24, 4, 4),
        (32, 2, 2),
    ]
    for build in (lambda: small("dynamicvit_deit_256", features_only=True), lambda: create("dynamicvit_deit_tiny")):
        with pytest.raises(UserError, match=r"no feature maps|Did you mean"):
            build()
    with pytest.raises(UserError, match="no feature map"):
        small("dynamicvit_deit_256").forward_intermediates(images(1, 3, 64, 64))
    with pytest.raises(UserError, match="Nothing is downloaded"):
        create("dynamicvit_deit_256", pretrained=True)


def test_scores_depend_on_the_place_and_on_those_that_are_kept_alone() -> None:
    torch.manual_seed(0)
    predictor, x = Predictor(8), torch.randn(1, 4, 8)
    for parameter in predictor.parameters():
        nn.init.normal_(parameter)
    kept, changed = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), x.clone()
    changed[:, 3] += 1
    torch.testing.assert_close(predictor(x, kept)[:, :3], predictor(changed, kept)[:, :3])
    assert not torch.allclose(predictor(x)[:, :3], predictor(changed)[:, :3])
    torch.testing.assert_close(predictor(x).exp().sum(dim=-1), torch.ones(1, 4))


def test_decisions_are_drawn_by_their_probabilities_and_have_a_gradient() -> None:
    torch.manual_seed(0)
    scores = torch.tensor([0.8, 0.2]).log().expand(1, 20000, 2).clone().requires_grad_()
    decision = draw(scores)
    assert set(decision.detach().round(decimals=4).unique().tolist()) == {0.0, 1.0}
    assert decision.detach().mean().item() == pytest.approx(0.8, abs=0.01)
    decision.mean().backward()
    assert scores.grad is not None
    assert (scores.grad[..., 0] > 0).all()


def test_dropped_tokens_are_those_of_lowest_score_and_stay_dropped() -> None:
    model = small("dynamicvit_deit_256").eval()
    with torch.no_grad():
        decisions = model.forward_sparse(images(3, 3, 64, 64)).decisions
    assert [decision.sum(dim=1).tolist() for decision in decisions] == [[11.0] * 3, [7.0] * 3, [5.0] * 3]
    for before, after in pairwise(decisions):
        assert (after <= before).all()
    model.train()
    noise = [10 * torch.stack((1 - each, each), dim=-1) for each in decisions]  # of the opposite decisions
    with torch.no_grad():
        *_, last = model.forward_sparse(images(3, 3, 64, 64), noise).decisions
    assert (last <= 1 - decisions[0]).all()


def test_identities_hold_and_fail_without_their_mechanism(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {each.name: each for each in (*identities.keeping_all(), *identities.masking_is_dropping())}
    assert {name: each.verdict for name, each in found.items()} == dict.fromkeys(found, "holds")
    _, network, x = identities.small("ViT")
    with torch.no_grad():
        monkeypatch.setattr(type(network.blocks[0].attn), "forward", lambda self, x, attn_mask=None, is_causal=False: (
            super(type(self), self).forward(x)
        ))  # fmt: skip
        assert identities.forced_difference(network, x) > 1e-3


def test_lvvit_adds_the_largest_logits_of_patches() -> None:
    model = small("dynamicvit_lvvit_small", keep_rate=1.0).eval()
    with torch.no_grad():
        features = model.forward_features(images(2, 3, 64, 64))
        classes, patches = model.head(features[:, 0]), model.aux_head(features[:, 1:])
        torch.testing.assert_close(model(images(2, 3, 64, 64)), classes + 0.5 * patches.max(dim=1).values)
        sparse = model.forward_sparse(images(2, 3, 64, 64))
    torch.testing.assert_close(sparse.logits, classes)
    torch.testing.assert_close(sparse.tokens, patches)


def test_token_distances_look_at_kept_tokens() -> None:
    host = Sparsified(torch.zeros(1, 7), torch.zeros(1, 3, 7), ())
    tokens = torch.zeros(1, 3, 7)
    tokens[0, 2, 0] = 2.0
    some, none = torch.tensor([[1.0, 1.0, 0.0]]), torch.zeros(1, 3)
    for name in ("dynamicvit_deit_256", "dynamicvit_lvvit_small"):
        model = small(name)
        assert float(model.token_distance(Sparsified(host.logits, tokens, (some,)), host)) == 0
        assert float(model.token_distance(Sparsified(host.logits, tokens, (1 - some,)), host)) > 0
        assert float(model.token_distance(Sparsified(host.logits, tokens, (none,)), host)) == 0
    everywhere = small("dynamicvit_convnext_tiny").token_distance(Sparsified(host.logits, tokens, (some,)), host)
    assert float(everywhere) == pytest.approx(4 / 21)


def _recipe(*changes: str) -> Recipe:
    return load_recipe(claims.RECIPE, "embedded", quick=True, changes=("epoch_images=256", *changes))


def test_training_starts_from_the_host_and_can_leave_it_as_it_is() -> None:
    torch.manual_seed(0)
    host, student = mini.hosts.vit_mini(), mini.sparse_vit()
    recipe = _recipe("layer_decay=0.5", "method.frozen_epochs=1", "method.frozen_embeddings=true")
    pictures, labels = torch.randint(0, 255, (256, 3, 28, 28), dtype=torch.uint8), torch.arange(256) % 10
    data = TensorData(pictures, labels, pictures[:32], labels[:32])
    before = {name: value.clone() for name, value in host.state_dict().items()}
    train(student, recipe, data, seed=0, hooks=with_teacher(recipe, hooks(recipe), host))
    after = student.state_dict()
    changed = {name for name, value in before.items() if not name.endswith(("running_mean", "running_var", "tracked"))
               and not torch.equal(after[name], value)}  # fmt: skip
    assert changed == set()
    fresh = mini.sparse_vit()
    assert any(not torch.equal(after[n], v) for n, v in fresh.state_dict().items() if n.startswith("score_predictor"))
    assert student.sparse_training


def test_mistakes_in_training_are_named() -> None:
    recipe = _recipe()
    hook, loop = hooks(recipe)[0], cast("Training", SimpleNamespace())
    with pytest.raises(UserError, match=r"method\.teacher"):
        hook.on_model(loop, mini.sparse_vit())
    with pytest.raises(UserError, match="selects nothing"):
        hook.on_model(loop, nn.Linear(2, 2))
    student = mini.sparse_vit()
    with pytest.raises(UserError, match=r"host lacks|network lacks"):
        start_from(student, mini.hosts.vit_mini(depth=2).state_dict())
    with pytest.raises(UserError, match="in the host and"):
        start_from(student, mini.hosts.vit_mini(embed_dim=24).state_dict())
    with pytest.raises(UserError, match="below 0"):
        hooks(_recipe("method.ratio_weight=-1"))
    with pytest.raises(UserError, match="DynamicViT's"):
        hooks(replace(recipe, method={"weight": 1}))
    assert isinstance(hook, Sparsification)


def test_rules_keep_as_many_tokens_as_learned_selection() -> None:
    x = images(2, 3, 28, 28)
    for kind in (mini.RandomViT, mini.AttentionViT):
        torch.manual_seed(0)
        model: Any = mini.sparse_vit(kind)
        for training in (False, True):
            decisions = model.train(training).forward_sparse(x).decisions
            assert [each.sum(dim=1).tolist() for each in decisions] == [[34.0] * 2, [24.0] * 2]
            assert (decisions[1] <= decisions[0]).all()
    # Both ways of dropping leave the class token with the same: here by attention, which is not drawn.
    model.eval()
    with torch.no_grad():
        kept = model.forward_sparse(x)
        model.train()
        model.patch_embed.eval()  # has batch norms
        masked = model.forward_sparse(x)
    assert all(torch.equal(a, b) for a, b in zip(kept.decisions, masked.decisions, strict=True))
    torch.testing.assert_close(kept.logits, masked.logits, rtol=1e-4, atol=1e-4)


def test_attention_is_the_class_tokens() -> None:
    torch.manual_seed(0)
    model: Any = mini.sparse_vit(mini.AttentionViT)
    block, tokens = model.blocks[1], torch.randn(1, 5, 48)
    block.attn.qkv.weight.data.zero_()
    block.attn.qkv.weight.data[:48] = torch.eye(48)
    block.attn.qkv.weight.data[48:96] = torch.eye(48)
    tokens[0, 3] = tokens[0, 0] * 1.5
    assert int(model.rank(tokens, 0).argmax()) == 2


def test_saving_is_counted_against_the_host() -> None:
    with shapes_only():
        host = timm.create_model("deit_small_patch16_224")
    assert cost.multiply_adds("dynamicvit_deit_small", 1.0) == flops(host, (3, 224, 224)).total
    rates = [cost.multiply_adds("dynamicvit_deit_small", rate) for rate in (0.9, 0.7, 0.5)]
    assert rates == sorted(rates, reverse=True)


def test_pictures_show_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mini.sparse_vit().eval()
    tests = SimpleNamespace(clean=torch.randint(0, 255, (1, 8, 3, 28, 28), dtype=torch.uint8))
    monkeypatch.setattr(selected.bench, "trained", lambda *_: model)
    monkeypatch.setattr(selected.bench, "test_set", lambda quick: tests)
    run = SimpleNamespace(seeds=lambda: [0], settings=SimpleNamespace(quick=True))
    learned = next(each for each in claims.contenders() if each.name == claims.LEARNED)
    drawn = selected.picture(cast("Run", run), learned)
    assert "34 and 24 of 49" in drawn.caption
    assert drawn.svg.startswith("<svg")
