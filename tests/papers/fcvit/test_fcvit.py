"""FCViT: parity with the released implementation, what its context does, and what its claims measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import Attention
from torch import Tensor, nn

import papers
from common import bench
from common.bench import hosts
from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.robustness.benchmarks.classes import imagenet_wnids
from common.run import Run, Settings
from common.shapes import shapes_only
from papers.fcvit import claims, context, observations, pretrained
from papers.fcvit.mini import fcvit_mini
from papers.fcvit.model import GlobalContext
from tests.parity import check_model, images
from tests.robustness.stand_ins import class_folders

#: Parameters of the released variants.
PARAMETERS = {"fcvit_tiny": 4784752, "fcvit_b12": 14701832, "fcvit_b24": 26960232, "fcvit_b48": 51477032}
METRICS = (observations.SIMILARITY, observations.TOKENS)
SMALL: dict[str, Any] = {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "num_classes": 7, "kernel_size": 3}


def small(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("fcvit_tiny", **{**SMALL, **kwargs}).eval()


def near_one(scale: Tensor) -> Tensor:
    """The layer scales with which blocks weigh fully."""
    return 1 + 5 * scale


def test_model_matches_the_release() -> None:
    check_model("fcvit", "fcvit_tiny")


def test_model_with_full_blocks_matches_the_release() -> None:
    scales = {"*.layer_scale_1": near_one, "*.layer_scale_2": near_one}
    check_model("fcvit", "fcvit_tiny_ls1", "fcvit_tiny", vary=scales)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_variants_have_the_released_parameters(variant: str) -> None:
    with shapes_only():
        model = timm.create_model(variant)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[variant]


def test_released_names_load_strictly_and_come_back() -> None:
    state = to_released(small())
    assert {"patch_embed.norm.weight", "network.4.1.token_mixer.gc2.rescale_bias", "network.3.proj.weight"} <= set(
        state
    )
    state["network.0.0.token_mixer.gc1.fc2.bias"] = torch.randn(8)
    loaded = load_released(small(), {"state_dict": state})
    assert all(torch.equal(value, state[name]) for name, value in to_released(loaded).items())
    with pytest.raises(UserError, match=r"norm\.bias"):
        load_released(small(), {name: value for name, value in state.items() if name != "norm.bias"})
    with pytest.raises(UserError, match="surplus"):
        load_released(small(), {**state, "surplus": torch.zeros(1)})


def test_detectors_begin_from_a_classifier_without_their_norms() -> None:
    detector = small(map_norms=True)
    load_released(detector, to_released(small()))
    x = images(1, 3, 64, 96)
    maps = detector.forward_intermediates(x, intermediates_only=True)
    assert [tuple(each.shape[2:]) for each in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    plain = small().forward_intermediates(x, intermediates_only=True)
    for own, other in zip(maps, plain, strict=True):
        torch.testing.assert_close(own, nn.functional.group_norm(other, 1), rtol=1e-4, atol=1e-4)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="multiples of 8"):
        small(dims=(8, 12, 24, 32))
    with pytest.raises(UserError, match="NHWC"):
        small().forward_intermediates(images(1, 3, 32, 32), output_fmt="NHWC")
    with pytest.raises(UserError, match="max"):
        small().reset_classifier(3, "max")


def test_context_is_one_vector_in_shares() -> None:
    one_direction, shares = context.findings()
    assert one_direction.verdict == shares.verdict == "holds"
    layer = context.layer()
    x = torch.randn(1, context.DIM, 4, 5, dtype=torch.float64)
    by_hand = layer.context(x.mean(dim=(2, 3)))[0, -8:, None, None] * layer.similarity(x)[0, -1]
    torch.testing.assert_close(layer(x)[0, -8:], by_hand)


def test_channels_of_the_context_compete() -> None:
    layer = GlobalContext(16, num_heads=2, reduction=8)
    with torch.no_grad():
        layer.fc1.weight.zero_()
        layer.fc1.bias.copy_(torch.tensor([1.0, -2.0, -1.0, 3.0]))
    expected = layer.fc2(torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(layer.context(torch.randn(1, 16)), expected)


def test_similarity_of_queries_is_the_mean_cosine_of_pairs() -> None:
    attention = torch.rand(2, 3, 5, 5).softmax(dim=-1)
    rows = nn.functional.normalize(attention, dim=-1)
    cosines = rows @ rows.transpose(2, 3)
    off_diagonal = cosines[..., ~torch.eye(5, dtype=torch.bool)]
    torch.testing.assert_close(observations.query_similarity(attention), off_diagonal.mean(dim=(1, 2)))
    alike = attention[:, :, :1].expand(2, 3, 5, 5)
    torch.testing.assert_close(observations.query_similarity(alike), torch.ones(2))
    torch.testing.assert_close(observations.query_similarity(torch.eye(5).expand(1, 1, 5, 5)), torch.zeros(1))


def test_tokens_that_hold_most_are_counted() -> None:
    rows = torch.tensor([[0.5, 0.05, 0.35, 0.1], [0.1, 0.85, 0.05, 0.0]])
    torch.testing.assert_close(observations.attention_tokens(rows.expand(1, 1, 2, 4)), torch.tensor([(2 + 1) / 8]))
    assert observations.attention_tokens(torch.full((1, 1, 10, 10), 0.1)).item() == pytest.approx(0.8, abs=0.101)


def test_maps_are_those_of_the_attention() -> None:
    torch.manual_seed(0)
    model = hosts.vit_mini(depth=2).eval()
    kept: list[Tensor] = []
    first = next(part for part in model.modules() if isinstance(part, Attention))
    first.register_forward_hook(lambda layer, args, output: kept.extend((args[0], output)))
    maps = observations.attention_maps(model, torch.rand(2, 3, 28, 28))
    assert [tuple(one.shape) for one in maps] == [(2, 3, 49, 49)] * 2
    tokens, output = kept
    # A query's output is the mean of values by its attention; with that to the class token taken from what is left.
    values = first.qkv(tokens).chunk(3, dim=-1)[2].unflatten(2, (3, 16)).transpose(1, 2)
    rest = 1 - maps[0].sum(dim=-1, keepdim=True)
    mixed = maps[0] @ values[:, :, 1:] + rest * values[:, :, :1]
    torch.testing.assert_close(first.proj(mixed.transpose(1, 2).flatten(2)), output[:, 1:])
    assert not any(part._forward_pre_hooks for part in model.modules())
    with pytest.raises(UserError, match="no attention"):
        observations.attention_maps(small(), images(1, 3, 32, 32))


def test_blocks_become_contenders() -> None:
    own = {
        "top1": torch.ones(2, 4).numpy(),
        **{f"query_similarity/{block}": torch.full((2, 4), block / 10).numpy() for block in (1, 2)},
        **{f"attention_tokens/{block}": torch.full((2, 4), 0.5).numpy() for block in (1, 2)},
    }
    scores = observations.by_block(bench.Scores({("vit", 0): own, ("vit", 1): own}), "vit")
    assert scores.contenders == ("vit.block_1", "vit.block_2", "a_fifth_of_tokens")
    assert scores.mean("vit.block_2", "query_similarity") == pytest.approx(20)
    assert scores.mean("a_fifth_of_tokens", "attention_tokens") == pytest.approx(20)


def test_minis_differ_by_the_context_alone() -> None:
    full, without = fcvit_mini().state_dict(), fcvit_mini(context=False).state_dict()
    assert {name for name in full if name not in without} == {name for name in full if ".gc" in name}
    assert set(without) < set(full)


def test_a_checkpoint_is_looked_at_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "val", imagenet_wnids())
    vit = timm.create_model("deit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=3).eval()
    monkeypatch.setattr(pretrained, "load_model", lambda run: (vit, "deit_tiny_patch16_224", "trained"))
    settings = Settings(folders={"imagenet": tmp_path}, limit=3, batch_size=2, workers=0)
    found: list[Any] = list(claims.attention_of_checkpoint(Run(papers.find("fcvit"), settings, tmp_path / "run")))
    assert [one.metric for one in found] == [f"{name}/{block}" for block in (1, 2) for name in METRICS]
    assert all(one.n == 3 and 0 < one.value <= 100 for one in found)
