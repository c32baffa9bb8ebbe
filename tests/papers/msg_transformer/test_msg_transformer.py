"""MSG-Transformer: parity with the released implementation, what its layers compute, and what its claims measure."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.shapes import shapes_only
from papers.msg_transformer import PAPER, claims, windows
from papers.msg_transformer.model import (
    MSGTransformer,
    WindowAttention,
    average,
    create,
    distance_index,
    merge,
    partition,
    shuffle,
)
from tests.parity import check_model, images

#: Parameters of every released variant.
PARAMETERS = {"msg_tiny": 25086116, "msg_small": 55968514, "msg_base": 84392770}


def small(**kwargs: object) -> MSGTransformer:
    """For multiples of 48 pixels."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "head_dim": 8, "depths": (1, 2, 1), "window_size": 3, "shuffle_sizes": (4, 2, 1)}
    return timm.create_model("msg_tiny", **{**sizes, "num_classes": 7, "out_indices": (0, 1, 2), **kwargs})


def test_model_matches_the_release() -> None:
    check_model("msg-transformer", "msg_tiny")


def test_every_variant_has_the_size_of_its_checkpoint() -> None:
    assert {model.released for model in PAPER.models} == set(PARAMETERS)
    for name, count in PARAMETERS.items():
        with shapes_only():
            model = timm.create_model(name)
        assert sum(p.numel() for p in model.parameters()) == count, name


def test_released_names_load_strictly_and_come_back() -> None:
    state = to_released(small())
    index = "layers.1.blocks.0.attn.relative_position_index"
    other = small()
    other.msg_tokens.data.zero_()
    other.get_buffer(index).zero_()
    without = {name: value for name, value in state.items() if not name.endswith("position_index")}
    assert all(torch.equal(value, state[name]) for name, value in to_released(load_released(other, without)).items())
    assert all(torch.equal(value, state[name]) for name, value in to_released(load_released(other, state)).items())
    with pytest.raises(UserError, match=r"layers\.0\.downsample\.norm\.bias"):
        load_released(
            small(), {name: value for name, value in state.items() if name != "layers.0.downsample.norm.bias"}
        )
    with pytest.raises(UserError, match="surplus"):
        load_released(small(), {**state, "surplus": torch.zeros(1)})


def test_shuffling_gives_each_messenger_a_part_of_all() -> None:
    messengers = torch.arange(4).view(1, 4, 1).expand(3, 4, 8)
    shuffled = shuffle(messengers)
    assert shuffled[0, 2].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    random = torch.randn(2, 4, 8)
    assert torch.equal(shuffle(random)[:, 1, 6:], random[:, 3, 2:4])
    assert torch.equal(shuffle(shuffle(random)), random)
    assert torch.equal(average(random)[:, 3], random.mean(dim=1))
    with pytest.raises(UserError, match="multiple of 4 channels"):
        shuffle(torch.zeros(1, 4, 6))


def test_windows_of_regions_and_maps_are_the_same_tokens() -> None:
    x = torch.randn(2, 12, 18, 5)
    parts = partition(x, window_size=3, shuffle_size=2)
    assert parts.shape == (12, 4, 9, 5)
    assert torch.equal(parts[6 + 4, 3, 5], x[1, 6 + 3 + 1, 6 + 3 + 2])
    assert torch.equal(merge(parts, 3, 2, 4, 6), x)
    messengers = torch.randn(2, 4, 6, 5)
    assert torch.equal(partition(messengers, 1, 2)[6 + 4, 3, 0], messengers[1, 3, 3])


def test_scores_have_a_place_for_each_distance_and_two_for_the_messenger() -> None:
    attention = WindowAttention(8, num_heads=2, window_size=3)
    scores = attention.scores_by_distance()
    assert torch.equal(scores[:, 1:, 0], attention.rel_pos_msg[:, 0, 0].expand(2, 9))
    assert torch.equal(scores[:, 0], attention.rel_pos_msg[:, 1, 0].expand(2, 10))
    index = distance_index(3)
    assert len(index.unique()) == 25
    assert int(index[0, 8]) == 0
    assert torch.equal(index[0, 4], index[4, 8])


def test_model_behaves_as_timm_models_do() -> None:
    model = small(in_chans=1, drop_path_rate=0.1, drop_rate=0.1)
    model.set_grad_checkpointing()
    x = images(2, 1, 50, 48)
    model.train()(x).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)
        features = model.forward_features(x)
        assert features.shape == (2, 2, 64)  # padded to 96 x 48 pixels
        torch.testing.assert_close(model.forward_head(features), model(x))
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
        model.reset_classifier(0, "")
        assert torch.equal(model(x), features)
        half = model.bfloat16()(x.bfloat16())
        assert half.dtype == torch.bfloat16
        assert half.isfinite().all()


def test_messengers_are_decayed_and_position_biases_are_not() -> None:
    model = small()
    groups = param_groups_weight_decay(model, no_weight_decay_list=model.no_weight_decay())
    free, decayed = (group["params"] for group in groups)
    assert any(p is model.msg_tokens for p in decayed)
    attention = model.layers[0].blocks[0].attn
    assert {id(attention.rel_pos_msg), id(attention.relative_position_bias_table)} <= {id(p) for p in free}
    assert len({group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.5)}) > 4


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for enable in (False, True):
        model = small()
        model.set_grad_checkpointing(enable)
        model.train()(images(1, 3, 48, 48)).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_features_are_the_maps_of_local_tokens_without_padding() -> None:
    x, model = images(2, 3, 50, 96), small(features_only=True, out_indices=(0, 2))
    assert model.feature_info.channels() == [16, 64]
    assert model.feature_info.reduction() == [4, 16]
    assert [tuple(f.shape) for f in model(x)] == [(2, 16, 13, 24), (2, 64, 4, 6)]
    model = small().eval()
    with torch.no_grad():
        final, features = model.forward_intermediates(x)
        torch.testing.assert_close(final, model.forward_features(x))
        early = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early[0], features[1])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pretrained": True}, "Nothing is downloaded"),
        ({"manipulation": "shufle"}, "Did you mean shuffle"),
        ({"embed_dim": 24}, "use a multiple of a head's 8 and of 16 messengers"),
    ],
)
def test_mistakes_are_named(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**kwargs)
    with pytest.raises(UserError, match="Did you mean msg_tiny"):
        create("msg_tin")


def test_messengers_connect_the_windows_of_a_region() -> None:
    findings = list(windows.reach())
    assert [each.verdict for each in findings[:2]] == ["holds", "holds"]
    reached = windows.sensitivity(2, "shuffle") > 0
    assert reached[:2, :2].all()
    assert int(reached.sum()) == 4
    assert int((windows.sensitivity(3, "none") > 0).sum()) == 1


def test_minis_differ_by_what_is_done_to_messengers_alone() -> None:
    models = []
    for contender in claims.contenders():
        torch.manual_seed(0)
        models.append(contender.build().eval())
    first = models[0].state_dict()
    assert all(torch.equal(value, first[name]) for m in models[1:] for name, value in m.state_dict().items())
    assert models[0](torch.rand(2, 3, 28, 28)).shape == (2, 10)
