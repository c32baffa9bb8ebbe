"""FAN: parity with the released implementation, behaviour as a timm model, and what its maps and gates are."""

from __future__ import annotations

import re

import numpy as np
import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn import functional as F

import papers.fan.model as fan
from common.checkpoints import load_released, to_released
from common.data.composition import Composition
from common.data.preprocessing import Preprocessing
from common.errors import UserError
from common.robustness.full_scale_measures import build
from common.shapes import shapes_only
from papers.fan import PAPER, claims, swin, token_groups
from papers.fan.layers import ChannelAttention, UnbiasedLayerNorm2d
from tests.parity import check_model, images

RECORDED = ("fan_tiny_12_p16_224", "fan_tiny_8_p4_hybrid", "fan_swin_tiny_patch4_window7_224")
#: Trainable parameters of the released variants that are too large to run here.
PARAMETERS = {
    "fan_small_12_p16_224": 28345336,
    "fan_base_18_p16_224": 54350320,
    "fan_large_24_p16_224": 80574100,
    "fan_small_12_p4_hybrid": 26117944,
    "fan_base_16_p4_hybrid": 50475048,
    "fan_large_16_p4_hybrid": 76855140,
    "fan_Xlarge_16_p4_hybrid": 120407316,
    "fan_swin_small_patch4_window7_224": 53064220,
    "fan_swin_base_patch4_window7_224": 93599448,
    "fan_swin_large_patch4_window7_224": 208941136,
}
#: A small model of each kind; the hybrid has two stages, as only the largest variant has.
SMALL = {
    "vit": ("fan_tiny_12_p16_224", {"embed_dim": 32, "depth": 2, "num_heads": 2}),
    "hybrid": (
        "fan_Xlarge_16_p4_hybrid",
        {"embed_dim": (32, 48), "depth": (2, 1), "num_heads": (2, 3), "stem_depths": (1, 1)},
    ),
    "swin": ("fan_swin_tiny_patch4_window7_224", {"embed_dim": 24, "depths": (2, 1, 2, 1), "num_heads": (1, 2, 2, 4)}),
}
kinds = pytest.mark.parametrize("kind", SMALL)


def small(kind: str, **kwargs: object) -> nn.Module:
    name, sizes = SMALL[kind]
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 7, "img_size": 64, **sizes, **kwargs})


@pytest.mark.parametrize("variant", RECORDED)
def test_model_matches_the_release(variant: str) -> None:
    check_model("fan", variant)


def test_every_variant_has_the_size_of_its_checkpoint() -> None:
    declared = {model.released for model in PAPER.models}
    assert declared == set(PARAMETERS) | set(RECORDED)
    for name, count in PARAMETERS.items():
        with shapes_only():
            model = timm.create_model(name)
        assert sum(p.numel() for p in model.parameters()) == count, name


def test_a_weight_tag_that_ends_in_a_size_is_evaluated_at_that_size() -> None:
    with shapes_only():
        assert Preprocessing.of(build("fan_tiny_8_p4_hybrid.in22k_ft_in1k_384", 1000)).size == 384
        assert Preprocessing.of(build("fan_tiny_8_p4_hybrid.in22k_ft_in1k", 1000)).size == 224
        assert build("fan_swin_tiny_patch4_window7_224.tag_288", 1000).patch_embed.img_size == (288, 288)


@kinds
def test_released_names_load_strictly_and_come_back(kind: str) -> None:
    state = to_released(small(kind))
    other = small(kind)
    nn.init.ones_(next(other.parameters()))
    assert all(torch.equal(value, state[name]) for name, value in to_released(load_released(other, state)).items())

    first = next(iter(state))
    with pytest.raises(UserError, match=re.escape(first)):
        load_released(small(kind), {name: value for name, value in state.items() if name != first})
    with pytest.raises(UserError, match="surplus"):
        load_released(small(kind), {**state, "surplus": torch.zeros(1)})


def test_released_swin_tables_are_not_needed() -> None:
    model = small("swin")
    state = to_released(model)
    table = model.layers[0].blocks[0].attn.relative_position_index
    load_released(model, {**state, "layers.0.blocks.0.attn.relative_position_index": table})


@kinds
def test_model_behaves_as_timm_models_do(kind: str) -> None:
    model = small(kind, in_chans=1, drop_path_rate=0.1, drop_rate=0.1, attn_drop_rate=0.1, proj_drop_rate=0.1)
    model.set_grad_checkpointing()
    x = images(2, 1, 64, 64)
    model.train()(x).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)
        features = model.forward_features(x)
        torch.testing.assert_close(model.forward_head(features), model(x))
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
        assert model.get_classifier().out_features == 5
        model.reset_classifier(0, "avg")
        assert model(x).shape == (2, model.num_features)
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    assert len({group["lr_scale"] for group in groups}) > 2
    exempt = model.no_weight_decay()
    assert exempt
    assert exempt <= {name for name, _ in model.named_parameters()}


def test_gradient_checkpointing_changes_nothing() -> None:
    x = images(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        model = small("hybrid")
        model.set_grad_checkpointing(enable)
        model.train()(x).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize("kind", ["vit", "hybrid"])
def test_any_size_of_images_is_taken(kind: str) -> None:
    model = small(kind).eval()
    with torch.no_grad():
        assert model(images(1, 3, 96, 160)).shape == (1, 7)
        assert model.forward_features(images(1, 3, 384, 384)).shape[1] == 1 + (24**2 if kind == "vit" else 12**2)
    with pytest.raises(UserError, match="8x64 pixels is smaller than a patch of 16"):
        model(images(1, 3, 8, 64))


def test_swin_takes_the_size_it_is_built_for() -> None:
    state = to_released(small("swin"))
    model = load_released(small("swin", img_size=(96, 64)), state).eval()
    assert model(images(1, 3, 96, 64)).shape == (1, 7)


def test_features_make_the_released_pyramid() -> None:
    x = images(2, 3, 64, 64)
    model = small("hybrid", features_only=True)
    assert model.feature_info.channels() == [128, 256, 32, 48]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert [tuple(f.shape) for f in model(x)] == [(2, 128, 16, 16), (2, 256, 8, 8), (2, 32, 4, 4), (2, 48, 2, 2)]
    model = small("vit", features_only=True, out_indices=(0, 2))
    assert [tuple(f.shape) for f in model(x)] == [(2, 32, 4, 4)] * 2
    model = small("swin", features_only=True)
    assert [tuple(f.shape) for f in model(x)] == [(2, 24 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)]


@pytest.mark.parametrize("kind", ["vit", "hybrid"])
def test_intermediates_are_those_of_the_forward_pass(kind: str) -> None:
    model, x = small(kind).eval(), images(2, 3, 64, 64)
    with torch.no_grad():
        final, features = model.forward_intermediates(x)
        torch.testing.assert_close(final, model.forward_features(x))
        assert [f.shape[1] for f in features] == [info["num_chs"] for info in model.feature_info]
        assert [64 // f.shape[-1] for f in features] == [info["reduction"] for info in model.feature_info]
        last = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]
        torch.testing.assert_close(last.flatten(2).transpose(1, 2), final[:, 1:])
        early = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early[0], features[1])


@kinds
def test_attention_maps_are_shares(kind: str) -> None:
    model, x = small(kind).eval(), images(2, 3, 64, 64)
    maps = model.attention_maps(x)
    blocks = [m for m in model.modules() if hasattr(m, "attn") and hasattr(m, "norm1")]
    assert len(maps) == len(blocks) - (0 if kind == "swin" else len(model.cls_attn_blocks))
    for share in maps:
        assert share.min() >= 0
        if kind != "swin":
            torch.testing.assert_close(share.sum(dim=(2, 3)), torch.ones(share.shape[:2]))
    if kind == "swin":
        # One window without padding; the others of this small model are padded and attend to the padding too.
        torch.testing.assert_close(maps[-1].sum(dim=(2, 3)), torch.ones(maps[-1].shape[:2]))
    else:
        for share in model.class_attention_maps(x):
            assert share.shape[-2:] == maps[-1].shape[-2:]
            assert ((share.sum(dim=(2, 3)) > 0) & (share.sum(dim=(2, 3)) < 1)).all()


def test_maps_are_what_attention_uses() -> None:
    block = small("vit").eval().blocks[0].attn
    x = images(1, 1, 2, 9 * 32).reshape(2, 9, 32)
    _, values = block.kv(x).chunk(2, dim=-1)
    mixed = block.attention_matrix(x) @ values.unflatten(2, (block.num_heads, -1)).transpose(1, 2)
    torch.testing.assert_close(block(x), block.proj(mixed.transpose(1, 2).flatten(2)))


def test_swin_map_is_what_attention_uses() -> None:
    """Averaging over queries turns the map into the mean output, whatever windows, shifts and masks do to it."""
    model = small("swin", img_size=112).eval()
    block = model.layers[1].blocks[0] if any(model.layers[1].blocks[0].shift_size) else model.layers[0].blocks[1]
    assert any(block.shift_size)
    attn = block.attn
    nn.init.normal_(attn.relative_position_bias_table)
    nn.init.eye_(attn.proj.weight)
    nn.init.zeros_(attn.proj.bias)
    x = images(2, attn.dim, 28, 28).permute(0, 2, 3, 1)
    values = F.linear(x, *(p.chunk(3)[2] for p in (attn.qkv.weight, attn.qkv.bias)))
    share = swin._window_map(block, x).repeat_interleave(attn.dim // attn.num_heads, dim=1).permute(0, 2, 3, 1)
    # Each of the 16 windows distributes one unit of attention a query, and has as many queries as tokens.
    torch.testing.assert_close(
        (share * values).sum(dim=(1, 2)) * 49, block._attn(x).sum(dim=(1, 2)), rtol=1e-3, atol=1e-3
    )


def test_channel_attention_is_the_published_gate() -> None:
    model, x = small("vit").eval(), images(2, 3, 64, 64)
    gates = model.channel_attention(x)
    assert [tuple(gate.shape) for gate in gates] == [(2, 2, 16)] * 2

    attention: ChannelAttention = model.blocks[0].mlp
    attention.temperature.data.fill_(2.0)
    tokens = images(1, 1, 2, 9 * 32).reshape(2, 9, 32)
    queries = attention.q(tokens).softmax(dim=1)
    keys = tokens.softmax(dim=1)
    for image in range(2):
        for channel in range(32):
            head = channel // 16
            key = keys[image, :, head * 16 : (head + 1) * 16].mean(dim=1)
            expected = 2 * torch.sigmoid((queries[image, :, channel] * key).sum())
            torch.testing.assert_close(attention.gate(tokens)[image, head, channel % 16], expected)
    gate = attention.gate(tokens).flatten(1)[:, None]
    torch.testing.assert_close(attention(tokens, (3, 3)), gate * attention.norm_v(attention.mlp_v(tokens, (3, 3))))


def test_what_channel_attention_is_compared_with_has_no_gate() -> None:
    x = images(2, 3, 64, 64)
    sizes = {}
    for processing in ("attention", "convolution", "mlp"):
        model = small("vit", channel_processing=processing).eval()
        assert model(x).shape == (2, 7)
        sizes[processing] = sum(p.numel() for p in model.parameters())
    assert sizes["attention"] > sizes["convolution"] > sizes["mlp"]
    with pytest.raises(UserError, match="no channel attention"):
        model.channel_attention(x)


def test_unbiased_norm_has_unbiased_variance() -> None:
    x = images(2, 24, 5, 5)
    norm = UnbiasedLayerNorm2d(24, eps=1e-2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    variance, mean = torch.var_mean(x, dim=1, keepdim=True)
    expected = (x - mean) / torch.sqrt(variance + 1e-2) * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)
    standard, released = (small("hybrid", unbiased_stem_norm=switch).eval() for switch in (False, True))
    assert not torch.allclose(standard(images(1, 3, 64, 64)), released(images(1, 3, 64, 64)), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pretrained": True}, "nothing to download"),
        ({"img_size": 100}, "multiples of the patch of 16"),
        ({"num_heads": 5}, "not a multiple of its 5 heads"),
        ({"patch_size": 12}, "power of two"),
        ({"channel_processing": "se"}, "'attention', 'convolution' or 'mlp'"),
    ],
)
def test_mistakes_are_named(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        timm.create_model("fan_tiny_12_p16_224", **kwargs)
    with pytest.raises(UserError, match="fan_tiny_12_p16_224"):
        fan.create("fan_tiny")


def test_contenders_have_equal_size() -> None:
    sizes = {c.name: sum(p.numel() for p in c.build().parameters()) for c in claims.contenders()}
    assert len(sizes) == 3
    assert max(sizes.values()) < 1.005 * min(sizes.values())


def test_clusters_find_groups_of_tokens() -> None:
    truth = np.repeat([0, 1, 2], 16)
    centres = torch.eye(3).repeat_interleave(16, dim=0)
    tokens = centres + 0.05 * images(1, 1, 48, 3)[0, 0]
    assert token_groups.agreement([token_groups.clusters(tokens)], truth[None]).tolist() == [1]
    scrambled = truth[torch.randperm(48, generator=torch.Generator().manual_seed(0)).numpy()]
    assert token_groups.agreement([token_groups.clusters(tokens)], scrambled[None]) < 0.2


def test_objects_are_those_of_the_composition() -> None:
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, :4, :3] = masks[0, 1, 4:, 4:] = True
    empty = torch.zeros(1, 2)
    drawn = Composition(torch.zeros(1, 8, 8, dtype=torch.uint8), masks, empty, empty, empty, empty)
    assert token_groups.objects(drawn).tolist() == [[1, 0, 0, 2]]


def test_branches_of_the_contenders_start_at_zero() -> None:
    x = torch.randn(2, 49, claims.MINI["embed_dim"])
    for contender in claims.contenders():
        torch.manual_seed(0)
        model = contender.build()
        assert torch.equal(model.blocks[0](x, (7, 7)), x), contender.name
        assert model.eval()(images(2, 3, 28, 28)).std(dim=0).min() > 0, "the class token knows of the image"


def test_grouping_is_measured_by_canvas() -> None:
    torch.manual_seed(0)
    contender = claims.contenders()[0]
    found = token_groups.grouping(contender.build().eval(), contender.settings(quick=True), quick=True)
    assert found["grouping_ari"].shape == (1, token_groups.QUICK_COUNT)
    assert (np.abs(found["grouping_ari"]) <= 1).all()
    assert found["top1"].shape == (token_groups.CELLS, 50)


def test_large_hybrid_starts_with_small_logits() -> None:
    def spread(scale: float) -> Tensor:
        return small("vit", head_init_scale=scale).head.weight.std()

    torch.testing.assert_close(spread(0.001) * 1000, spread(1.0))
