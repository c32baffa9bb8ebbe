"""Sequencer: timm's models against the release, what a BiLSTM2D sees and costs, and stochastic depth as released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models.sequencer import LSTM2d, Sequencer2d
from torch import nn

from common import bench
from common.checkpoints import load_initial, load_released, to_released
from common.errors import UserError
from common.training.recipe import load_recipe
from papers.sequencer import resolution, sequences
from papers.sequencer.mini import pooled_vit_mini, sequencer_mini
from papers.sequencer.training import LinearDropPath, hooks
from tests.parity import check_model, images

RECIPE = Path(sequences.__file__).with_name("recipe.toml")
WIDTHS = {"embed_dims": (16, 32, 32, 32), "hidden_sizes": (4, 8, 8, 8)}
SMALL: dict[str, Any] = {"layers": (2, 1, 2, 1), **WIDTHS, "num_classes": 7}


def small(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("sequencer2d_s", **{**SMALL, **kwargs})


def test_model_matches_the_release() -> None:
    check_model("sequencer", "sequencer2d_s")


def test_released_names_load_strictly_and_come_back() -> None:
    state = to_released(small())
    assert {"head.weight", "blocks.0.2.down.weight", "blocks.2.2.down.bias", "blocks.2.1.norm1.bias"} <= set(state)
    loaded = load_released(small(), {"model": {name: torch.randn_like(value) for name, value in state.items()}})
    again = load_released(small(), to_released(loaded))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in
               load_released(small(), loaded.state_dict()).state_dict().items())  # fmt: skip

    first = next(iter(state))
    with pytest.raises(UserError, match=first):
        load_released(small(), {name: value for name, value in state.items() if name != first})
    with pytest.raises(UserError, match="surplus"):
        load_released(small(), {**state, "surplus": torch.zeros(1)})
    with pytest.raises(UserError, match="build the"):
        load_released(small(layers=(1, 1, 2, 1)), state)


def test_training_starts_from_a_file_of_other_classes_with_a_new_classifier(tmp_path: Path) -> None:
    file, origin = tmp_path / "sequencer.pth", small(num_classes=9)
    torch.nn.init.ones_(origin.norm.bias)
    torch.save(to_released(origin), file)
    model = small()
    assert load_initial(model, file)
    assert torch.equal(model.norm.bias, origin.norm.bias)


def test_a_bilstm2d_sees_row_and_column() -> None:
    assert [finding.verdict for finding in sequences.reach()] == ["holds", "holds"]
    torch.manual_seed(0)
    assert sequences.seen(LSTM2d(8, 2, union="horizontal")).sum() == sequences.WIDTH
    # A single LSTM without a direction back sees what comes before the token alone.
    assert sequences.seen(LSTM2d(8, 2, union="vertical", bidirectional=False)).sum() == sequences.HEIGHT // 2 + 1


def test_cost_is_that_of_the_closed_form() -> None:
    assert sequences.cost().verdict == "holds"
    weights = sum(p.numel() for p in LSTM2d(16, 4, bias=False).parameters()) - 16  # the last layer has a bias
    assert sequences.closed_form(tokens=1, channels=16, hidden=4) == weights


@pytest.mark.parametrize("size", [56, 70])
def test_other_sizes_need_no_conversion(size: int) -> None:
    model = load_released(small(), to_released(small())).eval()
    assert model(images(1, 3, size, size)).shape == (1, 7)


def test_stochastic_depth_grows_linearly_as_released() -> None:
    model = small(drop_path_rate=0.5)
    LinearDropPath(0.5).on_model(None, model)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert all(isinstance(block.drop_path, DropPath) for stage in model.stages for block in stage.blocks)


# -- the bench


def test_the_small_network_starts_as_its_stem_and_differs_from_the_vit_in_what_mixes_tokens() -> None:
    torch.manual_seed(0)
    networks = [sequencer_mini(union) for union in ("cat", "add", "vertical", "horizontal")]
    x = images(2, 3, 28, 28)
    for model in networks:
        assert isinstance(model, Sequencer2d)
        pooled = model.eval().norm(model.stem(x)).mean(dim=(1, 2))
        torch.testing.assert_close(model(x), model.head.fc(pooled))
    vit: Any = pooled_vit_mini().eval()
    assert vit.cls_token is None
    stages: Any = networks[0].stages
    block, other = vit.blocks[0], stages[0].blocks[0]
    assert block.mlp.fc1.weight.shape == other.mlp_channels.fc1.weight.shape
    torch.testing.assert_close(vit(x), vit.head(vit.forward_features(x).mean(dim=1)))


class Centre(nn.Module):
    """Says class 1 where the middle of the image is bright: right at any size; wrong at ``failing`` pixels."""

    def __init__(self, failing: int = 0) -> None:
        super().__init__()
        self.failing, self.scale = failing, nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = x.shape[-1]
        value = x[:, 0, side // 2, side // 2] * self.scale
        value = -value if side == self.failing else value
        return torch.stack([-value, value], dim=1)


def test_accuracy_at_other_sizes_is_that_of_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.zeros(20, 3, 3, 28, 28, dtype=torch.uint8)
    pixels[:, 1:] = 255
    labels = torch.tensor([0, 1, 0]).repeat(20, 1)  # the third is never right
    monkeypatch.setattr(bench, "test_set", lambda quick: bench.TestSet(pixels, labels, pixels, pixels))
    recipe = bench.host("vit_mini").settings(quick=True)
    measured: Any = resolution.measure(Centre(failing=56), recipe, True)
    assert measured["top1"].mean() == pytest.approx(2 / 3)
    by_size = {size: measured[f"resolution_top1/{size}"] for size in resolution.SIZES}
    assert by_size == {size: pytest.approx(1 / 3 if size == 56 else 2 / 3) for size in resolution.SIZES}
    assert measured["resolution_loss"].mean() == pytest.approx((1 / 3) / len(resolution.SIZES))
    other: Any = resolution.measure(Centre(), recipe, True)
    scores = bench.Scores({("a", 0): measured, ("b", 0): other})
    assert scores.mean("b", "resolution_loss") == 0
    assert resolution.curve(scores).svg.count("<path") > 4


def test_positions_of_a_vit_are_resized_and_other_networks_stay() -> None:
    model: Any = pooled_vit_mini().eval()
    larger: Any = resolution.for_size(model, 56)
    assert (model.pos_embed.shape[1], larger.pos_embed.shape[1]) == (49, 196)
    assert larger(images(1, 3, 56, 56)).shape == (1, 10)
    assert torch.equal(resolution.for_size(model, 28)(images(1, 3, 28, 28)), model(images(1, 3, 28, 28)))
    plain = sequencer_mini()
    assert resolution.for_size(plain, 56) is plain
    smaller: Any = resolution.for_size(bench.hosts.vit_mini(), 20)
    assert smaller.pos_embed.shape[1] == 26


def test_a_wrong_course_of_stochastic_depth_is_one_sentence() -> None:
    recipe = load_recipe(RECIPE, "imagenet", model="sequencer2d_s", changes=("method.drop_path=linar",))
    with pytest.raises(UserError, match="linear"):
        hooks(recipe)
    assert [type(hook) for hook in hooks(load_recipe(RECIPE, "finetune_392"))] == [LinearDropPath]
    assert not hooks(load_recipe(RECIPE, "embedded"))
