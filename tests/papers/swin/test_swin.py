"""Swin: timm's models against the release, what timm lacks of it, and what the shift and the windows do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from common.checkpoints import load_initial, load_released, to_released
from common.errors import UserError
from common.manifest import load_manifest
from common.robustness.full_scale_measures import identify
from common.shapes import shapes_only
from papers.swin import PAPER, claims, complexity, windows
from papers.swin.model import SwinMLP, create
from tests.parity import check_model, images

NAMES = {model.released: model.name for model in PAPER.all_models}
RECORDED = (
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_patch4_window8_256",
    "swin_mlp_tiny_c24_patch4_window8_256",
)
#: Parameters of released variants that are too large to run here.
PARAMETERS = {
    "swin_small_patch4_window7_224": 49606258,
    "swin_base_patch4_window7_224": 87768224,
    "swin_tiny_c24_patch4_window8_256": 28306432,
    "swin_mlp_tiny_c12_patch4_window8_256": 21152072,
    "swin_mlp_tiny_c6_patch4_window8_256": 22682952,
    "swin_mlp_base_patch4_window7_224": 60659416,
    "swinv2_small_patch4_window8_256": 49728418,
    "swinv2_tiny_patch4_window16_256": 28347154,
}
#: What the released code makes from other tensors and stores all the same.
TABLES = ("relative_position_index", "attn_mask", "relative_coords_table")
SMALL = {
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 56}),
    "swinv2": ("swinv2_tiny_window8_256", {"img_size": 64}),
    "swin_mlp": ("swin_mlp_tiny_c24_patch4_window8_256", {"img_size": 64}),
}
kinds = pytest.mark.parametrize("kind", SMALL)


def small(kind: str, **kwargs: object) -> nn.Module:
    name, size = SMALL[kind]
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4), "window_size": 7 if kind == "swin" else 8}
    return timm.create_model(name, **{"num_classes": 7, **size, **sizes, **kwargs})


@pytest.mark.parametrize("variant", RECORDED)
def test_model_matches_the_release(variant: str) -> None:
    check_model("swin", variant)


@pytest.mark.parametrize("name", PARAMETERS)
def test_variant_has_the_size_of_its_checkpoint(name: str) -> None:
    with shapes_only():
        model = timm.create_model(NAMES[name])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@kinds
def test_released_names_load_strictly_and_come_back(kind: str) -> None:
    state = to_released(small(kind))
    assert {"head.weight", "layers.0.downsample.reduction.weight"} <= set(state)
    assert not [name for name in state if name.endswith(TABLES)]
    other = small(kind)
    nn.init.ones_(next(other.parameters()))
    stored = {"layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49)}
    loaded = load_released(other, {"model": {**state, **stored}})
    assert all(torch.equal(value, state[name]) for name, value in to_released(loaded).items())

    first = next(iter(state))
    with pytest.raises(UserError, match=re.escape(first)):
        load_released(small(kind), {name: value for name, value in state.items() if name != first})
    with pytest.raises(UserError, match="surplus"):
        load_released(small(kind), {**state, "surplus": torch.zeros(1)})
    with pytest.raises(UserError, match=r"head\.fc\.weight is"):
        load_released(small(kind, num_classes=5), state)


def test_a_file_of_another_depth_or_heads_is_told_in_a_sentence() -> None:
    for other in ({"depths": (2, 3)}, {"num_heads": (1, 2)}):
        with pytest.raises(UserError, match="build the"):
            load_released(small("swin"), to_released(small("swin", **other)))


def test_biases_of_another_window_are_resized() -> None:
    origin = small("swin")
    table = origin.layers[0].blocks[0].attn.relative_position_bias_table
    rows = torch.arange(13.0).repeat_interleave(13)
    with torch.no_grad():
        table.copy_(torch.stack([rows, torch.full((169,), 3.0)], dim=1))
    model = load_released(small("swin", img_size=112, window_size=14), to_released(origin))
    down, even = model.layers[0].blocks[0].attn.relative_position_bias_table.unflatten(0, (27, 27)).unbind(2)
    torch.testing.assert_close(even, torch.full((27, 27), 3.0))
    torch.testing.assert_close(down, down[:, :1].expand(-1, 27))
    assert (down[1:-1].diff(dim=0) > 0).all()
    assert model.eval()(images(1, 3, 112, 112)).shape == (1, 7)


def test_distances_that_another_window_has_scaled_are_refused() -> None:
    state, name = to_released(small("swinv2")), "layers.0.blocks.1.attn.relative_coords_table"
    own = small("swinv2").get_buffer(name)
    load_released(small("swinv2"), {**state, name: own})
    grown = small("swinv2", pretrained_window_sizes=(6, 6))
    with pytest.raises(UserError, match="windows of 6 x 6 tokens, the model with 8 x 8"):
        load_released(small("swinv2"), {**state, name: grown.get_buffer(name)})
    load_released(grown, {**state, name: grown.get_buffer(name)})
    load_released(small("swinv2", img_size=128, window_size=16), {**state, name: own})


@pytest.mark.parametrize(
    ("name", "among"),
    [
        ("swin_base_patch4_window12_384", ("swin_small_patch4_window7_224", "swin_base_patch4_window7_224")),
        ("swin_tiny_c24_patch4_window8_256", ("swin_tiny_patch4_window7_224",)),
        ("swinv2_tiny_window16_256", ("swinv2_tiny_window8_256",)),
    ],
)
def test_a_file_is_recognised_by_its_windows(name: str, among: tuple[str, ...]) -> None:
    with shapes_only():
        model = timm.create_model(name)
    buffers = {buffer: value for buffer, value in model.named_buffers() if buffer.endswith(TABLES)}
    some = tuple(model for model in PAPER.all_models if model.name in (*among, name))
    paper = replace(PAPER, models=some, reused_models=())
    assert identify(paper, {"model": {**to_released(model), **buffers}}, Path("swin.pth")) == name


def test_training_starts_from_a_file_of_other_classes_with_a_new_classifier(tmp_path: Path) -> None:
    file, origin = tmp_path / "swin.pth", small("swin", num_classes=9)
    nn.init.ones_(origin.head.fc.bias)
    torch.save({"model": to_released(origin)}, file)
    model = small("swin")
    first = model.head.fc.weight.clone()
    nn.init.zeros_(model.patch_embed.proj.weight)
    assert load_initial(model, file)
    assert torch.equal(model.head.fc.weight, first)
    assert torch.equal(model.patch_embed.proj.weight, origin.patch_embed.proj.weight)

    same = small("swin", num_classes=9)
    assert not load_initial(same, file)
    assert torch.equal(same.head.fc.bias, origin.head.fc.bias)
    with pytest.raises(UserError, match="build the"):
        load_initial(small("swin", depths=(2, 3)), file)


def test_names_of_timm_load_too() -> None:
    model = small("swin")
    assert "head.fc.weight" in load_released(small("swin"), model.state_dict()).state_dict()


@kinds
def test_model_behaves_as_timm_models_do(kind: str) -> None:
    model = small(kind, in_chans=1, drop_path_rate=0.1, drop_rate=0.1)
    size = SMALL[kind][1]["img_size"]
    model.set_grad_checkpointing()
    x = images(2, 1, size, size)
    model.train()(x).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x))
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
    maps = small(kind, features_only=True, out_indices=(0, 1))(images(1, 3, size, size))
    assert [tuple(each.shape) for each in maps] == [
        (1, size // 4, size // 4, 16),
        (1, size // 8, size // 8, 32),
    ]


def naive_mixing(block: nn.Module, tokens: Tensor) -> Tensor:
    """Windows one after the other, heads one after the other; what is outside of the picture is zero."""
    height, width, channels = tokens.shape
    window, shift, heads = block.window_size[0], block.shift_size[0], block.num_heads
    weight = block.spatial_mlp.weight[..., 0].unflatten(0, (heads, -1))
    bias = block.spatial_mlp.bias.unflatten(0, (heads, -1))
    result = torch.zeros_like(tokens)
    start = shift - window if shift else 0
    for top in range(start, height, window):
        for left in range(start, width, window):
            places = [(top + i, left + j) for i in range(window) for j in range(window)]
            inside = [0 <= i < height and 0 <= j < width for i, j in places]
            values = torch.stack(
                [tokens[p] if there else torch.zeros(channels) for p, there in zip(places, inside, strict=True)]
            )
            parts = values.chunk(heads, dim=1)
            mixed = torch.cat([weight[h] @ part + bias[h][:, None] for h, part in enumerate(parts)], dim=1)
            for place, there, value in zip(places, inside, mixed, strict=True):
                if there:
                    result[place] = value
    return result


@pytest.mark.parametrize("shift", [0, 3])
def test_swin_mlp_mixes_the_tokens_of_a_window(shift: int) -> None:
    model = create("swin_mlp_base_patch4_window7_224", img_size=64, embed_dim=8, depths=(2,), num_heads=(2,))
    block = model.layers[0].blocks[shift // 3]
    assert (block.window_size, block.shift_size) == ((7, 7), (shift, shift))
    tokens = images(1, 8, 16, 16)[0].permute(1, 2, 0)  # 16 is no multiple of 7
    with torch.no_grad():
        torch.testing.assert_close(block._attn(tokens[None])[0], naive_mixing(block, tokens), rtol=1e-4, atol=1e-5)


def test_swin_mlp_refuses_another_window() -> None:
    model = small("swin_mlp")
    with pytest.raises(UserError, match="8 x 8 tokens; build the model with img_size"):
        model.set_input_size((128, 128), window_size=4)
    model.set_input_size((128, 128), window_size=8)
    assert model.eval()(images(1, 3, 128, 128)).shape == (1, 7)


def test_unknown_and_pretrained_variants_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean swin_mlp_base"):
        create("swin_mlp_base_patch4_window7_225")
    with pytest.raises(UserError, match="--checkpoint"):
        create("swin_mlp_base_patch4_window7_224", pretrained=True)


def test_cyclic_shift_is_attention_in_shifted_windows() -> None:
    assert windows.cyclic_shift().verdict == "holds"
    block = SwinTransformerBlock(12, (14, 14), num_heads=2, window_size=7, shift_size=3).double()
    tokens = torch.randn(1, 14, 14, 12, dtype=torch.float64)
    expected = windows.shifted_attention(block, tokens)
    torch.testing.assert_close(block._attn(tokens), expected)
    block.attn_mask = None  # without the mask, tokens from opposite borders attend to each other
    assert (block._attn(tokens) - expected).abs().max() > 1e-6


def test_shift_connects_windows() -> None:
    finding = windows.reach(claims.network(shifted=True).layers[0], claims.network(shifted=False).layers[0])
    assert finding.verdict == "holds"
    assert "196 of 196" in finding.evidence
    assert "on 49 with plain" in finding.evidence


def test_contenders_differ_by_their_shift_alone() -> None:
    shifted, plain = (contender.build() for contender in claims.contenders())
    assert {n: p.shape for n, p in shifted.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    shifts = [[block.shift_size for stage in model.layers for block in stage.blocks] for model in (shifted, plain)]
    assert shifts == [[(0, 0), (3, 3), (0, 0), (0, 0)], [(0, 0)] * 4]
    for name, weight in shifted.named_parameters():
        if name.endswith("attn.proj.weight"):
            nn.init.normal_(weight)  # zero at first, so that windows make no difference
    plain.load_state_dict(shifted.state_dict())
    x = images(2, 3, 28, 28)
    assert not torch.allclose(shifted.eval()(x), plain.eval()(x))


def test_exponent_of_a_power_is_recovered() -> None:
    areas = [10.0, 100.0, 1000.0, 10000.0]
    assert complexity.exponent(areas, [3 * area**1.5 for area in areas]) == pytest.approx(1.5)


def test_layer_takes_the_published_multiply_adds() -> None:
    finding = complexity._formulas()
    assert (finding.verdict, finding.value) == ("holds", 0.0)


def test_global_attention_is_one_window() -> None:
    with shapes_only():
        everywhere = complexity.stages(224, everywhere=True)
    blocks = [block for stage in everywhere.layers for block in stage.blocks]
    assert {block.window_size for block in blocks[:2]} == {(56, 56)}
    assert not any(any(block.shift_size) for block in blocks)
    assert isinstance(everywhere, SwinTransformer)
    assert not isinstance(everywhere, SwinMLP)


def test_manifest_has_a_configuration_for_the_detectors_that_are_measured() -> None:
    printed = load_manifest(Path(claims.__file__).with_name("expected.csv"))
    configs = Path(claims.__file__).with_name("downstream")
    rows = printed[printed["dataset"].isin(("coco-val2017", "ade20k-val"))]
    tags = {name.partition(".")[2].removesuffix(".moby") for name in rows["model"] if not name.startswith("swin.")}
    without = {"mask-reppoints-v2_3x", "reppoints-v2_3x"}
    for tag in tags - without - {"", "moby"}:
        assert (configs / f"{tag}_coco.py").is_file(), tag
    assert without <= tags
