"""SReT: parity with the released implementation, what loops and slices do, and what its claims measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from common.checkpoints import load_initial, load_released, to_released
from common.errors import UserError
from common.measurement import Finding
from common.shapes import shapes_only
from papers.sret import loops
from papers.sret.mini import contenders
from papers.sret.model import Block, Recursion
from tests.parity import Fixture, Form, check_model, images

#: Parameters of the released variants.
PARAMETERS = {
    "sret_t": 4755979,
    "sret_lt": 4988024,
    "sret_lt_16_14_1": 4988024,
    "sret_s": 20899692,
    "sret_t_wo_slice": 4755979,
    "sret_lt_wo_slice": 4988024,
    "sret_s_wo_slice": 20899692,
    "sret_s_wo_slice_384": 21091212,
}
SMALL: dict[str, Any] = {"head_dim": 16, "num_heads": (1, 2, 2), "depths": (1, 1, 1), "num_classes": 7, "img_size": 64}
RECORDED = torch.from_numpy(Fixture.load("sret", "sret_t").arrays["perms"])


def small(seed: int = 0, **kwargs: Any) -> Any:
    torch.manual_seed(seed)
    return timm.create_model("sret_t", **{**SMALL, **kwargs}).eval()


def near_one(value: Tensor) -> Tensor:
    """The coefficients with which blocks weigh fully."""
    return 1 + value


FULL = {"*.coefficient?.bias": near_one}


def permuted(permutations: Tensor) -> Callable[[Any, Tensor], Tensor]:
    """Calls a sliced model with draws of its first stage."""
    return lambda model, x: model(x, [list(permutations), [], []])


def test_model_matches_the_release() -> None:
    recorded, identity = permuted(RECORDED), permuted(torch.arange(784).expand(2, 784))
    forms = {
        "identity_perm": Form(call=identity),
        "coefficient_plus_1": Form(FULL, recorded),
        "coefficient_plus_1_identity_perm": Form(FULL, identity),
    }
    check_model("sret", "sret_t", call=recorded, forms=forms)


def test_model_without_slices_matches_the_release() -> None:
    check_model("sret", "sret_t_wo_slice", forms={"coefficient_plus_1": Form(FULL)})


@pytest.mark.parametrize("variant", PARAMETERS)
def test_variants_have_the_released_parameters(variant: str) -> None:
    with shapes_only():
        model = timm.create_model(variant)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[variant]


def test_released_names_load_strictly_and_come_back() -> None:
    state = to_released(small())
    assert {"patch_embed.bn3.weight", "transformers.1.blocks.2.attn.qkv.weight", "pools.1.conv.weight"} <= set(state)
    assert state["transformers.0.blocks.3.coefficient2.bias"].shape == (1,)
    assert torch.equal(state["transformers.0.blocks.0.mlp.fc1.bias"], state["transformers.0.blocks.2.mlp.fc1.bias"])
    assert not torch.equal(state["transformers.0.blocks.1.mlp.fc1.bias"], state["transformers.0.blocks.3.mlp.fc1.bias"])
    loaded: Any = load_released(small(seed=1), {"model": state})
    assert all(torch.equal(value, state[name]) for name, value in to_released(loaded).items())

    lacking = {name: value for name, value in state.items() if not name.startswith("transformers.0.blocks.3.norm1")}
    with pytest.raises(UserError, match=r"projections\.1\.norm1"):
        load_released(small(), lacking)
    with pytest.raises(UserError, match="surplus"):
        load_released(small(), {**state, "surplus": torch.zeros(1)})
    other = {**state, "transformers.0.blocks.2.norm1.bias": torch.ones(16)}
    with pytest.raises(UserError, match=r"transformers\.0\.blocks\.2\.norm1\.bias differs"):
        load_released(small(), other)


def test_groups_attend_among_themselves_in_the_order_of_the_permutation() -> None:
    torch.manual_seed(0)
    block = Block(8, 2).eval()
    x = torch.randn(2, 6, 8)
    permutation = torch.tensor([4, 0, 2, 5, 1, 3])
    parts = [block(x[:, group]) for group in ([4, 0, 2], [5, 1, 3])]
    expected = torch.empty_like(x)
    expected[:, [4, 0, 2]], expected[:, [5, 1, 3]] = parts
    torch.testing.assert_close(block(x, 2, permutation), expected)


def test_a_block_is_applied_as_often_as_the_loops_say() -> None:
    torch.manual_seed(0)
    block = Block(8, 2).eval()
    recursion = Recursion(block, [nn.Identity()] * 3, groups=(2, 1))
    x = torch.randn(1, 4, 8)
    torch.testing.assert_close(recursion(x, []), block(block(block(x, 2))))


def test_permutations_are_drawn_in_training_and_fixed_in_evaluation() -> None:
    model, x = small(), images(1, 3, 64, 64)
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)
    first = model.stages[0]
    tokens = torch.zeros(1, 32, 8, 8)
    assert [sorted(one.tolist()) for one in first.draw(tokens)] == [list(range(64))]
    assert torch.equal(first.draw(tokens)[0], small(seed=1).stages[0].draw(tokens)[0])
    assert not torch.equal(first.train().draw(tokens)[0], first.draw(tokens)[0])
    assert first.eval().draw(torch.zeros(1, 32, 4, 8))[0].shape == (32,)
    other = model(x, [[torch.arange(64)], [], []])
    assert (model(x) - other).abs().max() > 1e-6


def test_images_of_another_size_are_refused_unless_it_may_change() -> None:
    with pytest.raises(UserError, match=r"96x64 pixels.*dynamic_img_size"):
        small()(images(1, 3, 96, 64))
    dynamic = small(dynamic_img_size=True)
    assert dynamic(images(1, 3, 96, 64)).shape == (1, 7)
    x = images(1, 3, 64, 64)
    torch.testing.assert_close(dynamic(x), small()(x))
    with pytest.raises(UserError, match="stage 1 of SReT 5x9 tokens"):
        dynamic(images(1, 3, 40, 72))
    with pytest.raises(UserError, match="no multiple of its 8 groups"):
        small(img_size=40)
    with pytest.raises(UserError, match="NHWC"):
        small().forward_intermediates(x, output_fmt="NHWC")


def test_training_starts_from_a_file_of_another_size(tmp_path: Path) -> None:
    origin = small(num_classes=9)
    nn.init.constant_(origin.pos_embed, 3.0)
    torch.save(to_released(origin), tmp_path / "sret.pth")
    model = small(img_size=96)
    assert "Resized" in load_initial(model, tmp_path / "sret.pth")[0]
    torch.testing.assert_close(model.pos_embed, torch.full((1, 16, 12, 12), 3.0))


def test_loops_add_projections_alone() -> None:
    assert [finding.verdict for finding in (*loops.parameters(), loops.order_of_tokens())] == ["holds", "holds"]


def test_cost_is_that_of_the_closed_form_and_slices_save_what_is_printed() -> None:
    closed_form, savings, picture = loops.cost()
    assert isinstance(closed_form, Finding)
    assert isinstance(savings, Finding)
    assert closed_form.verdict == savings.verdict == "holds"
    assert picture.name == "cost"
    assert loops.closed_form(tokens=6, channels=5, groups=3) == 120


def test_minis_have_equal_parameters() -> None:
    counts = [sum(parameter.numel() for parameter in one.build().parameters()) for one in contenders()]
    assert max(counts) / min(counts) < 1.01
    plain = contenders()[-1].build()
    assert not any("coefficient" in name or "projections" in name for name, _ in plain.named_parameters())
