"""Teaching Matters: attention, similarity and tasks as released and by known answers; what the claims measure."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

import papers
from common import bench
from common.errors import UserError
from common.measurement import Finding, Measurement, Picture
from papers.teaching_matters import attention as att
from papers.teaching_matters import claims, experiment, full_scale, supervision, tasks, weights
from papers.teaching_matters.inside import attention_maps, block_tokens
from papers.teaching_matters.settings import released
from papers.teaching_matters.similarity import CKA, norm_ratio
from tests.parity import Fixture, distance
from tests.robustness.stand_ins import class_folders

SLUG = "teaching-matters"
ROUNDING = 1e-6


def tensors(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in Fixture.load(SLUG, name).arrays.items()}


@pytest.mark.parametrize("name", ["attention_metrics", "attention_metrics_null"])
def test_attention_is_measured_as_released(name: str) -> None:
    given = tensors(name)
    attention, labels = given["attention"], given["labels"]
    ours = {
        "attention_distance": att.attention_distance(attention),
        "spatial_cls": att.attention_on_class(attention, released=True),
        "attention_on_cls_true": att.attention_on_class(attention),
        "position_deviation": att.deviation_over_positions(attention),
        "head_deviation": att.deviation_over_heads(attention),
        "on_token_all": att.received(attention),
        "on_token_spatial": att.received(attention, "patches"),
        "on_token_spatial_pure": att.received(attention, "patches_to_patches"),
        "on_token_cls": att.received(attention, "class"),
        "per_class": att.received_by_class(attention, labels),
        "per_class_deviation": att.deviation_over_classes(attention, labels)[None],
        # The release divides by the number of batches, not of images.
        "aligned": att.aligned(attention) * len(attention) / len(given["batch_split"]),
        "aligned_after_offset": att.aligned(attention) / att.aligned(attention).sum(dim=(-2, -1), keepdim=True),
    }
    offsets = att.offsets(att.aligned(attention))
    ours |= {"offset_y": offsets[..., 0], "offset_x": offsets[..., 1], "offset_distance": offsets.norm(dim=-1)}
    assert set(ours) | {"attention", "labels", "batch_split"} >= set(given)
    for key in given.keys() & ours.keys():
        assert distance(ours[key], given[key].numpy()) < 1e-5, key


@pytest.mark.parametrize("source", ["class", "patches", "centre"])
@pytest.mark.parametrize("merge", [False, True])
def test_masks_of_attention_are_the_released_ones(source: str, merge: bool) -> None:
    given, about = tensors("attention_mask_iou"), Fixture.load(SLUG, "attention_mask_iou").about
    name = {"class": "cls", "patches": "spc", "centre": "center"}[source] + ("_merge" if merge else "")
    for order in ("fresh", "chain"):
        # In the released order of calls, rows of class and centre have been divided before heads are added up.
        equal = order == "chain" and source != "patches"
        masks = att.attention_masks(given["attention"], source, about["mass"], merge=merge, equal_heads=equal)
        assert torch.equal(masks, given[f"{order}_mask_{name}"].bool())
        scores = att.iou(masks, given["gt"].bool())
        assert distance(scores, given[f"{order}_iou_{name}"].numpy()) < ROUNDING


def test_similarity_is_the_released_one() -> None:
    given = tensors("cka")
    x, y = [given[f"x_l{i}"] for i in range(3)], [given[f"y_l{i}"] for i in range(2)]
    parts = {"all": slice(None), "cls": slice(0, 1), "spat": slice(1, None)}
    for part, tokens in parts.items():
        released = CKA(released=True)
        for batch in range(3):
            images = slice(8 * batch, 8 * batch + 8)
            released.add([one[images, tokens] for one in x], [one[images, tokens] for one in y])
            for layer, one in enumerate(x):
                other = 0.7 * one.roll(1, dims=2) + 0.1
                ratio = norm_ratio(one[images, tokens], other[images, tokens])
                assert float(ratio) == pytest.approx(float(given[f"norm_ratio_{part}"][layer, batch]), rel=1e-5)
        assert distance(released.value(), given[f"cka_{part}"].numpy()) < 1e-5


def test_clusters_agree_with_classes_as_released() -> None:
    given = Fixture.load(SLUG, "clustering").arrays
    for number, metrics in enumerate(given["metrics"]):
        ours = tasks.agreement(given["labels"], given[f"assignment_{number}"])
        assert list(ours.values()) == pytest.approx(metrics)
    # The library's own changes between versions may move single vectors.
    clusters = tasks.cluster(given["features"], len(np.unique(given["kmeans_labels"])))
    assert list(tasks.agreement(given["labels"], clusters).values()) == pytest.approx(given["kmeans_metrics"], abs=0.1)


def test_keypoints_are_transferred_as_released() -> None:
    given, about = tensors("keypoint_transfer"), Fixture.load(SLUG, "keypoint_transfer").about
    side = about["imsize"]
    source, target = given["features"][::2], given["features"][1::2]
    points, truth = given["keypoints"][::2], given["keypoints"][1::2]
    matches = tasks.transfer_keypoints(source, target, points[..., :2], side)
    both = (points[..., 2] * truth[..., 2]) > 0
    clear = given["match_margin"] > 1e-5
    assert torch.equal(matches[both][clear], given["matches"][clear])
    for alpha, expected in zip((0.1, 0.05, 0.01), given["pck"], strict=True):
        right = tasks.found(matches, truth[..., :2], given["thresholds"][1::2], alpha)
        assert float(right[both].float().mean()) == pytest.approx(float(expected))


def test_a_keypoint_on_the_last_row_stays_in_the_image() -> None:
    tokens = torch.eye(5)[None]  # four patches that have nothing in common
    found = tasks.transfer_keypoints(tokens, tokens, torch.tensor([[[7.9, 7.9]]]), side=8)
    assert int(found.min()) >= 6


def test_a_head_that_points_to_a_neighbour_has_an_offset() -> None:
    attention = claims.pointing(4, down=-1, right=1)
    assert float(att.offset_attention(attention)) == 1
    share = 9 / 16  # of the patches that have this neighbour
    down, right = att.offsets(att.aligned(attention))[0, 0].tolist()
    assert (down, right) == pytest.approx((-share / 3, share / 3))
    assert float(att.attention_distance(attention)) == pytest.approx(share * math.sqrt(2) / 3)
    even = torch.full((2, 1, 1, 17, 17), 1 / 17)
    assert float(att.offset_attention(even)) == pytest.approx(1 / 16)
    assert float(att.offsets(att.aligned(even)).abs().max()) < ROUNDING
    itself = torch.eye(17).expand(1, 1, 1, 17, 17)
    assert float(att.offset_attention(itself)) == float(att.attention_distance(itself)) == 0


def test_odd_attention_is_refused() -> None:
    with pytest.raises(UserError, match="no class token and a square"):
        att.attention_distance(torch.rand(1, 1, 1, 12, 12))
    with pytest.raises(UserError, match="not 'centroid'"):
        att.received(torch.rand(1, 1, 1, 17, 17), "centroid")
    with pytest.raises(UserError, match="not of 'centroid'"):
        att.attention_masks(torch.rand(1, 1, 1, 17, 17), "centroid", 0.6)


def test_cka_does_not_see_rotation_scale_and_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 5, generator=generator, dtype=torch.float64)
    turned, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))
    whole = CKA()
    whole.add([x], [3 * x @ turned + 7, torch.randn(16, 5, generator=generator, dtype=torch.float64)])
    same, other = whole.value()[0].tolist()
    assert same == pytest.approx(1)
    assert abs(other) < 0.5
    once = CKA(released=True)
    once.add([x], [3 * x @ turned + 7])
    assert float(once.value()) == pytest.approx(1)
    with pytest.raises(UserError, match="4 images"):
        CKA().add([x[:3]], [x[:3]])


def test_neighbours_and_precision_by_hand() -> None:
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    labels = torch.tensor([0, 0, 1, 1])
    test = torch.tensor([[2.0, 0.1], [0.1, 3.0]])
    assert tasks.nearest_neighbours(train, labels, test, k=3, temperature=0.07).tolist() == [0, 1]
    assert tasks.average_precision(test, torch.tensor([0, 1]), train, labels).tolist() == [1, 1]
    # The only relevant ones are the third and the fourth: (1/3 + 2/4) / 2.
    assert float(tasks.average_precision(test[:1], torch.tensor([1]), train, labels)) == pytest.approx(5 / 12)


@pytest.fixture(scope="module")
def vit() -> Any:
    torch.manual_seed(0)
    return bench.hosts.vit_mini().eval()


def test_a_look_inside_changes_nothing(vit: Any) -> None:
    images = torch.rand(2, 3, 28, 28)
    before = vit(images)
    maps, tokens = attention_maps(vit, images), block_tokens(vit, images)
    assert maps.shape == (2, 3, 3, 50, 50)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(2, 3, 3, 50))
    values = vit.blocks[2].attn.qkv(vit.blocks[2].norm1(tokens[:, 1])).unflatten(2, (3, 3, 16))[:, :, 2].transpose(1, 2)
    mixed = vit.blocks[2].attn.proj((maps[:, 2] @ values).transpose(1, 2).flatten(2)) + tokens[:, 1]
    torch.testing.assert_close(mixed + vit.blocks[2].mlp(vit.blocks[2].norm2(mixed)), tokens[:, 2])
    torch.testing.assert_close(vit.norm(tokens[:, -1]), vit.forward_features(images))
    assert torch.equal(vit(images), before)
    assert not any(module._forward_hooks for module in vit.modules())
    small: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 16,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 0,
    }
    beit = timm.create_model("beit_base_patch16_224", **small).eval()
    assert attention_maps(beit, torch.rand(1, 3, 32, 32)).shape == (1, 2, 2, 5, 5)
    with pytest.raises(UserError, match="no blocks of self-attention"):
        attention_maps(bench.hosts.resnet_mini(), images)
    with pytest.raises(UserError, match="not just a class token"):
        block_tokens(bench.hosts.vit_mini(class_token=False, global_pool="avg").eval(), images)


def test_a_masked_autoencoder_sees_and_scores_what_it_should() -> None:
    torch.manual_seed(0)
    model: Any = bench.hosts.vit_mini(kind=supervision.MaskedAutoencoder)
    mask = torch.rand(7, 7) < 0.75
    fine = mask.repeat_interleave(4, 0).repeat_interleave(4, 1)
    images = torch.randn(2, 3, 28, 28, requires_grad=True)
    model.pretraining, model.mask = True, mask
    logits, reconstructed = model.train(False)(images), None
    assert logits.shape == (2, 10), "a classifier in eval mode"
    latent = model.encode(images, mask)
    assert latent.shape == (2, 1 + int((~mask).sum()), 48)
    (gradient,) = torch.autograd.grad(latent.square().sum() + latent.sum(), images)
    assert not gradient[..., fine].any()
    assert gradient[..., ~fine].any()
    reconstructed = model.decode(latent, mask).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.loss(images, reconstructed), reconstructed)
    assert torch.equal(gradient.abs().amax(dim=(0, 2)) > 0, mask.flatten())
    logits, reconstructed = model.train()(images)
    encoder = [parameter for name, parameter in model.named_parameters() if not name.startswith("head")]
    assert all(g is None for g in torch.autograd.grad(logits.sum(), encoder, allow_unused=True))
    run: Any = SimpleNamespace()
    with pytest.raises(UserError, match="no decoder"):
        supervision.Masking(0.75, normalise=False).on_model(run, bench.hosts.vit_mini())


def test_labels_teach_a_contrastive_encoder_nothing() -> None:
    torch.manual_seed(0)
    model: Any = bench.hosts.vit_mini(kind=supervision.Contrastive).train()
    model.pretraining = True
    logits, embeddings = model(torch.rand(2, 3, 28, 28))
    assert embeddings.shape == (2, 128)
    encoder = [p for n, p in model.named_parameters() if not n.startswith(("head", "projection"))]
    assert all(g is None for g in torch.autograd.grad(logits.sum(), encoder, retain_graph=True, allow_unused=True))
    assert all(g is not None for g in torch.autograd.grad(embeddings.square().sum(), encoder))


def test_where_pixels_of_garments_went_is_known() -> None:
    first, second = experiment.canvases(True, 0), experiment.canvases(True, 1)
    source, target, size = experiment.keypoints(True)
    everyone = torch.arange(len(source))[:, None]
    before = first.images[everyone, source[..., 1], source[..., 0]]
    assert torch.equal(before, second.images[everyone, target[..., 1], target[..., 0]])
    assert first.masks[everyone, 0, source[..., 1], source[..., 0]].all()
    assert not torch.equal(source, target)
    assert ((size > 8) & (size <= 20)).all()


def test_quarters_of_an_object() -> None:
    objects = torch.zeros(1, 7, 7, dtype=torch.bool)
    objects[0, 1:5, 2:6] = True
    quarters = experiment.quarters(objects)
    assert torch.equal(quarters.any(dim=1), objects)
    assert quarters.sum(dim=(2, 3)).tolist() == [[4, 4, 4, 4]]
    assert quarters[0, 0, 1:3, 2:4].all()
    assert quarters[0, 3, 3:5, 4:6].all()


def test_identities_hold() -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(seed=0))
    assert {f.name: f.verdict for f in claims.instruments(run) if isinstance(f, Finding)} == dict.fromkeys(
        ("offset", "similarity", "purity"), "holds"
    )


def test_blocks_are_measured_and_drawn(vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "LABELLED", 200)
    monkeypatch.setattr(claims, "COMPARED", 40)
    found: Any = experiment.measure(vit, bench.host("vit_mini").settings(), quick=True)
    assert found["keypoint_pck"].shape == found["knn_top1/1"].shape == (2, 50)
    gain = found["relative_attention_distance/3"] - found["relative_attention_distance/1"]
    np.testing.assert_allclose(found["attention_distance_gain"], gain, atol=1e-6)
    names = [contender.name for contender in claims.contenders()]
    scores = bench.Scores({(name, seed): found for name in names for seed in (0, 1)})
    monkeypatch.setattr(bench, "scores", lambda run, contenders, measure: scores)
    monkeypatch.setattr(bench, "trained", lambda run, contender, seed: vit)
    settings = SimpleNamespace(quick=True, epochs=None)
    run: Any = SimpleNamespace(settings=settings, seeds=lambda: range(1), memo=lambda key, compute: compute())
    paper = papers.find(SLUG)
    for claim in paper.claims[:5]:
        results = list(getattr(claims, claim.name)(run))
        assert claim.primary in [result.name for result in results if isinstance(result, Finding)], claim.name
        pictures = [result for result in results if isinstance(result, Picture)]
        assert all(picture.svg.startswith("<svg") for picture in pictures)
    # The same network under all names: its representations are the same.
    alike = [result.value for result in claims.similarity(run) if isinstance(result, Measurement)]
    assert alike == pytest.approx([1.0] * 6)


def tiny_files(folder: Path) -> tuple[Any, dict[str, Path]]:
    """A network, and its encoder in files as released after pre-training: plain, MoCo-v3's, and a classifier's."""
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=10, depth=1)
    whole = model.state_dict()
    plain = {name: value for name, value in whole.items() if not name.startswith("head.")}
    moco = {f"module.{kind}_encoder.{n}": v for kind in ("base", "momentum") for n, v in plain.items()}
    moco |= {"module.base_encoder.head.0.weight": torch.zeros(2, 2), "module.predictor.0.weight": torch.zeros(2, 2)}
    files = {"plain": plain, "moco": {"state_dict": moco}, "classifier": {"model": whole}}
    paths = {name: folder / f"{name}.pth" for name in files}
    for name, content in files.items():
        torch.save(content, paths[name])
    return model, paths


def test_encoders_of_released_files_are_taken_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, paths = tiny_files(tmp_path)
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, num_classes: create(name, num_classes=num_classes, depth=1))
    monkeypatch.setattr(weights, "MODELS", ("vit_tiny_patch16_224",))
    settings = SimpleNamespace(checkpoint_weights=None, model=None, device="cpu")
    run: Any = SimpleNamespace(settings=settings)
    for path in paths.values():
        settings.checkpoint = path
        loaded, name = weights.load(run)
        assert name == "vit_tiny_patch16_224"
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, model.state_dict()[key])
    settings.model = "vit_small_patch16_224"
    with pytest.raises(UserError, match="does not fit"):
        weights.load(run)
    settings.model = "vit_tinny"
    with pytest.raises(UserError, match="no model 'vit_tinny'"):
        weights.load(run)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small network in place of the user's, for images of 64 pixels."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=0).eval()
    settings = replace(released(), image_size=64, pairs_per_category=2, cka_batch=4)
    monkeypatch.setattr(full_scale, "released", lambda: settings)
    monkeypatch.setattr(weights, "load", lambda run: (model, "vit_tiny_patch16_224"))
    return settings


def test_imagenet_is_looked_into(small: Any, tmp_path: Path) -> None:
    from common.robustness.benchmarks.classes import imagenet_wnids

    class_folders(tmp_path / "val", imagenet_wnids(), {imagenet_wnids()[3]: 6})
    settings = SimpleNamespace(folders={"imagenet": tmp_path}, limit=5, device="cpu")
    run: Any = SimpleNamespace(settings=settings)
    results: list[Any] = list(claims.imagenet_inside(run))
    *measured, heads, cka = results
    assert [one.metric for one in measured] == [
        "relative_attention_distance/1",
        "relative_attention_distance/2",
        "head_offset",
    ]
    assert measured[0].n == 5
    assert len(measured[0].detail["by_head"]) == 3
    assert heads.svg.startswith("<svg")
    assert cka.svg.startswith("<svg")
    settings.limit = 3
    with pytest.raises(UserError, match="too few for CKA"):
        list(claims.imagenet_inside(run))


def test_keypoints_of_spair_are_found_in_the_same_picture(small: Any, tmp_path: Path) -> None:
    for folder in ("PairAnnotation/test", "JPEGImages/cat"):
        (tmp_path / folder).mkdir(parents=True)
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(256, size=(60, 90, 3), dtype=np.uint8)).save(tmp_path / "JPEGImages/cat/a.png")
    # In the middles of patches of 16 pixels of the square image, where features are those of one patch.
    points = [[22.5 * column + 11.25, 22.5 * row - 3.75] for row in (1, 2) for column in (1, 2)]
    pair = {
        "category": "cat", "src_imname": "a.png", "trg_imname": "a.png", "src_kps": points, "trg_kps": points,
        "src_imsize": [90, 60, 3], "trg_imsize": [90, 60, 3], "trg_bndbox": [0, 0, 90, 60],
    }  # fmt: skip
    (tmp_path / "PairAnnotation/test/000001-a-a:cat.json").write_text(json.dumps(pair))
    settings = SimpleNamespace(folders={"spair-71k": tmp_path}, device="cpu")
    run: Any = SimpleNamespace(settings=settings, memo=lambda key, compute: compute())
    results: list[Any] = list(claims.spair(run))
    first, second = results
    assert (first.value, second.value) == (100, 100)
    assert first.n == 2
    pair.pop("trg_bndbox")
    (tmp_path / "PairAnnotation/test/000001-a-a:cat.json").write_text(json.dumps(pair))
    with pytest.raises(UserError, match="has no trg_bndbox"):
        list(claims.spair(run))
    (tmp_path / "PairAnnotation/test/000001-a-a:cat.json").write_text("<html>")
    with pytest.raises(UserError, match=r"cat\.json cannot be read"):
        list(claims.spair(run))
    settings.folders["spair-71k"] = tmp_path / "JPEGImages"
    with pytest.raises(UserError, match="no pairs in PairAnnotation/test"):
        list(claims.spair(run))
