"""CMT: parity with the released implementation, sizes of images, and what its claims measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from common.bench import hosts
from common.checkpoints import load_initial, load_released, to_released
from common.errors import UserError
from common.measurement import Finding
from common.shapes import shapes_only
from papers.cmt import blocks
from papers.cmt.mini import cmt_mini
from papers.cmt.model import LightweightAttention, resized_bias
from tests.parity import check_model, images

#: Parameters of the released variants.
PARAMETERS = {"cmt_ti": 9492426, "cmt_xs": 15247208, "cmt_s": 26256160, "cmt_b": 45715076}
SMALL: dict[str, Any] = {
    "dims": (8, 16, 24, 32),
    "depths": (1, 2, 1, 1),
    "num_classes": 7,
    "img_size": 64,
    "head_channels": 24,
}


def small(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("cmt_ti", **{**SMALL, **kwargs}).eval()


def test_model_matches_the_release() -> None:
    check_model("cmt", "cmt_ti")


@pytest.mark.parametrize("variant", PARAMETERS)
def test_variants_have_the_released_parameters(variant: str) -> None:
    with shapes_only():
        model = timm.create_model(variant)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[variant]


def test_released_names_load_strictly_and_come_back() -> None:
    state = to_released(small())
    assert {"stem_conv1.weight", "relative_pos_d", "blocks_b.1.proj.weight", "blocks_a.0.attn.sr.0.weight"} <= set(
        state
    )
    state["blocks_b.1.attn.v.weight"] = torch.randn(16, 16)
    loaded: Any = load_released(small(), {"model": state})
    assert torch.equal(loaded.stages[1].blocks[1].attn.kv.weight[16:], state["blocks_b.1.attn.v.weight"])
    assert all(torch.equal(value, state[name]) for name, value in to_released(loaded).items())

    with pytest.raises(UserError, match=r"blocks\.0\.mlp\.mix\.1\.bias"):
        load_released(small(), {name: value for name, value in state.items() if name != "blocks_c.0.mlp.proj_bn.bias"})
    with pytest.raises(UserError, match="surplus"):
        load_released(small(), {**state, "surplus": torch.zeros(1)})
    with pytest.raises(UserError, match=r"position_bias"):
        load_released(small(img_size=96), state)


def test_images_of_another_size_are_refused_unless_it_may_change() -> None:
    with pytest.raises(UserError, match=r"96x64 pixels.*dynamic_img_size"):
        small()(images(1, 3, 96, 64))
    dynamic = small(dynamic_img_size=True)
    assert dynamic(images(1, 3, 96, 64)).shape == (1, 7)
    x = images(1, 3, 64, 64)
    torch.testing.assert_close(dynamic(x), small()(x))
    with pytest.raises(UserError, match="multiples of 32"):
        dynamic(images(1, 3, 80, 64))
    with pytest.raises(UserError, match="multiples of 32"):
        small(img_size=100)
    with pytest.raises(UserError, match="NHWC"):
        small().forward_intermediates(x, output_fmt="NHWC")
    with pytest.raises(UserError, match="max"):
        small().reset_classifier(3, "max")


def test_scores_are_resized_along_queries_and_keys() -> None:
    rows = torch.arange(8.0)[:, None].expand(8, 8).reshape(1, 64, 1).expand(1, 64, 16)  # by the query's row
    keys = torch.arange(4.0).repeat(4).expand(1, 64, 16)  # by the key's column
    resized = resized_bias(rows + 100 * keys, (8, 8), (16, 16), reduction=2)
    assert resized.shape == (1, 256, 64)
    assert resized[0, :, 0].view(16, 16)[1, 0] == pytest.approx(0.25)
    assert resized[0, 0].view(8, 8)[0, 1] == pytest.approx(25.0)


def test_training_starts_from_a_file_of_another_size(tmp_path: Path) -> None:
    origin = small(num_classes=9)
    with torch.no_grad():
        origin.stages[2].position_bias.fill_(3.0)
    torch.save(to_released(origin), tmp_path / "cmt.pth")
    model = small(img_size=96)
    notes = load_initial(model, tmp_path / "cmt.pth")
    assert "Resized" in notes[0]
    assert bool((model.stages[2].position_bias == 3.0).all())


def test_attention_is_the_softmax_over_reduced_keys_with_scores() -> None:
    torch.manual_seed(0)
    attention = LightweightAttention(8, 2, reduction=2).eval()
    x, bias = torch.randn(2, 8, 4, 6), torch.randn(2, 24, 6)
    keys, values = attention.kv(attention.reduce(x).flatten(2).transpose(1, 2)).chunk(2, dim=-1)
    heads = []
    for head, q in enumerate(attention.q(x.flatten(2).transpose(1, 2)).split(4, dim=-1)):
        own = slice(4 * head, 4 * head + 4)
        weights = (q @ keys[..., own].transpose(1, 2) / 2 + bias[head]).softmax(dim=-1)
        heads.append(weights @ values[..., own])
    expected = attention.proj(torch.cat(heads, dim=-1)).transpose(1, 2).unflatten(2, (4, 6))
    torch.testing.assert_close(attention(x, bias), expected)


def test_a_block_reaches_everything_by_few_keys() -> None:
    assert blocks.reach().verdict == "holds"
    assert blocks.reached(attention=False, local_perception=False) == 9


def test_cost_is_that_of_the_closed_form() -> None:
    finding, picture = blocks.cost()
    assert isinstance(finding, Finding)
    assert finding.verdict == "holds"
    assert picture.name == "cost"
    assert blocks.counted(4)["attention"] * 4 == blocks.counted(2)["attention"]
    assert blocks.closed_form(channels=2, queries=16, reduction=2) == {"attention": 256, "matmul": 160, "conv": 32}


def test_minis_lack_what_their_names_say() -> None:
    def parameters(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    full, host = parameters(cmt_mini()), parameters(hosts.pyramid_mini())
    assert abs(full / host - 1) < 0.03
    assert full - parameters(cmt_mini(local_perception=False)) == (16 + 48) * 10
    # A depth-wise convolution and three batch norms a block.
    assert full - parameters(cmt_mini(inverted_residual=False)) == 2 * (16 + 48) * (10 + 2 + 2) + 2 * (16 + 48)
