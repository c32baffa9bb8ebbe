"""Hire-MLP: parity with the released implementation, what its layers compute, and what its claims measure."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.shapes import shapes_only
from papers.hire_mlp import PAPER, claims, rearrangement
from papers.hire_mlp.mini import hire_mini
from papers.hire_mlp.model import HireMLPNet, create, rearrange, restore
from tests.parity import Form, check_model, images

#: Parameters of every released variant.
PARAMETERS = {
    "hire_mlp_tiny": 18041672,
    "hire_mlp_small": 33113848,
    "hire_mlp_base": 58226856,
    "hire_mlp_large": 95723944,
}


def small(**kwargs: object) -> HireMLPNet:
    torch.manual_seed(0)
    return timm.create_model("hire_mlp_tiny", **{"dims": (8, 12, 16, 24), "num_classes": 7, **kwargs})


def test_model_matches_the_release() -> None:
    norms = ("network.*.norm1.weight", "network.*.norm2.weight")
    calm = Form(vary=dict.fromkeys(norms, lambda weight: 0.25 * weight))
    check_model("hire-mlp", "hire_mlp_tiny", forms={"calm": calm})


def test_every_variant_has_the_size_of_its_checkpoint() -> None:
    assert {model.released for model in PAPER.models} == set(PARAMETERS)
    for name, count in PARAMETERS.items():
        with shapes_only():
            model = timm.create_model(name)
        assert sum(p.numel() for p in model.parameters()) == count, name


def test_shifts_are_the_released_ones() -> None:
    with shapes_only():
        model = timm.create_model("hire_mlp_base")
    shifts = [[block.attn.shift for block in model.network[2 * stage]] for stage in range(4)]
    assert shifts == [[0, 2] * 2, [0, 2] * 3, [0, 1, 2] * 8, [0, 1, 0]]


def test_rearrangement_lays_positions_of_a_region_beside_the_channels() -> None:
    x = torch.arange(10.0).view(1, 2, 5, 1)
    rows = rearrange(x, 2, region=3, shift=1)  # 4 0 1 | 2 3 and, continued, 4
    assert rows[0, :, :, 0].tolist() == [[4, 2], [0, 3], [1, 4], [9, 7], [5, 8], [6, 9]]
    assert torch.equal(rearrange(x.mT, 3, 3, 1), rows.mT)
    assert torch.equal(restore(rows, 2, 3, 1, size=5), x)


def test_permutation_finding_notices_a_lost_position(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rearrangement.permutation().verdict == "holds"
    monkeypatch.setattr(rearrangement, "rearrange", lambda x, axis, *rest: rearrange(x, axis, *rest).clamp(min=1))
    assert rearrangement.permutation().verdict == "does not hold"


def test_reach_findings_tell_shifts_apart() -> None:
    assert [finding.verdict for finding in rearrangement.reach()] == ["holds"] * 3
    # Rows and columns are shifted apart from each other: the centre's own square and those beside it.
    cross = [[False, True, False], [True, True, True], [False, True, False]]
    assert rearrangement.reached((2, 0)).tolist() == cross
    assert rearrangement.reached((0,)).tolist() == [[False] * 3, [False, True, False], [False] * 3]


def test_model_takes_images_of_any_size() -> None:
    model = small().eval()
    with torch.no_grad():
        for height, width in ((8, 8), (33, 50), (64, 96)):
            assert model(images(1, 3, height, width)).shape == (1, 7)


def test_released_names_load_strictly_and_come_back() -> None:
    state = to_released(small())
    assert all(torch.equal(value, state[name]) for name, value in to_released(load_released(small(), state)).items())
    with pytest.raises(UserError, match="surplus"):
        load_released(small(), {**state, "surplus": torch.zeros(1)})
    with pytest.raises(UserError, match=r"head\.bias"):
        load_released(small(), {name: value for name, value in state.items() if name != "head.bias"})


def test_model_behaves_as_timm_models_do() -> None:
    model = small(in_chans=1, drop_path_rate=0.1, drop_rate=0.1)
    model.set_grad_checkpointing()
    x = images(2, 1, 64, 96)
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
        model.reset_classifier(0, "")
        assert model(x).shape == features.shape == (2, 24, 2, 3)
    with pytest.raises(UserError, match="pools by 'avg'"):
        model.reset_classifier(5, "max")
    torch.jit.script(small(features_only=False))


def test_features_are_those_of_the_stages() -> None:
    x, pyramid = images(2, 3, 64, 64), small(features_only=True, out_indices=(0, 2, 3), map_norms=True)
    assert pyramid.feature_info.channels() == [8, 16, 24]
    assert [tuple(f.shape) for f in pyramid(x)] == [(2, 8, 16, 16), (2, 16, 4, 4), (2, 24, 2, 2)]
    model = small().eval()
    with torch.no_grad():
        final, features = model.forward_intermediates(x, norm=True)
        torch.testing.assert_close(final, model.forward_features(x))
        torch.testing.assert_close(features[-1], final)
        early = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early[0], features[1])


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="Nothing is downloaded"):
        create("hire_mlp_tiny", pretrained=True)
    with pytest.raises(UserError, match="Did you mean hire_mlp_tiny"):
        create("hire_mlp_tin")


def test_contenders_differ_in_rearrangement_alone() -> None:
    models = {each.name: each.build() for each in claims.contenders() if each.name.startswith("hire_mini")}
    mixers = {name: [m.attn for m in model.modules() if hasattr(m, "attn")] for name, model in models.items()}
    assert {name: [(m.region, m.shift) for m in found] for name, found in mixers.items()} == {
        claims.MINI: [(4, 0), (4, 2), (2, 0), (2, 1)],
        claims.NO_INNER: [(1, 0), (1, 2), (1, 0), (1, 1)],
        claims.NO_CROSS: [(4, 0), (4, 0), (2, 0), (2, 0)],
        claims.SHIFT_1: [(4, 0), (4, 1), (2, 0), (2, 1)],
    }
    assert hire_mini()(images(2, 3, 28, 28)).shape == (2, 10)
    assert all(not p.any() for m in mixers[claims.MINI] for p in m.proj.parameters())
    assert isinstance(models[claims.MINI].patch_embed, nn.Sequential)
