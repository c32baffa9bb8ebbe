"""RegionViT: parity with the released implementation, what its layers compute, and what its claims measure."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.shapes import shapes_only
from papers.regionvit import PAPER, claims, regions
from papers.regionvit.mini import regionvit_mini
from papers.regionvit.model import RegionViT, allowed_keys, as_maps, by_region, create, distance_index
from tests.parity import Form, check_model, images

#: Norms of maps, which the plain fill leaves near zero, so that outputs hardly depend on the image.
MAP_NORMS = ("patch_embed.proj.1.weight", "patch_embed.proj.4.weight", "layers.*.block.0.proj.0.weight")
#: Parameters of every released variant.
PARAMETERS = {
    "regionvit_tiny": 13842676,
    "regionvit_small": 30586618,
    "regionvit_medium": 41215906,
    "regionvit_base": 72747232,
    "regionvit_small_w14": 31354714,
    "regionvit_small_w14_peg": 31367674,
    "regionvit_base_w14": 73825120,
    "regionvit_base_w14_peg": 73842400,
}


def small(**kwargs: object) -> RegionViT:
    """Regions of 12 pixels."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "head_dim": 8, "depths": (1, 1, 2, 1), "window_size": 3, "num_classes": 7}
    return timm.create_model("regionvit_tiny", **{**sizes, **kwargs})


def patterned(model: nn.Module, x: Tensor) -> Tensor:
    """The model on noise with a pattern that regional tokens can see."""
    pattern = images(2, 3, 7, 7, seed=5).repeat_interleave(32, 2).repeat_interleave(32, 3)
    return model(3 * x + 3 * pattern.to(x.device))


@pytest.mark.parametrize("variant", ["regionvit_tiny", "regionvit_small_w14_peg"])
def test_model_matches_the_release(variant: str) -> None:
    strong = Form(vary=dict.fromkeys(MAP_NORMS, lambda weight: weight + 1), call=patterned)
    check_model("regionvit", variant, forms={"strong": strong})


def test_every_variant_has_the_size_of_its_checkpoint() -> None:
    assert {model.released for model in PAPER.models} == set(PARAMETERS)
    for name, count in PARAMETERS.items():
        with shapes_only():
            model = timm.create_model(name)
        assert sum(p.numel() for p in model.parameters()) == count, name


def test_released_names_load_strictly_and_come_back() -> None:
    state = to_released(small(peg=True))
    assert state["layers.1.block.0.proj_cls.0.weight"].shape == (1, 16, 1, 1)
    other = small(peg=True)
    nn.init.ones_(other.layers[2].peg.weight)
    assert all(torch.equal(value, state[name]) for name, value in to_released(load_released(other, state)).items())
    # What regional and local tokens share is in released files twice, and may be there once.
    load_released(other, {name: value for name, value in state.items() if ".proj_cls." not in name})
    with pytest.raises(UserError, match="halves regional and local tokens alike"):
        load_released(other, {**state, "layers.1.block.0.proj_cls.2.bias": torch.ones(32)})
    with pytest.raises(UserError, match=r"layers\.1\.block\.0\.proj\.2\.bias"):
        load_released(
            other, {name: value for name, value in state.items() if not name.endswith(".block.0.proj.2.bias")}
        )
    with pytest.raises(UserError, match=r"layers\.0\.peg\.weight"):
        load_released(small(), state)


def test_a_detectors_backbone_begins_with_a_classifiers_weights() -> None:
    model = load_released(small(map_norms=True), to_released(small()))
    assert torch.equal(model.norm2.weight, torch.ones(64))
    state = to_released(model)
    assert state["norm0.bias"].shape == (1, 16, 1, 1)
    with pytest.raises(UserError, match=r"norm3\.bias"):
        load_released(model, {name: value for name, value in state.items() if name != "norm3.bias"})


def test_regions_and_maps_are_the_same_tokens() -> None:
    regional, local = torch.randn(2, 5, 2, 3), torch.randn(2, 5, 7, 10)
    x = by_region(regional, local, window_size=4)
    assert x.shape == (12, 17, 5)
    assert torch.equal(x[6 + 4, 0], regional[1, :, 1, 1])
    assert torch.equal(x[6 + 4, 1 + 4 * 2 + 3], local[1, :, 4 + 2, 4 + 3])
    assert not x[5, 1 + 3].any()
    back = as_maps(x, (2, 3), 4, (7, 10))
    assert torch.equal(back[0], regional)
    assert torch.equal(back[1], local)


def test_padding_is_no_key_but_in_the_corner() -> None:
    allowed = allowed_keys((2, 2), window_size=2, size=(3, 3)).view(4, 5, 5)
    assert allowed[0].all()
    real_columns, real_rows = torch.tensor([1, 1, 0, 1, 0]).bool(), torch.tensor([1, 1, 1, 0, 0]).bool()
    for region, real in ((1, real_columns), (2, real_rows)):
        assert torch.equal(allowed[region][real], real.expand(int(real.sum()), 5))
    assert torch.equal(allowed[3, 0], real_columns | real_rows)
    assert torch.equal(allowed[3, 2], real_rows)


def test_table_has_an_entry_for_each_distance() -> None:
    index = distance_index(3)
    assert len(index.unique()) == 25
    assert int(index[0, 0]) == 1 * 5 + 1  # a distance of none stands behind -1 in both directions
    assert int(index[8, 0]) == 4 * 5 + 4  # -2 wraps around to the end
    assert torch.equal(index[0, 4], index[4, 8])


def test_model_behaves_as_timm_models_do() -> None:
    model = small(in_chans=1, drop_path_rate=0.1, drop_rate=0.1, peg=True)
    model.set_grad_checkpointing()
    x = images(2, 1, 48, 50)
    model.train()(x).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)
        features = model.forward_features(x)
        assert features.shape == (2, 1, 128)
        torch.testing.assert_close(model.forward_head(features), model(x))
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)
        model.reset_classifier(0, "")
        assert torch.equal(model(x), features)
        half = model.bfloat16()(x.bfloat16())
        assert half.dtype == torch.bfloat16
        assert half.isfinite().all()
    assert model.no_weight_decay() == set()
    groups = param_groups_layer_decay(small(), layer_decay=0.5)
    assert len({group["lr_scale"] for group in groups}) > 5


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for enable in (False, True):
        model = small()
        model.set_grad_checkpointing(enable)
        model.train()(images(1, 3, 48, 48)).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_features_are_the_maps_of_local_tokens() -> None:
    x, model = images(2, 3, 96, 96), small(features_only=True, out_indices=(0, 2, 3))
    assert model.feature_info.channels() == [16, 64, 128]
    assert model.feature_info.reduction() == [4, 16, 32]
    assert [tuple(f.shape) for f in model(x)] == [(2, 16, 24, 24), (2, 64, 6, 6), (2, 128, 3, 3)]
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
        ({"stem": "2conv"}, "no stem '2conv'"),
        ({"embed_dim": 20}, "use a multiple of a head's 8 channels"),
    ],
)
def test_mistakes_are_named(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**kwargs)
    with pytest.raises(UserError, match="Did you mean regionvit_tiny"):
        create("regionvit_tin")


def test_one_region_is_a_transformer_block_and_four_are_none() -> None:
    assert regions.one_region().verdict == "holds"


def test_regional_attention_alone_connects_regions() -> None:
    assert [finding.verdict for finding in regions.reach()] == ["holds", "holds"]
    assert regions.reached(1) == (9, 1)
    assert regions.reached(2) == (9, 9)
    assert regions.reached(3, regional_attention=False) == (1, 1)


def test_cost_is_that_of_the_closed_form() -> None:
    assert regions.attention_cost(2, window_size=3) == regions.closed_form(4, regions.CHANNELS, 3)
    assert regions.closed_form(4, 96, 3) == 2 * 96 * (16 + 4 * 100)
    assert regions.global_cost(49) == 2 * 96 * 49**2


def test_minis_differ_by_what_they_leave_out_alone() -> None:
    full, local, without = (dict(each.build().named_parameters()) for each in claims.contenders())
    assert {name for name in full if name not in local} == {
        f"layers.{stage}.block.{block}.norm0.{kind}"
        for stage, block in ((0, 1), (1, 1), (1, 2))
        for kind in ("weight", "bias")
    }
    assert {name.rpartition(".")[2] for name in full if name not in without} == {"rel_pos"}
    assert regionvit_mini()(torch.rand(2, 3, 28, 28)).shape == (2, 10)
