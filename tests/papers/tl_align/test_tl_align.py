"""TL-Align: parity with the released label tokens, the way of labels through Swin, and the hook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import papers.tl_align.training as training
from common import bench
from common.checkpoints import load_released
from common.errors import UserError
from common.training.data import TensorData
from common.training.hooks import Batch, Hook
from common.training.loop import train
from common.training.mixing import Mixed, Mixing, enlarge
from common.training.recipe import load_recipe
from papers.tl_align import claims, fluctuation
from papers.tl_align.method import TokenBoxes, align, token_labels
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance

RECIPE = Path(training.__file__).with_name("recipe.toml")
SWIN = {"img_size": 28, "num_classes": 10, "patch_size": 2, "window_size": 7, "embed_dim": 8, "depths": (2, 2),
        "num_heads": (1, 2)}  # fmt: skip
VIT = {"img_size": 28, "num_classes": 10, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
MODELS = {
    "class token": lambda: timm.create_model("deit_tiny_patch16_224", **VIT),
    "class and distillation token": lambda: timm.create_model("deit_tiny_distilled_patch16_224", **VIT),
    "average of patches": lambda: timm.create_model(
        "vit_tiny_patch16_224", **VIT, class_token=False, global_pool="avg"
    ),
    "swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", **SWIN),
}


def attentive(name: str) -> nn.Module:
    """A model whose attention is far from even, as that of a new one is not."""
    torch.manual_seed(0)
    model = MODELS[name]()
    for attention in (module for module in model.modules() if hasattr(module, "qkv")):
        nn.init.normal_(attention.qkv.weight, std=1.0)
    return model


each_model = pytest.mark.parametrize("name", MODELS)


def recorded() -> tuple[Fixture, Mixed]:
    fixture = Fixture.load("tl-align", "tiny_deit")
    tokens = torch.from_numpy(fixture.arrays["token_mask"]).float()
    first = torch.from_numpy(fixture.arrays["y"])
    one_hot = torch.full((4, 10), 0.01).scatter_(1, first[:, None], 0.91)
    mask = enlarge(tokens, 64, 64).expand(4, -1, -1)
    return fixture, Mixed(one_hot, one_hot.flip(0), mask)


def test_labels_of_every_block_are_the_released_ones() -> None:
    fixture, mixed = recorded()
    about, arrays = fixture.about, fixture.arrays
    model = VisionTransformer(**about["model"]).eval()
    assert sum(p.numel() for p in model.parameters()) == about["params"]
    load_released(model, fixture.state())
    labels = token_labels(model)
    logits = model(torch.from_numpy(arrays["x_mixed"]))
    assert distance(logits, arrays["logits"]) < OUTPUT_TOLERANCE
    shares = labels.by_block(mixed.mask)
    by_token = [mixed.first[:, None] + s[:, :, None] * (mixed.second - mixed.first)[:, None] for s in shares]
    assert distance(by_token[0], arrays["label_tokens_in"]) < OUTPUT_TOLERANCE
    assert distance(torch.stack(by_token[1:]), arrays["labels_per_block"]) < OUTPUT_TOLERANCE
    target = mixed.labels(labels.pooled(shares[-1]))
    assert distance(target, arrays["aligned_label"]) < OUTPUT_TOLERANCE
    loss = torch.nn.functional.cross_entropy(logits, target)
    assert distance(loss, arrays["soft_ce"]) < OUTPUT_TOLERANCE
    assert distance(mixed.labels(mixed.share), arrays["aligned_label"]) > 0.01, "alignment moves the label"


def test_boxes_are_the_released_ones(monkeypatch) -> None:
    fixture, mixed = recorded()
    draws = [value for _, _, value in fixture.about["mask_draw_log"]] * 2  # the record of the mask draws again
    for name in ("rand", "beta", "randint"):
        monkeypatch.setattr(np.random, name, lambda *args, **kwargs: draws.pop(0))
    mixing = Mixing(TokenBoxes(grid=(4, 4), mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=10))
    labels = torch.from_numpy(fixture.arrays["y"])
    images, targets, found = mixing(torch.from_numpy(fixture.arrays["x"]), labels)
    assert torch.equal(found.mask, mixed.mask)
    assert distance(images, fixture.arrays["x_mixed"]) < OUTPUT_TOLERANCE
    torch.testing.assert_close(found.first, mixed.first)
    torch.testing.assert_close(targets[:, None], torch.from_numpy(fixture.arrays["label_tokens_in"][:, :1]))
    assert not draws


def mask(batch: int = 2) -> Tensor:
    made = torch.zeros(batch, 28, 28)
    made[0, 4:20, 8:24], made[1, 16:] = 1, 1
    return made


@each_model
def test_labels_follow_a_pass_that_is_made_anyway(name: str) -> None:
    model, images = attentive(name).eval(), torch.randn(2, 3, 28, 28)
    before = sum(len(module._forward_hooks) for module in model.modules())
    labels = token_labels(model)
    model(images)
    shares = labels.by_block(mask())
    assert all(((each >= 0) & (each <= 1)).all() for each in shares)
    assert not shares[-1].requires_grad
    model(images)
    aligned = labels.take(mask())
    torch.testing.assert_close(aligned, labels.pooled(shares[-1]))
    assert (aligned - mask().mean(dim=(1, 2))).abs().max() > 1e-3
    model(images)
    torch.testing.assert_close(labels.take(torch.full((2, 28, 28), 0.3)), torch.full((2,), 0.3))
    labels.close()
    assert sum(len(module._forward_hooks) for module in model.modules()) == before


class _Routes(nn.Module):
    """Attention of a Swin block on one channel, by the map that softmax gives without a fused kernel."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.maps: list[Tensor] = []
        attention.fused_attn = False
        attention.attn_drop.register_forward_hook(lambda module, args, output: self.maps.append(args[0].detach()))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.maps[-1].mean(dim=1) @ x


def test_labels_go_through_windows_as_tokens_do() -> None:
    """By the block's own shifts and windows, with its attention put in the place of what makes it."""
    torch.manual_seed(0)
    model = MODELS["swin"]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    labels, images = token_labels(model), torch.randn(2, 3, 28, 28)
    routes = [[_Routes(block.attn) for block in stage.blocks] for stage in model.layers]
    model(images)
    found = labels.by_block(mask())
    now, expected = mask()[:, ::2, ::2, None], []
    assert any(any(block.shift_size) for stage in model.layers for block in stage.blocks)
    for stage, own in zip(model.layers, routes, strict=True):
        if not isinstance(stage.downsample, nn.Identity):
            now = nn.functional.avg_pool2d(now[..., 0], 2)[..., None]
        for block, route in zip(stage.blocks, own, strict=True):
            block.attn = route
            now = (now + block._attn(now)) / 2
            expected.append(now.flatten(1))
    for ours, theirs in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(labels.pooled(found[-1]), now.mean(dim=(1, 2, 3)))


def test_models_without_such_attention_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be followed through ResNet"):
        token_labels(bench.hosts.resnet_mini())
    model = timm.create_model("swin_tiny_patch4_window7_224", **{**SWIN, "img_size": 32})
    labels = token_labels(model)
    model(torch.randn(2, 3, 32, 32))
    with pytest.raises(UserError, match="do not divide"):
        labels.take(torch.zeros(2, 32, 32))


def test_each_token_attending_to_itself_moves_nothing() -> None:
    labels = torch.rand(2, 5, 3)
    assert torch.equal(align(labels, torch.eye(5).expand(2, 4, -1, -1)), labels)


def data() -> TensorData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(32) % 10
    return TensorData(images, labels, images[:16], labels[:16])


def few_steps(*changes: str):
    steps = ("epochs=1", "epoch_images=16", "total_batch=8", "warmup_epochs=0", "evaluate_every=1", "mix_probability=1")
    return load_recipe(RECIPE, "embedded", changes=(*steps, *changes))


class Watch(Hook):
    """Keeps the batches as the hooks before it left them."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def on_output(self, run, batch) -> None:
        self.batches.append(batch)


def trained(name: str, *changes: str) -> tuple[list[Batch], Sequence[Hook], nn.Module]:
    recipe, model, watch = few_steps(*changes), attentive(name), Watch()
    hooks = training.hooks(recipe)
    result = train(model, recipe, data(), hooks=(*hooks, watch))
    assert np.isfinite(result.metrics["loss"])
    return watch.batches, hooks, model


@each_model
def test_training_takes_the_aligned_label(name: str) -> None:
    batches, (hook,), model = trained(name)
    area, (plain,), _ = trained(name, "method.label_mixing=area")
    assert plain.share is None
    for aligned, by_area in zip(batches, area, strict=True):
        torch.testing.assert_close(by_area.targets, by_area.mixed.labels(by_area.mixed.share))
        torch.testing.assert_close(aligned.targets.sum(dim=1), torch.ones(8))
        assert torch.equal(aligned.mixed.mask, by_area.mixed.mask)
        if aligned.mixed.share.max() > 0:
            assert not torch.allclose(aligned.targets, by_area.targets, atol=1e-4)
    torch.testing.assert_close(batches[-1].targets, batches[-1].mixed.labels(hook.share))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("method.label_mixing=alined", "aligned, area"),
        ("method.grid=1", "at least 2"),
        ("cutmix=0.0", "never does: set cutmix"),
        ("mix_mode=pair", "mix_mode=batch"),
    ],
)
def test_bad_recipes_are_told_in_a_sentence(change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        training.hooks(few_steps(change))


def test_identities_hold() -> None:
    run = SimpleNamespace(settings=SimpleNamespace(seed=0))
    found = {finding.name: finding.verdict for finding in claims.identity(run)}
    assert set(found.values()) == {"holds"}
    assert set(found) == {"distribution", "product", "identity", "mixup"}


def test_gaps_are_by_block_and_pair() -> None:
    torch.manual_seed(0)
    found = fluctuation.by_depth(bench.hosts.vit_mini().eval(), few_steps(), quick=True)
    blocks = [found[f"{fluctuation.GAP}/{block}"] for block in (1, 2, 3)]
    assert all(block.shape == (2, 25) for block in blocks)
    assert blocks[0].mean() > 0
    assert blocks[0].max() <= 1
