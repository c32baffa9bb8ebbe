"""AugReg: files of its networks, what pre-training has beside its settings, and what makes up for how many images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from common import bench
from common.checkpoints import load_released, to_released
from common.errors import UserError
from common.training.hooks import Batch
from common.training.recipe import load_recipe
from papers.augreg import claims
from papers.augreg.training import HeadBias, SigmoidLoss, hooks
from papers.vit import claims as vit
from papers.vit.training import Dropout

RECIPE = Path(claims.__file__).with_name("recipe.toml")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224"])
def test_a_released_file_loads_strictly(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    origin: Any = timm.create_model(name, depth=2, img_size=32)
    for parameter in origin.parameters():
        nn.init.normal_(parameter)
    state = to_released(origin)
    assert ("conv_root/kernel" in state and "gn_root/scale" in state) == ("_r_" in name)
    np.savez(tmp_path / "a.npz", **{key: value.detach().numpy() for key, value in state.items()})  # type: ignore[arg-type]
    loaded = load_released(timm.create_model(name, depth=2, img_size=32), tmp_path / "a.npz")
    own = loaded.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in origin.state_dict().items())
    with pytest.raises(UserError, match=r"blocks\.2"):
        load_released(timm.create_model(name, depth=3, img_size=32), tmp_path / "a.npz")


def test_size_of_a_file_of_pre_training(tmp_path: Path) -> None:
    arrays = {"a/kernel": np.zeros((3, 5), np.float32), "Transformer/encoder_norm/bias": np.zeros(7, np.float32)}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    assert claims.npz_bytes({name: value.size for name, value in arrays.items()}) == (tmp_path / "a.npz").stat().st_size
    (size,) = (one for one in claims.model_size("vit_tiny_patch16_224") if one.metric == "checkpoint_size")
    assert size.model == "vit_tiny_patch16_224.best_i21k"
    head, rest = 193 * 21843, 5717416 - 193 * 1000
    assert size.value == pytest.approx(4 * (head + rest) / 2**20, abs=0.1)
    assert not [one for one in claims.model_size("vit_tiny_patch16_384") if one.metric == "checkpoint_size"]


@pytest.mark.parametrize(
    ("setting", "model", "values"),
    [
        ("imagenet", "vit_tiny_patch16_224", {"auto_augment": "rand-m0-n2-mmax20", "mixup": 0.0, "mixes": False}),
        ("imagenet", "vit_small_patch32_224", {"auto_augment": "rand-m15-n2-mmax20", "mixup": 0.2}),
        ("imagenet", "vit_large_patch16_224", {"mixup": 0.5, "weight_decay": 0.1, "total_batch": 4096}),
        ("imagenet_21k", "vit_small_patch16_224", {"auto_augment": "rand-m0-n2-mmax20", "num_classes": 21843}),
        ("imagenet_21k", "vit_base_patch32_224", {"auto_augment": "rand-m10-n2-mmax20", "mixup": 0.2}),
        ("imagenet_21k", "vit_small_patch32_224", {"auto_augment": "", "mixes": False}),
        ("cifar_10", "vit_base_patch16_384", {"learning_rate": 0.003, "epochs": 103}),
    ],
)
def test_settings_are_those_of_the_released_configurations(setting: str, model: str, values: dict[str, Any]) -> None:
    recipe = load_recipe(RECIPE, setting, model=model)
    assert {key: getattr(recipe, key) for key in values} == values


def test_hooks_of_pre_training_and_of_fine_tuning() -> None:
    loss, bias = hooks(load_recipe(RECIPE, "imagenet_21k", model="vit_base_patch16_224"))
    assert isinstance(loss, SigmoidLoss)
    assert isinstance(bias, HeadBias)
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=5)
    bias.on_model(None, model)  # type: ignore[arg-type]
    assert torch.equal(model.get_parameter("head.bias"), torch.full((5,), -10.0))
    # "No AugReg during fine-tuning", though ViT's own setting has dropout for this network.
    assert not hooks(load_recipe(RECIPE, "finetune_384", model="vit_large_patch16_384"))
    (dropout,) = hooks(load_recipe(RECIPE, "finetune_384", changes=("method.dropout=0.1",)))
    assert isinstance(dropout, Dropout)
    with pytest.raises(UserError, match="sigmoid"):
        hooks(load_recipe(RECIPE, "imagenet", changes=("method.loss=sigmoit",)))


def test_the_loss_is_a_sum_over_classes_and_a_mean_over_images() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    shares = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0]])
    batch = Batch(torch.zeros(2), torch.tensor([0, 1]), shares, logits=logits)
    expected = -(shares * logits.sigmoid().log() + (1 - shares) * (-logits).sigmoid().log()).sum() / 2
    torch.testing.assert_close(SigmoidLoss().on_loss(None, batch, torch.zeros(())), expected)  # type: ignore[arg-type]
    batch.targets = torch.tensor([0, 1])
    hard = SigmoidLoss().on_loss(None, batch, torch.zeros(()))  # type: ignore[arg-type]
    assert hard.item() == pytest.approx((0.1269 + 0.3133 + 0.9741 + 0.6931 + 0.0486 + 0.1269) / 2, abs=1e-3)


# -- the bench


def test_contenders_differ_in_data_augmentation_and_regularisation_alone() -> None:
    known = {one.name: one for one in claims.contenders()}
    assert known.keys() >= {one.name for one in vit.contenders() if one.name.startswith(vit.VIT)}
    both, plain = known[claims.AUGREG], known[claims.SOME_PLAIN]
    assert both.data() is plain.data()
    ours, base = both.settings().as_dict(), plain.settings().as_dict()
    different = {key for key, value in ours.items() if value != base[key]}
    assert different == {"train_crop", "crop_padding", "mixup", "mix_probability", "changes"}
    model: Any = both.build()
    assert [block.drop_path1.drop_prob for block in model.blocks[1:]] == pytest.approx([0.05, 0.1])
    assert not [module for module in plain.build().modules() if isinstance(module, DropPath)]
    assert model.blocks[0].mlp.drop1.p == model.pos_drop.p == 0.1


def test_the_factor_of_data_is_read_from_the_plain_networks() -> None:
    accuracy = {
        vit.name_of(vit.VIT, vit.FEW): 0.70,
        vit.name_of(vit.VIT, vit.SOME): 0.80,
        vit.name_of(vit.VIT, vit.MANY): 0.90,
        claims.AUGMENTED: 0.85,  # between 6,400 and 51,200 images, in the middle of the logarithm
        claims.REGULARISED: 0.80,
        claims.AUGREG: 0.95,  # better than with all
        claims.ALL_AUGREG: 0.9,
    }
    right = {name: np.arange(20 * 500).reshape(20, 500) < share * 20 * 500 for name, share in accuracy.items()}
    values: dict[tuple[str, int], Any] = {(name, 0): {"top1": hits} for name, hits in right.items()}
    found = claims.factors(bench.Scores(values))
    expected = {claims.AUGMENTED: 8**0.5, claims.REGULARISED: 1.0, claims.AUGREG: 8.0}
    assert {name: found.mean(name, "data_factor") for name in expected} == pytest.approx(expected)
    assert claims.heat_map(bench.Scores(values)).svg.count("95.0") == 1
