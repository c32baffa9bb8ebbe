"""Released checkpoints load strictly, from any wrapper, and say what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import papers
from common.checkpoints import load_released, to_released, unwrap
from common.errors import UserError
from common.robustness.full_scale_measures import identify
from common.shapes import shapes_only

ARGUMENTS = {"img_size": 28, "num_classes": 3, "embed_dims": (8,), "depths": (1,), "num_heads": (2,)}
ARGUMENTS["stem_strides"] = (1, 2, 2)


def model(name: str = "vars_s_rvt_tiny", **kwargs: object) -> nn.Module:
    return timm.create_model(name, **{**ARGUMENTS, **kwargs})


@pytest.mark.parametrize(
    "name", ["rvt_tiny", "performer_rvt_tiny", "vars_s_rvt_tiny", "vars_d_rvt_tiny", "vars_sd_rvt_tiny"]
)
def test_round_trip_under_released_names(name: str) -> None:
    source, target = model(name), model(name)
    load_released(target, to_released(source))
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key]), key


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", ["", "model", "state_dict", "model_ema", "state_dict_ema"])
def test_a_file_loads_from_any_wrapper(wrapper: str, prefix: str, tmp_path: Path) -> None:
    """Also where counters and other parts of a training, tensors among them, are beside the weights."""
    source, target = model("rvt_tiny"), model("rvt_tiny")
    content = {f"{prefix}{name}": value for name, value in to_released(source).items()}
    if wrapper:
        optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
        content = {"optimizer": optimizer, "best": torch.tensor(0.8), wrapper: content, "epoch": 3}
    torch.save(content, tmp_path / "released.pth")
    load_released(target, tmp_path / "released.pth")
    assert torch.equal(target.head.weight, source.head.weight)


def test_averaged_weights_are_taken_on_request_only() -> None:
    content = {"model": {"a": torch.zeros(1)}, "model_ema": {"a": torch.ones(1)}}
    assert unwrap(content)["a"] == 0
    assert unwrap(content, use_ema=True)["a"] == 1
    assert unwrap({"state_dict": content}, use_ema=True)["a"] == 1


def test_what_is_derived_may_be_absent_and_is_recomputed() -> None:
    source, target = model(), model()
    state = {k: v for k, v in to_released(source).items() if not k.endswith((".L", "kernel_norm", "tracked"))}
    load_released(target, state)
    assert torch.allclose(target.transformers[0].blocks[0].attn.L, source.transformers[0].blocks[0].attn.L)
    state = to_released(source)
    state["transformers.0.blocks.0.L"] = torch.full((8,), 7.0)
    load_released(target, state)
    assert torch.equal(target.transformers[0].blocks[0].attn.L, torch.full((8,), 7.0))


def test_a_tensor_that_is_missing_unexpected_or_misshaped_is_named_and_nothing_is_loaded() -> None:
    target = model()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    state = to_released(model())
    without = {k: v for k, v in state.items() if k != "head.bias"}
    with pytest.raises(UserError, match=r"head\.bias \[3\] is missing"):
        load_released(target, without)
    with pytest.raises(UserError, match=r"extra \[2\], which the model lacks"):
        load_released(target, {**state, "extra": torch.zeros(2)})
    with pytest.raises(UserError, match=r"head\.bias is \[4\] in the file and \[3\] in the model"):
        load_released(target, {**state, "head.bias": torch.zeros(4)})
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_a_file_that_fits_no_model_of_a_paper_is_told_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    with shapes_only():
        state = to_released(timm.create_model("rvt_small_plus"))
    cut = {name: value for name, value in state.items() if name != "head.bias"}
    with pytest.raises(
        UserError, match=r"cut\.pth fits none .*, rvt_small_plus comes nearest: .*head\.bias \[1000\] is"
    ):
        identify(papers.find("rvt"), {"model": cut}, path)
    with pytest.raises(UserError, match="no state dict"):
        identify(papers.find("rvt"), {"epoch": 3}, path)


def test_a_file_that_is_no_checkpoint_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(UserError, match="There is no checkpoint"):
        load_released(model(), path)
    torch.save(to_released(model()), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        load_released(model(), path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"damaged|safety"):
        load_released(model(), path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(UserError, match="no state dict"):
        load_released(model(), path)
