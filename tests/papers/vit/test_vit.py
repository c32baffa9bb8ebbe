"""ViT: released files through timm's networks, positions at other sizes, and what a network knows about the grid."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import HybridEmbed, _resnetv2
from torch import nn

from common import bench
from common.checkpoints import load_initial, load_released, read, to_released
from common.errors import UserError
from common.robustness.full_scale_measures import identify
from common.shapes import shapes_only
from common.training.recipe import load_recipe
from papers.vit import PAPER, claims, grid, inside
from papers.vit import model as names
from papers.vit.training import Dropout, hooks
from tests.parity import images

RECIPE = Path(claims.__file__).with_name("recipe.toml")
NAME = "vit_base_patch16_224"


def small(**changes: Any) -> Any:
    """ViT-B/16 with two narrow blocks, for images of 64 pixels and 7 classes."""
    sizes = {"num_classes": 7, "img_size": 64, "depth": 2, "embed_dim": 24, "num_heads": 3}
    return randomised(timm.create_model(NAME, **{**sizes, **changes}))


def hybrid(layers: tuple[int, ...]) -> Any:
    """A small hybrid: so many blocks in each stage of its ResNet, or its stem alone."""
    made = VisionTransformer(
        img_size=64,
        patch_size=1 if layers else 4,
        num_classes=7,
        depth=1,
        embed_dim=24,
        num_heads=3,
        embed_layer=partial(HybridEmbed, backbone=_resnetv2(layers)),
    )
    return randomised(made)


def randomised(model: Any) -> Any:
    """``model`` with no two tensors alike."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


def saved(path: Path, state: dict[str, torch.Tensor], prefix: str = "", **more: np.ndarray) -> Path:
    """A file as the release writes it."""
    np.savez(path, **{f"{prefix}{name}": value.detach().numpy() for name, value in state.items()}, **more)  # type: ignore[arg-type]
    return path


def same(model: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# -- released files


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_a_released_file_loads_strictly_as_timm_converts_it(prefix: str, tmp_path: Path) -> None:
    origin = small()
    state = to_released(origin)
    attention = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    assert state[f"{attention}/query/kernel"].shape == (24, 3, 8)
    assert state[f"{attention}/out/kernel"].shape == (3, 8, 24)
    assert state["embedding/kernel"].shape == (16, 16, 3, 24)
    assert {"cls", "Transformer/posembed_input/pos_embedding", "Transformer/encoder_norm/scale"} <= set(state)
    file = saved(tmp_path / "ViT.npz", state, prefix)
    theirs = small(weight_init="skip")
    nn.init.zeros_(theirs.head.weight)
    theirs.load_pretrained(str(file))
    ours = load_released(timm.create_model(NAME, num_classes=7, img_size=64, depth=2, embed_dim=24, num_heads=3), file)
    assert same(ours, theirs)
    assert same(ours, origin)
    x = images(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(x), origin(x))


@pytest.mark.parametrize("layers", [(2, 1), ()])
def test_hybrids_are_converted_as_timm_does(layers: tuple[int, ...], tmp_path: Path) -> None:
    origin = hybrid(layers)
    state = names.released_state_dict(origin.state_dict(), origin)
    assert ("block1/unit2/conv3/kernel" in state and "block2/unit1/gn_proj/scale" in state) == bool(layers)
    file = {key: value[None, None, None] if "gn" in key else value for key, value in state.items()}
    theirs = hybrid(layers)
    nn.init.zeros_(theirs.head.weight)
    theirs.load_pretrained(str(saved(tmp_path / "R+ViT.npz", file)))
    assert same(theirs, origin)
    converted = names.checkpoint_filter_fn(dict(read(tmp_path / "R+ViT.npz")), theirs)
    assert set(converted) == set(origin.state_dict())
    assert all(torch.equal(value, converted[name]) for name, value in origin.state_dict().items())


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    state = to_released(small())
    lacking = {name: value for name, value in state.items() if name != "Transformer/encoderblock_1/LayerNorm_2/bias"}
    with pytest.raises(UserError, match=r"blocks\.1\.norm2\.bias"):
        load_released(small(), saved(tmp_path / "a.npz", lacking))
    with pytest.raises(UserError, match="surplus"):
        load_released(small(), saved(tmp_path / "b.npz", state, surplus=np.zeros(1)))
    with pytest.raises(UserError, match=r"head\.(weight|bias).*build the model with the file's sizes"):
        load_released(small(num_classes=9), saved(tmp_path / "c.npz", state))
    with pytest.raises(UserError, match="encoderblock_1"):
        load_released(small(depth=1), saved(tmp_path / "d.npz", state))


def test_files_of_numpy_are_read_without_running_code(tmp_path: Path) -> None:
    objects, half, damaged = (tmp_path / f"{name}.npz" for name in ("objects", "bfloat16", "damaged"))
    np.savez(objects, a=np.array([{}], dtype=object))
    np.savez(half, a=np.zeros(2, dtype="V2"))
    with pytest.raises(UserError, match="Python objects"):
        read(objects)
    with pytest.raises(UserError, match="float32"):
        read(half)
    content = bytearray(saved(damaged, to_released(small())).read_bytes())
    content[2000] ^= 0xFF
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read(damaged)


def test_fine_tuning_starts_from_a_file_of_pre_training(tmp_path: Path) -> None:
    origin = small(num_classes=11)
    layer = {"pre_logits/kernel": torch.zeros(24, 24), "pre_logits/bias": torch.zeros(24)}
    file = saved(tmp_path / "21k.npz", {**to_released(origin), **layer})
    model = small(img_size=96)
    notes = load_initial(model, file)
    assert any("classifier for 7 starts anew" in note for note in notes)
    assert torch.equal(model.blocks[1].mlp.fc2.weight, origin.blocks[1].mlp.fc2.weight)
    positions = origin.pos_embed.detach()
    zoomed = scipy.ndimage.zoom(positions[0, 1:].reshape(4, 4, 24).numpy(), (1.5, 1.5, 1), order=1)
    np.testing.assert_allclose(model.pos_embed[0, 1:].detach(), zoomed.reshape(36, 24), atol=1e-5)
    assert torch.equal(model.pos_embed[:, 0], positions[:, 0])
    without = small(num_classes=0)
    load_released(without, file)
    assert torch.equal(without.norm.weight, origin.norm.weight)
    with pytest.raises(UserError, match="pre_logits"):  # timm's networks have no such layer
        load_released(small(num_classes=11), file)
    with pytest.raises(UserError, match="square grid"):
        names.resize_positions(torch.zeros(1, 18, 24), (3, 3))


def test_names_of_timm_stay() -> None:
    origin, model = small(), small()
    nn.init.zeros_(model.head.weight)
    assert same(load_released(model, origin.state_dict()), origin)


def test_a_file_is_recognised() -> None:
    with shapes_only():
        state = to_released(timm.create_model("vit_base_patch32_384"))
    among = replace(PAPER, reused_models=tuple(m for m in PAPER.reused_models if m.name.startswith("vit_base_patch")))
    assert identify(among, state, Path("ViT.npz")) == "vit_base_patch32_384"


# -- the grid


def test_positions_are_all_that_a_vit_knows_about_the_grid() -> None:
    assert grid.permutation().verdict == "holds"
    x = torch.arange(16.0).view(1, 1, 4, 4)
    moved = grid.permuted(x, torch.tensor([3, 1, 2, 0]), 2)
    assert torch.equal(moved[0, 0, :2, :2], x[0, 0, 2:, 2:])
    assert torch.equal(moved[0, 0, :2, 2:], x[0, 0, :2, 2:])


def test_positions_for_larger_images() -> None:
    model: Any = bench.hosts.vit_mini().eval()
    nn.init.normal_(model.pos_embed)
    made: dict[str, Any] = {form: grid.with_positions(model, form) for form in grid.FORMS}
    assert model.pos_embed.shape == (1, 50, 48)
    for large in made.values():
        assert large.pos_embed.shape == (1, 197, 48)
        assert torch.equal(large.pos_embed[:, 0], model.pos_embed[:, 0])
        assert large(images(1, 3, 56, 56)).shape == (1, 10)
    assert torch.allclose(made["mean_position"].pos_embed[0, 1:], model.pos_embed[0, 1:].mean(dim=0))
    corners = made["grid"].pos_embed[0, 1:].view(14, 14, 48)[::13, ::13]
    assert torch.allclose(corners, model.pos_embed[0, 1:].view(7, 7, 48)[::6, ::6], atol=1e-6)
    same_size: Any = grid.with_positions(model, "grid", bench.hosts.SIDE)
    torch.testing.assert_close(same_size.pos_embed, model.pos_embed)


def test_nearness_tells_a_grid_from_noise() -> None:
    model: Any = bench.hosts.vit_mini()
    far = inside.distances(model)
    assert far[0, 1] == 4
    assert far[0, 8] == pytest.approx(4 * 2**0.5)
    nn.init.normal_(model.pos_embed)
    assert abs(inside.nearness(model)) < 0.2
    frequencies = torch.randn(24, 2, generator=torch.Generator().manual_seed(0)) * 0.3
    places = torch.cartesian_prod(torch.arange(7.0), torch.arange(7.0)) @ frequencies.T
    with torch.no_grad():
        model.pos_embed[0, 1:] = torch.cat([places.sin(), places.cos()], dim=1)
    assert inside.nearness(model) > 0.8
    assert "<image" in inside.position_picture(model, 0).svg


def test_attention_distance_of_uniform_attention_and_of_one_that_looks_at_itself() -> None:
    model: Any = bench.hosts.vit_mini(norm_layer=nn.Identity).eval()
    x = images(2, 3, 28, 28)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.zero_()
            block.attn.qkv.bias.zero_()
        uniform = inside.attention_distances(model, x)
        assert [values.shape for values in uniform] == [(2, 3)] * 3
        mean = inside.distances(model).mean()
        assert all(torch.allclose(values, mean.expand(2, 3)) for values in uniform)
        model.blocks[0].attn.qkv.weight[:96] = 1e4 * torch.eye(48).repeat(2, 1)
        model.pos_embed[0, 1:] = torch.nn.functional.normalize(torch.randn(49, 3, 16), dim=2).flatten(1) * 100
        assert (inside.attention_distances(model, x)[0] < 0.1).all()


# -- training and claims


def test_dropout_is_where_the_release_has_it() -> None:
    model = small()
    Dropout(0.1).on_model(None, model)  # type: ignore[arg-type]
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert rates.pop("attn_drop", 0.0) == 0.0
    dropped = {name for name, rate in rates.items() if rate == 0.1}
    places = ("attn.proj_drop", "mlp.drop1", "mlp.drop2")
    assert dropped == {"pos_drop", *(f"blocks.{block}.{place}" for block in range(2) for place in places)}
    (hook,) = hooks(load_recipe(RECIPE, "finetune_384", model="vit_large_patch16_384"))
    assert isinstance(hook, Dropout)
    assert hook.rate == 0.1
    assert not hooks(load_recipe(RECIPE, "cifar_10", model="vit_base_patch16_384"))
    with pytest.raises(UserError, match="dropout"):
        hooks(load_recipe(RECIPE, "finetune_384", changes=("method.dropout=1.5",)))


def test_the_lead_is_that_of_networks_trained_on_as_many_images() -> None:
    generator = np.random.default_rng(0)
    rates = {claims.FEW: (0.7, 0.8), claims.SOME: (0.8, 0.85), claims.MANY: (0.87, 0.89)}
    values: dict[tuple[str, int], Any] = {
        (claims.name_of(host, count), seed): {"top1": generator.random((20, 500)) < rates[count][place]}
        for count in rates
        for place, host in enumerate((claims.VIT, claims.CONVNET))
        for seed in (0, 1)
    }
    lead = claims.leads(bench.Scores(values))
    found = [lead.mean(f"images_{count}", "convnet_lead") for count in rates]
    assert found == pytest.approx([10, 5, 2], abs=1)
    assert set(dict.fromkeys(name for name, _ in values)) == {one.name for one in claims.contenders()}
