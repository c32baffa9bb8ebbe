"""Patch perturbations: masks, the attack, rollout and temperature by known answers, and what the claims measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common import bench
from common.attention import LastAttention
from common.errors import UserError
from common.measurement import Finding
from papers.patch_perturbation import claims, experiment, imagenet
from papers.patch_perturbation.attention import attention_maps, patch_shares, rollout, tempered
from papers.patch_perturbation.method import PatchAttack, gradient, patch_masks, replaced, salient_positions
from tests.robustness.stand_ins import class_folders


class Bright(nn.Module):
    """Class 1 where the mean is above a threshold, class 0 below."""

    def __init__(self, threshold: float, weights: Tensor | None = None) -> None:
        super().__init__()
        self.threshold, self.weights = threshold, weights

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.weights is None else x * self.weights
        score = 50 * (x.mean(dim=(1, 2, 3)) - self.threshold)
        return torch.stack((-score, score), dim=1)


def test_masks_are_cells_of_the_grid() -> None:
    masks = patch_masks(torch.zeros(3, 3, 10, 9), 3, torch.tensor([0, 5, 8]))
    assert masks.shape == (3, 1, 10, 9)
    assert masks.sum(dim=(1, 2, 3)).tolist() == [9, 9, 9]
    assert masks[1, 0, 3:6, 6:9].all()
    assert masks[2, 0, 6:9, 6:9].all()
    images = torch.rand(3, 3, 10, 9)
    changed = replaced(images, torch.ones_like(images), masks)
    assert torch.equal(changed != images, masks.bool().expand_as(images))
    with pytest.raises(UserError, match="patches 0 to 8 of 3 pixels"):
        patch_masks(images, 3, torch.tensor([0, 9, 1]))
    with pytest.raises(UserError, match="does not fit"):
        patch_masks(images, 11, torch.zeros(3, dtype=torch.long))


def test_the_attack_brightens_its_patch_until_the_prediction_changes() -> None:
    images, noise = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    # A patch of 16 of 64 pixels can raise the mean to 0.25.
    attack = PatchAttack(size=4, step=0.1, steps=50)
    for threshold, expected in ((0.1, True), (0.3, False)):
        found, fooled = attack(Bright(threshold), images, torch.zeros(2).long(), torch.tensor([0, 3]), noise)
        assert fooled.tolist() == [expected] * 2
        assert found[0, :, :4, :4].min() == found[0].max()
        assert found[0, 0, 0, 0].item() == pytest.approx(0.5 if expected else 1.0), "no further than it must"
        assert found[0, :, 4:].max() == 0
        assert found[1, :, :4].max() == 0
    still, fooled = attack(Bright(-1.0), images, torch.zeros(2).long(), torch.tensor([0, 3]), noise)
    assert fooled.all()
    assert torch.equal(still, images), "wrong from the start"


def test_the_most_salient_patch_has_the_largest_gradient() -> None:
    weights = torch.ones(1, 1, 8, 8)
    weights[..., 4:, :4] = 9
    model, images, labels = Bright(0.1, weights), torch.rand(3, 3, 8, 8) / 50, torch.zeros(3).long()
    assert salient_positions(model, images, labels, 4).tolist() == [2, 2, 2]
    logits, _ = gradient(model, images, labels)
    assert torch.equal(logits, model(images))


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    return bench.hosts.vit_mini().eval()


def test_maps_are_those_of_the_blocks(vit: nn.Module) -> None:
    images = torch.rand(2, 3, 28, 28)
    maps = attention_maps(vit, images)
    assert [one.shape for one in maps] == [(2, 3, 50, 50)] * 3
    last = LastAttention(vit)
    with torch.no_grad():
        vit(images)
    torch.testing.assert_close(maps[-1][:, :, 0, 1:].mean(dim=1).unflatten(1, (7, 7)), last.take(28, 28))
    last.close()
    with pytest.raises(UserError, match="no attention of timm"):
        attention_maps(bench.hosts.resnet_mini(), images)


def test_rollout_by_hand() -> None:
    first = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]])
    second = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    mixed = [(one[0, 0] + torch.eye(2)) / 2 for one in (first, second)]
    torch.testing.assert_close(rollout([first, second], discard=0.0)[0], mixed[1] @ mixed[0])
    # The smallest of four entries is left out, then rows are divided by their sums.
    row = torch.tensor([0.0, 0.875]) / 0.875
    torch.testing.assert_close(rollout([first], discard=0.25)[0], torch.stack((mixed[0][0], row)))
    sums = torch.tensor([1.0, 0.875])
    released = torch.tensor([[0.75, 0.25], [0.0, 0.875]]) / sums
    torch.testing.assert_close(rollout([first], discard=0.25, released=True)[0], released)
    kept = rollout([torch.tensor([[[[0.1, 0.9], [0.5, 0.5]]]])], discard=0.25)[0]
    assert kept[0, 0] == pytest.approx((0.1 + 1) / 2), "what the first token keeps is not left out"


def test_shares_sum_to_one_with_and_without_class_token(vit: nn.Module) -> None:
    images = torch.rand(2, 3, 28, 28)
    pooled = bench.hosts.vit_mini(class_token=False, global_pool="avg", depth=1).eval()
    for model in (vit, pooled):
        shares = patch_shares(model, images)
        assert shares.shape == (2, 7, 7)
        torch.testing.assert_close(shares.sum(dim=(1, 2)), torch.ones(2))


def test_a_temperature_divides_logits_of_attention(vit: nn.Module) -> None:
    images = torch.rand(2, 3, 28, 28)
    (plain, *_), before = attention_maps(vit, images), vit(images)
    with tempered(vit, 2.0):
        (spread, *_), during = attention_maps(vit, images), vit(images)
    torch.testing.assert_close(spread, plain.sqrt() / plain.sqrt().sum(dim=-1, keepdim=True))
    assert not torch.allclose(before, during)
    assert torch.equal(vit(images), before)
    with pytest.raises(UserError, match="above 0"), tempered(vit, 0.0):
        pass


def test_hosts_are_measured_on_the_same_patches(vit: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "ATTACK", replace(experiment.ATTACK, steps=2))
    recipe = bench.host("vit_mini").settings()
    found: Any = experiment.fooling(vit, recipe, quick=True)
    assert found["patch_corruption_fooling"].shape == (15, 50)
    assert found["patch_attack_fooling"].shape == found["salient_patch_attack_fooling"].shape == (1, 50)
    changed, clean = experiment.corrupted_patches(True)
    for image, other, place in zip(changed[0], clean[0], experiment.positions(50), strict=True):
        rows, columns = (image != other).any(dim=0).nonzero(as_tuple=True)
        row, column = divmod(int(place), 7)
        assert set((rows // 4).tolist()) <= {row}
        assert set((columns // 4).tolist()) <= {column}
    explained: Any = experiment.attention(vit, recipe, quick=True)
    assert np.array_equal(explained["top1/1"], found["top1"])
    for state in experiment.STATES:
        assert ((explained[f"patch_attention/{state}"] > 0) & (explained[f"patch_attention/{state}"] < 1)).all()
    parts = claims._parts(
        bench.Scores({("vit_mini", 0): explained}),
        {state: {"patch_attention": f"patch_attention/{state}"} for state in experiment.STATES},
    )
    assert parts.contenders == ("vit_mini.clean", "vit_mini.corrupted", "vit_mini.attacked")
    assert claims._maps(vit, True, shown=1).svg.startswith("<svg")


def test_identities_hold() -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(seed=0))
    found = {f.name: f.verdict for f in claims.identity(run) if isinstance(f, Finding)}
    assert found == dict.fromkeys(("temperature", "rollout", "one_patch"), "holds")


def test_every_patch_of_imagenets_pictures_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from common.robustness.benchmarks.classes import imagenet_wnids

    class_folders(tmp_path / "val", imagenet_wnids(), {imagenet_wnids()[3]: 3})
    settings = SimpleNamespace(folders={"imagenet": tmp_path}, limit=2, device="cpu", batch_size=4)
    run: Any = SimpleNamespace(settings=settings, memo=lambda key, compute: compute())
    model = Bright(0.5)
    monkeypatch.setattr(imagenet, "load_model", lambda run: (model, "bright", "released"))
    corrupted, attacked = imagenet.measure(run, PatchAttack(size=112, step=0.5, steps=3))
    assert (corrupted.metric, attacked.metric) == imagenet.METRICS
    assert corrupted.n == attacked.n == 2
    assert 0 <= corrupted.value <= attacked.value <= 100
    assert "patches of 112 pixels" in attacked.protocol
    assert "2 images of a fixed random order" in attacked.protocol
