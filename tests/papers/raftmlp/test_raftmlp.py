"""RaftMLP: parity with the released implementation, what its layers compute, and what its claims measure."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F

from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.profiling import flops
from common.shapes import shapes_only
from papers.raftmlp import PAPER, claims, lines
from papers.raftmlp.mini import raftmlp_mini
from papers.raftmlp.model import AxialMixing, Block, Embedding, FullMixing, LineMixer, create, resized
from tests.parity import check_model, images

#: Parameters of every released variant.
PARAMETERS = {
    "raftmlp_s": 9868768,
    "raftmlp_m": 21413632,
    "raftmlp_l": 36184672,
    "raftmlp_hierarchy_m": 19920640,
    "raftmlp_r4": 58390696,
    "raftmlp_r_1": 58105432,
    "raftmlp_r_2": 58162888,
    "raftmlp_r_2_cross_mlp_emb": 60522184,
    "raftmlp_deep": 43532296,
    "raftmlp_org_mixer": 59918200,
}


def small(name: str = "raftmlp_s", **kwargs: Any) -> Any:
    sizes: dict[str, Any] = {"dims": (8, 12), "depths": (1, 2), "patches": (4, 2), "img_size": 32, "num_classes": 7}
    if name == "raftmlp_s":
        sizes["kernels"] = ((4, 8), (2, 4))
    torch.manual_seed(0)
    return timm.create_model(name, **{**sizes, **kwargs})


def test_model_matches_the_release() -> None:
    check_model("raftmlp", "raftmlp_s")


def test_every_variant_has_the_size_of_its_checkpoint() -> None:
    assert {model.name for model in PAPER.models} == set(PARAMETERS)
    for name, count in PARAMETERS.items():
        with shapes_only():
            model = timm.create_model(name)
        assert sum(p.numel() for p in model.parameters()) == count, name


def test_multiply_adds_of_the_first_version_are_the_printed_ones() -> None:
    counted = {name: list(claims.model_size(name))[1].value for name in ("raftmlp_r4", "raftmlp_deep")}
    assert {name: round(value, 1) for name, value in counted.items()} == {"raftmlp_r4": 12.0, "raftmlp_deep": 9.0}


def test_line_mixer_mixes_each_raft_along_its_axis() -> None:
    torch.manual_seed(0)
    mixer, x = LineMixer(6, length=3, raft=2, ratio=2), torch.randn(2, 3, 5, 6)
    normed, out = mixer.norm(x), mixer(x)
    for place in range(5):
        for channel in range(3):
            raft = torch.cat((normed[:, :, place, channel], normed[:, :, place, channel + 3]), dim=1)
            mixed = mixer.mlp(raft)
            torch.testing.assert_close(out[:, :, place, channel], x[:, :, place, channel] + mixed[:, :3])
            torch.testing.assert_close(out[:, :, place, channel + 3], x[:, :, place, channel + 3] + mixed[:, 3:])


def test_embedding_is_a_linear_layer_of_patches_of_all_sizes() -> None:
    embed, x = Embedding(3, 5, stride=4, kernels=(4, 8)), images(2, 3, 16, 24)
    patches = [F.unfold(x, side, stride=4, padding=(side - 4) // 2) for side in (4, 8)]
    weight = torch.cat([kernel.flatten(1) for kernel in embed.kernels], dim=1)
    expected = F.linear(torch.cat(patches, dim=1).mT, weight, embed.bias)
    torch.testing.assert_close(embed(x).flatten(1, 2), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="do not lie evenly"):
        Embedding(3, 5, stride=4, kernels=(4, 7))


def test_tokens_are_mixed_at_the_trained_grid() -> None:
    torch.manual_seed(0)
    block, x = Block(8, (4, 5), AxialMixing, 2, 2, 2).eval(), torch.randn(1, 6, 7, 8)
    mixed = resized(block.mixing(resized(x, (4, 5))), (6, 7))
    torch.testing.assert_close(block(x), mixed + block.mlp(block.norm(mixed)))
    same = torch.randn(1, 4, 5, 8)
    assert resized(same, (4, 5)) is same


def test_parallel_mixing_adds_both() -> None:
    torch.manual_seed(0)
    mixing, x = AxialMixing(8, (4, 5), 2, 2, parallel=True), torch.randn(2, 4, 5, 8)
    columns, rows = mixing.vertical(x) - x, mixing.horizontal(x.mT.transpose(1, 3).mT).mT.transpose(1, 3).mT - x
    torch.testing.assert_close(mixing(x), x + columns + rows)


def test_cost_finding_notices_a_wrong_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines.cost().verdict == "holds"
    monkeypatch.setattr(lines, "AxialMixing", lambda dim, grid, raft, ratio: FullMixing(dim, grid, raft, ratio))
    assert lines.cost().verdict == "does not hold"


def test_reach_finding_notices_mixing_along_one_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.verdict for finding in lines.reach()] == ["holds"]
    monkeypatch.setattr(AxialMixing, "forward", lambda self, x: self.vertical(x))
    assert [finding.verdict for finding in lines.reach()] == ["does not hold"]


@pytest.mark.parametrize("name", ["raftmlp_s", "raftmlp_hierarchy_m", "raftmlp_org_mixer"])
def test_released_names_load_strictly_and_come_back(name: str) -> None:
    state = to_released(small(name))
    assert all(torch.equal(value, state[key]) for key, value in to_released(load_released(small(name), state)).items())
    with pytest.raises(UserError, match="surplus"):
        load_released(small(name), {**state, "surplus": torch.zeros(1)})
    with pytest.raises(UserError, match=r"head\.bias"):
        load_released(small(name), {key: value for key, value in state.items() if key != "classifier.bias"})
    embedding = next(key for key, value in state.items() if value.ndim == 2)
    with pytest.raises(UserError, match=r"embed\.kernels"):
        load_released(small(name), {**state, embedding: state[embedding][:, 1:]})


def test_model_behaves_as_timm_models_do() -> None:
    model = small(in_chans=1, drop_path_rate=0.1, drop_rate=0.1)
    model.set_grad_checkpointing()
    x = images(2, 1, 33, 50)
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
        assert model(x).shape == features.shape == (2, 12, 5, 7)
    with pytest.raises(UserError, match="pools by 'avg'"):
        model.reset_classifier(5, "max")


def test_features_are_those_of_the_levels() -> None:
    x, pyramid = images(2, 3, 64, 64), small(features_only=True, embedding_as_map=True)
    assert pyramid.feature_info.channels() == [8, 12]
    assert [tuple(f.shape) for f in pyramid(x)] == [(2, 8, 16, 16), (2, 12, 8, 8)]
    model = small().eval()
    with torch.no_grad():
        final, features = model.forward_intermediates(x, norm=True)
        torch.testing.assert_close(final, model.forward_features(x))
        torch.testing.assert_close(features[-1], final)
        torch.testing.assert_close(features[0], model.levels[0](x))
        early = small(embedding_as_map=True).forward_intermediates(x, [0], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early[0], model.levels[0].embed(x).permute(0, 3, 1, 2))


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="Nothing is downloaded"):
        create("raftmlp_s", pretrained=True)
    with pytest.raises(UserError, match="Did you mean raftmlp_s"):
        create("raftmlp_ss")
    with pytest.raises(UserError, match="cannot be cut into rafts of 3"):
        small(raft=3)
    with pytest.raises(UserError, match="Did you mean axial"):
        small(mixing="axiall")


def test_contenders_cost_what_the_mixer_costs() -> None:
    models: dict[str, Any] = {each.name: each.build() for each in claims.contenders()}
    counted = {name: flops(model, (3, 28, 28)).without("layer_norm") for name, model in models.items()}
    assert all(count == pytest.approx(counted[claims.MIXER], rel=1e-3) for count in counted.values()), counted
    rafts = {name: models[name].levels[0].blocks[0].mixing.vertical.raft for name in models if name != claims.MIXER}
    assert rafts == {claims.MINI: 2, claims.RAFT_1: 1, claims.RAFT_4: 4, claims.PARALLEL: 2}
    assert [name for name in rafts if models[name].levels[0].blocks[0].mixing.parallel] == [claims.PARALLEL]
    # Every branch starts at zero, as the host's do.
    model: Any = raftmlp_mini().eval()
    x = images(2, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(model.levels[0](x), model.levels[0].embed(x).permute(0, 3, 1, 2))
