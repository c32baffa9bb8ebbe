"""Dense self-supervision: the contrast, the network, stages of training, and what is measured on scenes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import papers
from common.bench import scenes
from common.bench.scenes import Scenes
from common.errors import UserError
from common.run import Run
from common.run import Settings as RunSettings
from common.training.data import TensorData
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import Recipe, load_recipe
from papers.dense_ssl_vit import claims, experiment, method
from papers.dense_ssl_vit.experiment import Dense, encoder
from papers.dense_ssl_vit.method import contrast_across_views
from papers.dense_ssl_vit.model import DenseViT, create
from papers.dense_ssl_vit.training import hooks
from papers.simclr.method import nt_xent


def run() -> Run:
    return cast(Run, SimpleNamespace(settings=RunSettings()))


# -- the contrast


def test_exact_claims_hold() -> None:
    found: list[Any] = list(claims.loss(run()))
    assert {finding.name: finding.verdict for finding in found} == dict.fromkeys(
        ("definition", "places", "views", "repetition", "negatives"), "holds"
    )


def test_the_claim_sees_negatives_of_the_same_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_mask(anchors: Tensor, features: Tensor, temperature: float, group: int = 0) -> Tensor:
        count = len(anchors) // 2
        scores = torch.einsum("id,jqd->ijq", anchors[:count], features[count:]) / temperature
        own = scores[torch.arange(count), torch.arange(count)]
        return (scores.flatten(1).logsumexp(dim=1, keepdim=True) - own).mean()

    monkeypatch.setattr(claims, "contrast_across_views", without_mask)
    found = {finding.name: finding for finding in cast(Iterator[Any], claims.loss(run()))}
    assert found["definition"].verdict == "does not hold"


def test_groups_are_batches_of_their_own() -> None:
    torch.manual_seed(0)
    anchors, features = torch.randn(2, 6, 8), torch.randn(2, 6, 3, 8)
    grouped = contrast_across_views(anchors.flatten(0, 1), features.flatten(0, 1), 0.2, group=2)
    alone = [
        contrast_across_views(anchors[:, i : i + 2].flatten(0, 1), features[:, i : i + 2].flatten(0, 1), 0.2)
        for i in (0, 2, 4)
    ]
    assert torch.allclose(grouped, torch.stack(alone).mean())
    assert contrast_across_views(anchors.flatten(0, 1), features.flatten(0, 1), 0.2) > grouped


def test_two_processes_contrast_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    anchors, features = torch.randn(2, 6, 8), torch.randn(2, 6, 3, 8)
    whole = contrast_across_views(anchors.flatten(0, 1), features.flatten(0, 1), 0.2)
    unit, parts = F.normalize(features, dim=-1).flip(0), []
    for rank, own in enumerate((slice(0, 3), slice(3, 6))):
        # Each view of the other process, in the order in which they are gathered: the second view comes first.
        others = iter(unit[:, 3:] if rank == 0 else unit[:, :3])

        def gathered(mine: Tensor, rank: int = rank, others: Iterator[Tensor] = others) -> Tensor:
            return torch.cat([mine, next(others)] if rank == 0 else [next(others), mine])

        monkeypatch.setattr(method, "world", lambda rank=rank: (rank, 2))
        monkeypatch.setattr(method, "gather", gathered)
        parts.append(contrast_across_views(anchors[:, own].flatten(0, 1), features[:, own].flatten(0, 1), 0.2))
    assert torch.allclose(torch.stack(parts).mean(), whole)


def test_two_images_have_a_known_answer() -> None:
    """Views agree and images are orthogonal: one positive of 1, and N negatives of 0."""
    unit = torch.eye(2)
    anchors, features = torch.cat([unit, unit]), torch.cat([unit, unit])[:, None].expand(-1, 5, -1)
    expected = torch.log(1 + 5 * torch.exp(torch.tensor(-1 / 0.5)))
    assert contrast_across_views(7 * anchors, 3 * features, 0.5).item() == pytest.approx(expected.item())


def test_the_global_form_has_half_of_simclrs_negatives() -> None:
    torch.manual_seed(0)
    whole = torch.randn(8, 4)
    assert contrast_across_views(whole, whole[:, None], 0.2) < nt_xent(whole, 0.2)


@pytest.mark.parametrize(
    ("views", "temperature", "group", "says"),
    [(8, 0.0, 0, "above 0"), (2, 0.2, 0, "2 at least"), (8, 0.2, 3, "groups of 3"), (8, 0.2, 1, "2 at least")],
)
def test_what_cannot_be_contrasted(views: int, temperature: float, group: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        contrast_across_views(torch.randn(views, 4), torch.randn(views, 3, 4), temperature, group)


# -- the network


def test_it_behaves_as_timms_models_do() -> None:
    small: dict[str, Any] = {"embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": 32, "projection": (16, 8)}
    model: Any = timm.create_model("dense_ssl_vit_small_patch16_224", num_classes=5, **small)
    x = torch.randn(2, 3, 32, 32)
    model.pretraining = True
    logits, whole, local = model.train()(x)
    assert (logits.shape, whole.shape, local.shape) == ((2, 5), (2, 8), (2, 4, 8))
    logits.sum().backward()
    assert model.patch_embed.proj.weight.grad is None, "the classifier watches"
    assert model.eval()(x).shape == (2, 5)
    maps = timm.create_model("dense_ssl_vit_small_patch16_224", features_only=True, **small)(x)
    assert maps[-1].shape == (2, 24, 2, 2)
    with pytest.raises(UserError, match="Did you mean"):
        create("dense_ssl_vit_smal_patch16_224")
    with pytest.raises(UserError, match="were released"):
        create("dense_ssl_vit_small_patch16_224", pretrained=True)


# -- training


def recipe(*changes: str) -> Recipe:
    short = ("total_batch=16", "epoch_images=32", "epochs=1", "evaluate_every=1", "warmup_epochs=0")
    return load_recipe(papers.find("dense-ssl-vit").recipe, "embedded").with_changes(*short, *changes)


@pytest.fixture(scope="module")
def garments() -> TensorData:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 28, 28), generator=draws, dtype=torch.uint8)
    labels = torch.arange(64) % 10
    return TensorData(pixels, labels, pixels[:20], labels[:20])


def trained(data: TensorData, *changes: str) -> DenseViT:
    torch.manual_seed(0)
    model = encoder()
    chosen = recipe(*changes)
    train(model, chosen, data, seed=0, hooks=hooks(chosen), options=Options(device="cpu"))
    return model


def test_labels_do_not_reach_the_encoder(garments: TensorData) -> None:
    shuffled = TensorData(garments.train[0], garments.train[1].flip(0), *garments.validation)
    model = trained(garments)
    assert not model.pretraining
    own, other = model.state_dict(), trained(shuffled).state_dict()
    for name, tensor in own.items():
        assert torch.equal(tensor, other[name]) != name.startswith("head."), name


@pytest.mark.parametrize("change", ["method.features=global", "method.group=4", "method.temperature=0.5"])
def test_every_setting_changes_what_is_learnt(garments: TensorData, change: str) -> None:
    plain, changed = trained(garments).state_dict(), trained(garments, change).state_dict()
    assert not torch.equal(plain["blocks.0.attn.qkv.weight"], changed["blocks.0.attn.qkv.weight"])


def test_on_scenes_labels_are_looked_up_by_number(garments: TensorData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "largest_classes", lambda: torch.arange(64) % 10)
    numbered = TensorData(garments.train[0], torch.arange(64), *garments.validation, num_classes=10)
    torch.manual_seed(0)
    model = encoder()
    train(model, recipe(), numbered, seed=0, hooks=experiment.pretraining(recipe()), options=Options(device="cpu"))
    assert torch.equal(model.state_dict()["head.weight"], trained(garments).state_dict()["head.weight"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("method.features=locl", "Did you mean"),
        ("method.temperature=0", "method.temperature above 0"),
        ("method.group=-1", "method.group to 0 or more"),
        ("label_smoothing=0.1", "set label_smoothing=0"),
    ],
)
def test_bad_values_of_a_recipe(change: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        hooks(recipe(change))


def test_pretraining_needs_projection_heads(garments: TensorData) -> None:
    plain = timm.create_model("vit_tiny_patch16_224", img_size=28, patch_size=4, depth=1, num_classes=10)
    with pytest.raises(UserError, match="no projection heads"):
        train(plain, recipe(), garments, hooks=hooks(recipe()), options=Options(device="cpu"))


# -- what is measured


def test_a_linear_layer_learns_what_features_hold_and_leaves_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes of one bright square, whose pixels the features of random weights tell apart from black."""
    draws = torch.Generator().manual_seed(0)
    order = torch.zeros(64, 28, 28, dtype=torch.uint8)
    for one, (top, left) in zip(order, torch.randint(0, 5, (64, 2), generator=draws).tolist(), strict=True):
        one[4 * top : 4 * top + 12, 4 * left : 4 * left + 12] = 1
    some = Scenes((200 * order)[:, None].expand(-1, 3, -1, -1), 3 * order, order)
    monkeypatch.setattr(scenes, "training_scenes", lambda: some)
    monkeypatch.setattr(scenes, "test_scenes", lambda quick: some)
    monkeypatch.setattr(experiment, "QUICK_LABELLED", 64)
    monkeypatch.setattr(experiment, "BATCH", 64)
    torch.manual_seed(0)
    model = encoder().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    untrained = experiment.measure(model, recipe(), True)
    assert list(untrained) == list(experiment.METRICS)
    monkeypatch.setattr(experiment, "QUICK_EPOCHS", 100)
    told = experiment.told_after_learning(model, scenes.SEMANTIC, experiment.segmentation_loss, recipe(), True, True)
    assert scenes.miou(told.argmax(dim=1), some.semantic) > max(0.8, float(untrained["frozen_miou"]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_token_tells_its_own_pixels() -> None:
    torch.manual_seed(0)
    network = Dense(encoder(), 2).eval()
    tokens = torch.zeros(1, 49, 48)
    told = network.pixels(tokens)
    tokens[0, 9] = 1.0
    rows, columns = (network.pixels(tokens) != told)[0, 0].nonzero().unbind(dim=1)
    assert (rows.unique().tolist(), columns.unique().tolist()) == ([4, 5, 6, 7], [8, 9, 10, 11])
