"""PosMLP: parity with the released implementation, what its encodings compute, and what its claims measure."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.shapes import shapes_only
from papers.posmlp import PAPER, claims, mixing
from papers.posmlp.mini import looks, looks_picture, posmlp_mini
from papers.posmlp.model import LearnedEncoding, PosGU, QuadraticEncoding, create, relative_positions
from tests.parity import check_model, images

#: Parameters of every released variant.
PARAMETERS = {
    "posmlp_t": 20925538,
    "posmlp_s": 36816450,
    "posmlp_3t14": 18759688,
    "posmlp_t_lrpe": 21397554,
    "posmlp_t_lrpe_weight": 22247508,
}


def small(**kwargs: Any) -> Any:
    settings = {"dims": (8, 16), "depths": (1, 1), "windows": (4, 2), "groups": (2, 4), "mlp_ratios": (2, 2)}
    torch.manual_seed(0)
    return timm.create_model("posmlp_t", **{**settings, "img_size": 32, "num_classes": 7, **kwargs})


def test_model_matches_the_release() -> None:
    check_model("posmlp", "posmlp_t")


def test_every_variant_has_the_size_of_its_checkpoint() -> None:
    assert {model.released for model in PAPER.all_models if model.released} == set(PARAMETERS)
    for name, count in PARAMETERS.items():
        with shapes_only():
            model = timm.create_model(name)
        assert sum(p.numel() for p in model.parameters()) == count, name


def test_relative_positions_count_to_the_right_and_upwards() -> None:
    x, y = relative_positions(3)
    assert (x[4] == torch.tensor([-1, 0, 1] * 3)).all()
    assert y[4].tolist() == [1, 1, 1, 0, 0, 0, -1, -1, -1]
    table = LearnedEncoding(2, 1).window_relative_position_index
    assert table.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_quadratic_weights_are_a_normal_distribution_around_the_centre() -> None:
    encoding = QuadraticEncoding(5, 1).double()
    with torch.no_grad():
        encoding.attention_centers.copy_(torch.tensor([[2.0, 1.0]]))
        encoding.attention_spreads.copy_(torch.tensor([[[1.5, 0.2], [0.0, 0.8]]]))
    look = encoding()[0, 12].view(5, 5)
    assert look.argmax() == 1 * 5 + 4  # two to the right of the middle and one up
    spread = torch.tensor([[1.5, 0.2], [0.0, 0.8]], dtype=torch.float64)
    one_left_one_up = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    log_ratio = -0.5 * one_left_one_up @ (spread @ spread.T) @ one_left_one_up
    torch.testing.assert_close((look[0, 3] / look[1, 4]).log(), log_ratio)


def test_gate_mixes_each_group_of_channels_by_its_own_weights() -> None:
    torch.manual_seed(0)
    gate = PosGU(2, 3, "learned", token_weights=True)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    x, weights = torch.randn(2, 5, 4, 12), gate.weights()
    out = gate(x)
    for channel in range(6):
        mixed = x[..., channel] @ weights[channel % 3].T + gate.pos.token_proj_n_bias[0, :, 0]
        torch.testing.assert_close(out[..., channel], mixed * x[..., 6 + channel])


def test_windows_are_mixed_apart_from_each_other() -> None:
    level = small().eval().levels[0]
    x = torch.randn(1, 8, 8, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(level(x)[0, :, 5, 6].sum(), x)
    reached = gradient[0].abs().amax(0) > 0
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[4:, 4:8] = True
    assert torch.equal(reached, expected)


def test_growth_finding_notices_a_wrong_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.verdict for finding in mixing.growth()] == ["holds"]
    monkeypatch.setitem(mixing.ENCODINGS, "quadratic", LearnedEncoding)
    assert [finding.verdict for finding in mixing.growth()] == ["does not hold"]


def test_relative_findings_notice_absolute_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.verdict for finding in (*mixing.relative(), *mixing.mirrored())] == ["holds", "holds"]
    absolute = lambda self: self.window_relative_position_bias_table.mT[:, None, :25].expand(-1, 25, -1)  # noqa: E731
    monkeypatch.setattr(LearnedEncoding, "forward", absolute)
    assert [finding.verdict for finding in mixing.relative()] == ["does not hold"]


def test_released_names_load_strictly_and_come_back() -> None:
    for encoding in ({}, {"encoding": "learned", "token_weights": True}):
        state = to_released(small(**encoding))
        fixed = [name for name in state if name.endswith(("rel_indices", "position_index"))]
        without = {name: value for name, value in state.items() if name not in fixed}
        back = to_released(load_released(small(**encoding), without))
        assert fixed
        assert all(torch.equal(value, state[name]) for name, value in back.items())
        # What a file has is used.
        other = {**state, fixed[0]: torch.zeros_like(state[fixed[0]])}
        assert not to_released(load_released(small(**encoding), other))[fixed[0]].any()
        with pytest.raises(UserError, match=r"head\.bias"):
            load_released(small(**encoding), {name: value for name, value in state.items() if name != "head.bias"})


def test_model_behaves_as_timm_models_do() -> None:
    model: Any = small(in_chans=1, drop_path_rate=0.1, drop_rate=0.1)
    model.set_grad_checkpointing()
    x = images(2, 1, 32, 64)
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
        assert model(x).shape == features.shape == (2, 16, 4, 8)
    with pytest.raises(UserError, match="pools by 'avg'"):
        model.reset_classifier(5, "max")


def test_features_are_those_of_the_levels() -> None:
    x, pyramid = images(2, 3, 32, 32), small(features_only=True)
    assert pyramid.feature_info.channels() == [8, 16]
    assert [tuple(f.shape) for f in pyramid(x)] == [(2, 8, 8, 8), (2, 16, 4, 4)]
    model = small().eval()
    with torch.no_grad():
        final, features = model.forward_intermediates(x, norm=True)
        torch.testing.assert_close(final, model.forward_features(x))
        torch.testing.assert_close(features[-1], final)
        early = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early[0], features[0])


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="Nothing is downloaded"):
        create("posmlp_t", pretrained=True)
    with pytest.raises(UserError, match="Did you mean posmlp_t"):
        create("posmlp_tt")
    with pytest.raises(UserError, match="Did you mean learned"):
        small(encoding="learnd")
    with pytest.raises(UserError, match="img_size is 24x24; both must be multiples of 16"):
        small(img_size=24)
    with pytest.raises(UserError, match="A map of 6x8 positions cannot be cut into windows of 4x4"):
        small()(images(1, 3, 24, 32))


def test_gmlp_has_gates_of_the_paper() -> None:
    with shapes_only():
        model: Any = timm.create_model("gmlp_s16_posgu_224", img_size=32, num_classes=3)
        assert [type(block.mlp_channels.gate) for block in model.blocks] == [PosGU] * 30
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 3)


def test_contenders_differ_in_what_makes_the_weights_alone() -> None:
    models = {each.name: each.build() for each in claims.contenders()}
    kinds = {name: {type(g.pos).__name__ for g in m.modules() if isinstance(g, PosGU)} for name, m in models.items()}
    assert kinds == {
        claims.QUADRATIC: {"QuadraticEncoding"},
        claims.LEARNED: {"LearnedEncoding"},
        claims.NONE: {"NoEncoding"},
    }
    others = {tuple(n for n, _ in m.named_parameters() if "gate_unit" not in n) for m in models.values()}
    assert len(others) == 1
    assert looks(posmlp_mini()).shape == (8, 14, 14)
    assert looks_picture(models).svg.count("<image") == 8 + 8 + 1
