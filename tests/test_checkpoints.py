"""Released checkpoints load strictly, from any wrapper, and say what does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import papers
from common.checkpoints import choose, load_initial, load_released, read, to_released, unwrap
from common.errors import UserError
from common.resizing import resized
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


@pytest.mark.parametrize("attention", ["performer", "vars_s", "vars_d", "vars_sd"])
@pytest.mark.parametrize("host", ["deit_tiny", "fan_tiny"])
def test_round_trip_in_other_hosts(attention: str, host: str) -> None:
    source, target = (timm.create_model(f"{attention}_{host}", img_size=32, num_classes=3, depth=1) for _ in range(2))
    load_released(target, to_released(source))
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key]), key


@pytest.mark.parametrize(
    "prefix", ["", "module.", "module._orig_mod.", "_orig_mod.module.", "model.", "net._orig_mod."]
)
@pytest.mark.parametrize(
    "wrapper", ["", "model", "state_dict", "model_ema", "state_dict_ema", "model_state_dict", "ema_state_dict"]
)
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


BOTH = {
    "two wrappers": {"model": {"a": torch.zeros(1)}, "model_ema": {"a": torch.ones(1)}},
    "inside another": {"state_dict": {"model": {"a": torch.zeros(1)}, "ema": {"module.a": torch.ones(1)}}},
    "names of one state dict": {"state_dict": {"model.a": torch.zeros(1), "model_ema.module.a": torch.ones(1)}},
    "torch's averaged model": {
        "model_state_dict": {"a": torch.zeros(1)},
        "ema_state_dict": {"n_averaged": torch.tensor(7), "module.a": torch.ones(1)},
    },
}


@pytest.mark.parametrize("name", BOTH)
def test_a_file_with_both_gives_the_weights_that_are_asked_for(name: str) -> None:
    for asked, value in ((None, 0), ("model", 0), ("ema", 1)):
        content, what = choose(BOTH[name], asked, "a.pth")
        state = unwrap(content)
        assert list(state) == ["a"]
        assert state["a"] == value
        assert what == (
            "averaged weights (ema)" if value else "weights of the last step (model), not their average (ema)"
        )


def test_weights_that_a_file_lacks_are_not_replaced_by_others() -> None:
    plain, averaged = {"model": {"a": torch.zeros(1)}}, {"state_dict_ema": {"a": torch.ones(1)}}
    assert choose(plain, "model", "a.pth")[1] == choose(averaged, None, "a.pth")[1] == ""
    with pytest.raises(UserError, match=r"a\.pth holds no averaged weights; leave out --weights ema"):
        choose(plain, "ema", "a.pth")
    with pytest.raises(UserError, match=r"a\.pth holds averaged weights alone; leave out --weights model"):
        choose(averaged, "model", "a.pth")


def test_safetensors_load_under_any_name(tmp_path: Path) -> None:
    source, target = model("rvt_tiny"), model("rvt_tiny")
    for name in ("model.safetensors", "model.bin"):
        save_file({key: value.contiguous() for key, value in to_released(source).items()}, tmp_path / name)
        load_released(target, tmp_path / name)
        assert torch.equal(target.head.weight, source.head.weight)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "model.safetensors").read_bytes()[:-4])
    with pytest.raises(UserError, match=r"cut\.safetensors is not a file of safetensors or is damaged"):
        read(cut)


SMALL = {"num_classes": 3, "depth": 1}
SMALL_RVT = {"num_classes": 3, "embed_dims": (8,), "depths": (1,), "num_heads": (2,)}
#: Models with something that is tied to the grid of tokens, and how they are made small.
TIED = {
    **{f"{attention}_deit_tiny": SMALL for attention in ("performer", "vars_s", "vars_d", "vars_sd")},
    **{f"{attention}_rvt_tiny": SMALL_RVT for attention in ("vars_s", "vars_sd")},
    "vars_sd_fan_tiny": SMALL,
    "rvt_tiny_plus": {**SMALL_RVT, "scaled_blocks": 1},
    "deit_tiny_patch16_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL,
    "tnt_s_patch16_224": {"num_classes": 3, "embed_dim": 48, "inner_dim": 8, "depth": 1, "num_heads_outer": 4},
    "swin_tiny_patch4_window7_224": {"num_classes": 3, "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2)},
}


@pytest.mark.parametrize("unfinished", [False, True], ids=["released names", "an unfinished training"])
@pytest.mark.parametrize("name", TIED)
def test_fine_tuning_at_another_size_resizes_what_is_tied_to_the_grid(
    name: str, unfinished: bool, tmp_path: Path
) -> None:
    """What is the same everywhere stays so, and the log says what was resized."""
    small, large = (32, 96) if name.startswith("swin") else (64, 96)
    source, target = (timm.create_model(name, img_size=size, **TIED[name]) for size in (small, large))
    if isinstance(getattr(source, "pos_embed", None), nn.Parameter):
        nn.init.constant_(source.pos_embed, 0.7)
    content = {"model": to_released(source)}
    if unfinished:
        content = {"run": {}, "form": "publication", "step": 3, "model": source.state_dict()}
    torch.save(content, tmp_path / "small.pth")
    (note,) = load_initial(target, tmp_path / "small.pth")
    assert note.startswith("Resized to the model's grid of tokens: ")
    tied = {key for key, value in source.state_dict().items() if value.shape != target.state_dict()[key].shape}
    assert any(f"{key} [" in note for key in tied)
    if "pos_embed" in tied:
        assert torch.allclose(target.pos_embed, torch.full_like(target.pos_embed, 0.7))
    for key, value in source.state_dict().items():
        if key not in tied and not key.endswith((".L", ".kernel_norm")):  # which follow from the templates
            assert torch.equal(value, target.state_dict()[key]), key
    assert target(torch.zeros(1, 3, large, large)).isfinite().all()


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_what_is_only_renamed_is_not_said_to_be_resized(name: str, tmp_path: Path) -> None:
    """timm has the layer between two stages at the head of the second, the release at the end of the first."""
    source = timm.create_model(name, num_classes=3, embed_dim=8, depths=(1, 1, 1), num_heads=(2, 2, 2))
    torch.save({"model": to_released(source)}, tmp_path / "same.pth")
    assert (
        load_initial(
            timm.create_model(name, num_classes=3, embed_dim=8, depths=(1, 1, 1), num_heads=(2, 2, 2)),
            tmp_path / "same.pth",
        )
        == []
    )


def test_a_position_embedding_of_no_square_grid_is_refused(tmp_path: Path) -> None:
    source = timm.create_model("vars_d_deit_tiny", img_size=(64, 96), **SMALL)
    torch.save(to_released(source), tmp_path / "wide.pth")
    with pytest.raises(UserError, match="pos_embed is of 24 places in the file, no square grid"):
        load_initial(timm.create_model("vars_d_deit_tiny", img_size=64, **SMALL), tmp_path / "wide.pth")


def test_a_position_embedding_keeps_its_places() -> None:
    """A gradient from left to right stays one; the class token keeps its own."""
    small, large = (timm.create_model("vars_d_deit_tiny", img_size=size, **SMALL) for size in (64, 128))
    ramp = torch.linspace(0, 1, 4).repeat(4)[None, :, None].expand(1, 16, 192)
    state = {"pos_embed": torch.cat([torch.full((1, 1, 192), 9.0), ramp], dim=1)}
    wide = resized(state, large)["pos_embed"]
    assert torch.equal(wide[:, 0], state["pos_embed"][:, 0])
    rows = wide[0, 1:, 0].unflatten(0, (8, 8))
    assert torch.allclose(rows, rows[:1].expand(8, 8), atol=1e-6)
    assert (rows.diff(dim=1) > 0).all()
    assert torch.equal(resized(state, small)["pos_embed"], state["pos_embed"])


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
    with pytest.raises(UserError, match="There is no checkpoint"):
        load_released(model(), tmp_path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(UserError, match="no state dict"):
        load_released(model(), path)


class Thing:
    """Something that only Python can restore."""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty; get it again."),
        (b"\n <!DOCTYPE html><html><head><title>Sign in</title>", "is an HTML page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS, not a checkpoint"),
        (b'{"message": "Not Found"}', "is a JSON file, not a checkpoint"),
        (b"\x1f\x8b\x08" + bytes(20), "is a gzip archive, not a checkpoint"),
        (b"\x93NUMPY\x01\x00", "is an array of NumPy, not a checkpoint"),
        (bytes(range(7, 255)), "is not a PyTorch checkpoint or is damaged; get it again."),
        (b"\xfd\x11" * 300, "is not a PyTorch checkpoint or is damaged; get it again."),
        (b"not a checkpoint", "is not a PyTorch checkpoint or is damaged; get it again."),
        (pickle.dumps(Thing()), "is a pickle of Python objects and is not loaded for safety"),
        (pickle.dumps({"a": 1}, protocol=2), "is a pickle of Python objects and is not loaded for safety"),
    ],
)
def test_a_file_is_called_what_it_is(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / "x.pth")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_tensors_are_refused_and_old_files_are_not(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": {"a": torch.ones(1)}}, path, _use_new_zipfile_serialization=zipped)
    assert read(path)["model"]["a"] == 1
    torch.save({"model": {"a": torch.ones(1)}, "thing": Thing()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="holds Python objects beside tensors and is not loaded for safety; save its"):
        read(path)


def test_flipped_bytes_in_our_own_weights_are_found(tmp_path: Path) -> None:
    path, state = tmp_path / "model.pt", to_released(model("rvt_tiny"))
    torch.save({"run": {}, "form": "publication", "model": state}, path)
    content = bytearray(path.read_bytes())
    where = bytes(content).index(state["head.weight"].numpy().tobytes())
    content[where : where + 4] = bytes(255 - byte for byte in content[where : where + 4])
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt is damaged \(in \d+\); get it again"):
        read(path)
