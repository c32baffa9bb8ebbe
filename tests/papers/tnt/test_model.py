"""TNT: timm's models against the release, and what the inner transformer sees, adds and costs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.models.tnt import TNT
from torch import nn

from common import bench, figures
from common.bench import hosts
from common.checkpoints import load_initial, load_released, to_released
from common.errors import UserError
from common.profiling import flops
from papers.tnt import claims, features, words
from papers.tnt.mini import tnt_mini
from tests.parity import check_model, images

SMALL = {"img_size": 32, "embed_dim": 48, "inner_dim": 8, "depth": 2, "num_heads_outer": 4, "num_classes": 7}


def small(**kwargs: object) -> TNT:
    torch.manual_seed(0)
    return timm.create_model("tnt_s_patch16_224", **{**SMALL, **kwargs})


def test_model_matches_the_release() -> None:
    check_model("tnt", "tnt_s", unread=("outer_tokens",))


def test_released_names_load_strictly_and_come_back() -> None:
    state = to_released(small())
    assert {"outer_pos", "inner_pos", "blocks.0.inner_attn.qk.weight"} <= set(state)
    assert state["inner_pos"].shape == (1, 16, 8)
    state["inner_pos"] = torch.randn(1, 16, 8)
    loaded = load_released(small(), {"state_dict": state})
    assert all(torch.equal(value, state[name]) for name, value in to_released(loaded).items())
    # Words are numbered row by row.
    assert torch.equal(loaded.pixel_pos[0, :, 1, 2], state["inner_pos"][0, 6])

    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc2\.bias"):
        load_released(small(), {name: value for name, value in state.items() if name != "blocks.1.outer_mlp.fc2.bias"})
    with pytest.raises(UserError, match="surplus"):
        load_released(small(), {**state, "surplus": torch.zeros(1)})
    with pytest.raises(UserError, match="outer_tokens"):
        load_released(small(), {**state, "outer_tokens": torch.zeros(1, 5, 48)})
    with pytest.raises(UserError, match=r"head\.weight is"):
        load_released(small(num_classes=5), state)


def test_names_of_timm_load_too() -> None:
    for name in ("tnt_s_patch16_224", "tnt_s_legacy_patch16_224"):
        model, other = (timm.create_model(name, **SMALL) for _ in range(2))
        assert torch.equal(load_released(other, model.state_dict()).pixel_pos, model.pixel_pos)
        assert torch.equal(load_released(other, to_released(model)).pixel_pos, model.pixel_pos)


def test_positions_of_patches_are_resized_to_other_sizes(tmp_path: Path) -> None:
    origin = small()
    with torch.no_grad():
        origin.patch_pos.copy_(torch.arange(48.0).expand(1, 5, 48))
    torch.save(to_released(origin), tmp_path / "small.pth")
    model = small(img_size=64).eval()
    (note,) = load_initial(model, tmp_path / "small.pth")
    assert "patch_pos [1, 5, 48] to [1, 17, 48]" in note
    torch.testing.assert_close(model.patch_pos, torch.arange(48.0).expand(1, 17, 48))
    assert model(images(1, 3, 64, 64)).shape == (1, 7)


def test_training_starts_from_a_file_of_other_classes_with_a_new_classifier(tmp_path: object) -> None:
    file, origin = tmp_path / "tnt.pth", small(num_classes=9)
    nn.init.ones_(origin.norm.bias)
    torch.save(to_released(origin), file)
    model = small()
    first = model.head.weight.clone()
    assert load_initial(model, file)
    assert torch.equal(model.head.weight, first)
    assert torch.equal(model.norm.bias, origin.norm.bias)


def test_words_see_their_own_patch_and_the_earlier_release_sees_more() -> None:
    own, legacy = words.sentences()
    assert (own.verdict, legacy.verdict) == ("holds", "holds")
    assert words.pixels_seen(legacy=False) == 256
    assert words.pixels_seen(legacy=True) == 361


def test_without_words_it_is_a_vision_transformer() -> None:
    assert words.without_words().verdict == "holds"
    model = words.small()
    words.silence(model)
    with torch.no_grad():
        model.blocks[1].norm2_proj.bias[0] = 0.1
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert (model(x) - words.plain(model)(x)).abs().max() > 1e-4


def test_cost_is_that_of_the_closed_form() -> None:
    assert words.cost().verdict == "holds"
    inner, outer = words.closed_form(n=4, m=16, c=8, d=48)
    assert inner == 4 * 16 * (12 * 64 + 2 * 16 * 8 + 8 * 48)
    assert outer == 5 * 12 * 48**2 + 2 * 25 * 48


def test_minis_differ_by_the_positions_of_their_words_alone() -> None:
    torch.manual_seed(0)
    full = tnt_mini()
    torch.manual_seed(0)
    without = tnt_mini(positions=False)
    different = [
        name for name, value in full.state_dict().items() if not torch.equal(value, without.state_dict()[name])
    ]
    assert different == ["pixel_pos"]
    without(torch.rand(2, 3, 28, 28)).sum().backward()
    assert without.pixel_pos.grad is None
    assert not without.pixel_pos.any()


def test_mini_costs_what_the_vision_transformer_costs() -> None:
    ours, host = (flops(model, (3, 28, 28)).total for model in (tnt_mini(), hosts.vit_mini()))
    assert abs(ours / host - 1) < 0.06


def test_words_of_the_mini_lie_where_they_come_from() -> None:
    embed = tnt_mini().pixel_embed
    images = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        grid = embed.proj(images)
        words_of_patches = embed(images, torch.zeros(1, 8, 2, 2))
    assert torch.equal(words_of_patches[49 + 7 * 2 + 3, 1], grid[1, :, 4, 7])
    assert torch.equal(features._grid(words_of_patches, 2)[1, 14 * 4 + 7], grid[1, :, 4, 7])


def test_principal_component_is_the_direction_of_most_variance() -> None:
    values = torch.tensor([0.0, 0.0, 0.0, 8.0])
    tokens = torch.stack([values, torch.tensor([0.1, -0.1, 0.1, -0.1])], dim=1)
    component = features.principal(tokens)
    assert component.shape == (2, 2)
    assert component[1, 1] == component.max()
    torch.testing.assert_close(component[1, 1], torch.tensor(6.0), rtol=0.01, atol=0)


def test_picture_shows_patches_and_words_after_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(bench, "trained", lambda run, contender, seed: contender.build().eval())
    monkeypatch.setattr(figures, "to_svg", lambda figure: drawn.append(sum(len(a.images) for a in figure.axes)) or "")
    run = SimpleNamespace(seeds=lambda: range(2), settings=SimpleNamespace(quick=True))
    assert features.picture(run, claims.contenders()[:2]).name == "features"
    assert drawn == [len(features.SHOWN) * (1 + 3 * 3)]
