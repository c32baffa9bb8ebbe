"""GETAM: parity of maps, refinement, labels and network with the release, losses, single-stage training, scenes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import papers
from common import bench
from common.checkpoints import load_released, to_released
from common.data.preprocessing import Preprocessing
from common.errors import UserError
from common.run import Run
from common.run import Settings as RunSettings
from common.training.data import TensorData
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import Recipe, load_recipe
from papers.getam import claims, experiment, pascal_voc
from papers.getam.experiment import Segmenter
from papers.getam.labels import IGNORED, normalised, opened, pseudo_labels
from papers.getam.losses import balanced_cross_entropy, dense_energy, saliency_loss
from papers.getam.method import class_activation, class_maps, grad_cam, layer_maps, recorded_attention, rollout
from papers.getam.model import DPT, create
from papers.getam.refinement import refine
from papers.getam.training import Settings, SingleStage, hooks, labels_for
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance, images


def recorded(name: str) -> tuple[Fixture, dict[str, Tensor]]:
    fixture = Fixture.load("getam", name)
    return fixture, {key: torch.from_numpy(array) for key, array in fixture.arrays.items()}


# -- parity


@pytest.mark.parametrize(("name", "prefix"), [("class_activation", 1), ("class_activation_distilled", 2)])
def test_maps_match_the_release(name: str, prefix: int) -> None:
    fixture, of = recorded(name)
    start = fixture.about["start_layer"]
    attention, gradient = list(of["attention"]), list(of["gradient"])
    layers = torch.stack([layer_maps(a, g) for a, g in zip(attention, gradient, strict=True)], dim=1)
    assert distance(layers[:, start:], fixture.arrays["layer_maps"]) < OUTPUT_TOLERANCE
    cam = class_activation(attention, gradient, start_layer=start)[:, prefix:].view(of["cam"].shape)
    assert distance(cam, fixture.arrays["cam"]) < OUTPUT_TOLERANCE
    side = 16 * cam.shape[-1]
    large = F.interpolate(cam[:, None], size=(side, side), mode="bilinear", align_corners=True)[:, 0]
    corner = of["cam_upsampled_corner"].shape[-1]
    assert distance(large[:, :corner, :corner], fixture.arrays["cam_upsampled_corner"]) < OUTPUT_TOLERANCE


def test_refinement_matches_the_release() -> None:
    fixture, of = recorded("pamr")
    refined = refine(
        of["image"], of["mask"], iterations=fixture.about["iterations"], dilations=fixture.about["dilations"]
    )
    assert distance(refined, fixture.arrays["refined"]) < OUTPUT_TOLERANCE


def test_pseudo_labels_match_the_release() -> None:
    fixture, of = recorded("pseudo_label")
    maps = torch.zeros(1, 20, 64, 64)
    maps[0, of["classes"]] = of["cam"]
    labels, completed = pseudo_labels(maps, of["saliency"][None] > 0, cut=fixture.about["cut_threshold"])
    assert torch.equal(labels[0], of["label"].long())
    assert torch.equal(completed[0], of["saliency_after"] == 255)
    assert completed.any()
    assert torch.equal(opened(of["before_opening"][None] > 0, 10)[0], of["opened"] > 0)


def test_the_hybrid_network_matches_the_release() -> None:
    fixture = Fixture.load("getam", "vitb_hybrid")
    with torch.device("meta"):  # without the cost of random weights
        model: Any = timm.create_model("getam_vit_hybrid")
    model.to_empty(device="cpu")
    unread, counters = set(fixture.about["unread"]), set(fixture.about["integer_state"])
    state = fixture.state()
    load_released(model, state)
    returned = to_released(model)
    assert set(returned) - counters == set(state) - unread
    assert all(torch.equal(returned[name], state[name]) for name in state if name not in unread)
    model.eval()
    with torch.inference_mode():
        maps = model.forward_features(images(1, 3, 64, 96))
        assert distance(model.forward_head(maps), fixture.arrays["logits"]) < OUTPUT_TOLERANCE
        assert distance(model.segment(maps)[:, :, ::4, ::4], fixture.arrays["pixels"]) < OUTPUT_TOLERANCE


# -- maps


def small(prefix: int = 1) -> Any:
    torch.manual_seed(0)
    name = "deit_base_distilled_patch16_384" if prefix == 2 else "vit_base_patch16_384"
    return timm.create_model(name, depth=2, embed_dim=24, num_heads=3, img_size=32, num_classes=5)


@pytest.mark.parametrize("prefix", [1, 2])
def test_maps_are_those_of_one_pass_for_each_class_and_image(prefix: int) -> None:
    model = small(prefix).eval()
    x = torch.rand(2, 3, 32, 32)
    present = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    maps = class_maps(model, x, present, prefix=prefix)
    assert maps.shape == (2, 5, 4)
    assert not maps[~present].any()
    model.set_grad_checkpointing()
    torch.testing.assert_close(class_maps(model, x, present, prefix=prefix), maps)
    model.set_grad_checkpointing(False)
    for label in (0, 2):
        with recorded_attention(model) as attention:
            logit = model(x[:1])[0, label]
        gradient = torch.autograd.grad(logit, attention)
        assert torch.allclose(maps[0, label], class_activation(attention, gradient)[0, prefix:], atol=1e-12)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(block.attn.fused_attn for block in model.blocks)


def test_other_readings_have_known_answers() -> None:
    uniform = torch.full((1, 2, 3, 3), 1 / 3)
    assert torch.allclose(rollout([uniform], []), torch.tensor([[2 / 3, 1 / 6, 1 / 6]]))
    attention = torch.eye(3).expand(1, 2, 3, 3)
    gradient = torch.ones(1, 2, 3, 3)
    gradient[:, 1] = -3.0
    assert not grad_cam([attention], [gradient]).any(), "the heads' weights are 1 and -3"


def test_a_network_without_attention_has_no_maps() -> None:
    with pytest.raises(UserError, match="no attention to read"):
        class_maps(bench.hosts.resnet_mini(), torch.rand(1, 3, 28, 28), torch.ones(1, 10, dtype=torch.bool))


@pytest.mark.parametrize("claim", [claims.elementwise])
def test_exact_claims_hold(claim: Any) -> None:
    found: list[Any] = list(claim(cast(Run, SimpleNamespace(settings=RunSettings()))))
    assert {finding.verdict for finding in found} == {"holds"}


def test_the_claim_sees_a_map_without_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "class_activation", partial(class_activation, square=False))
    found: list[Any] = list(claims.elementwise(cast(Run, SimpleNamespace(settings=RunSettings()))))
    assert found[0].verdict == "does not hold"


# -- labels and losses


def test_completion_finds_what_saliency_overlooks_and_leaves_what_has_a_label() -> None:
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, 0, :4] = 0.5
    maps[0, 0, 0] = 0.9
    maps[0, 2, 4:] = 0.6
    maps[0, 2, 7] = 1.0
    salient = torch.zeros(1, 8, 8, dtype=torch.bool)
    salient[:, :4] = True
    plain, nothing = pseudo_labels(maps, salient, cut=None, opening=1)
    assert not nothing.any()
    assert plain[0, :4].unique().tolist() == [1]
    assert plain[0, 4:].unique().tolist() == [0]
    labels, completed = pseudo_labels(maps, salient, cut=0.7, opening=1)
    assert torch.equal(completed, labels == 3)
    assert labels[0, 7].unique().tolist() == [3]
    assert labels[0, 4:7].unique().tolist() == [0]
    assert pseudo_labels(0 * maps, salient, opening=1)[0][0, 0, 0] == IGNORED


def test_maps_of_absent_classes_are_labels_of_none() -> None:
    labels, completed = pseudo_labels(normalised(torch.zeros(1, 3, 8, 8)), torch.zeros(1, 8, 8, dtype=torch.bool))
    assert not labels.any()
    assert not completed.any()


def test_background_and_objects_count_alike() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    labels = torch.tensor([[[0, 0], [2, IGNORED]]])
    assert balanced_cross_entropy(logits, labels).item() == pytest.approx(2 * np.log(3))
    assert balanced_cross_entropy(logits, torch.full_like(labels, IGNORED)) == 0
    logits[:, 0, 0] = 50.0
    assert balanced_cross_entropy(logits, labels).item() == pytest.approx(np.log(3))


def test_saliency_is_the_cross_entropy_of_background() -> None:
    logits, background = torch.randn(1, 4, 3, 3), torch.rand(1, 3, 3) < 0.5
    expected = F.binary_cross_entropy(logits.softmax(dim=1)[:, 0], background.float())
    assert torch.allclose(saliency_loss(logits, background), expected)


def test_dense_energy_is_a_sum_over_pairs() -> None:
    torch.manual_seed(0)
    x, logits = 255 * torch.rand(1, 3, 4, 4), torch.randn(1, 2, 4, 4, requires_grad=True)
    ignored = torch.zeros(1, 4, 4, dtype=torch.bool)
    ignored[0, 0] = True
    energy = dense_energy(x, logits, ignored, scale=1.0, sigma_rgb=60.0, sigma_xy=2.0, rows=5)
    p = logits.detach().softmax(dim=1)[0].flatten(1)
    gate = torch.where(ignored[0].flatten(), 1.0, 1 - p.amax(dim=0))
    expected = 0.0
    for i in range(16):
        for j in range(16):
            apart = (i // 4 - j // 4) ** 2 + (i % 4 - j % 4) ** 2
            colours = (x[0, :, i // 4, i % 4] - x[0, :, j // 4, j % 4]).square().sum()
            weight = torch.exp(-(apart / 2**2 + colours / 60**2) / 2)
            expected -= float(weight * gate[i] * (p[:, i] @ p[:, j]))
    assert energy.item() == pytest.approx(expected, rel=1e-4)
    energy.backward()
    assert logits.grad is not None
    alike = torch.zeros(1, 2, 4, 4)
    alike[:, 0] = 4.0
    assert dense_energy(x, alike, ~ignored, scale=0.5, sigma_rgb=60.0, sigma_xy=2.0) < 0


# -- the network


def test_it_behaves_as_timms_models_do() -> None:
    with torch.device("meta"):
        model: Any = create("getam_deit_distilled")
    maps = model.forward_features(torch.rand(1, 3, 64, 96, device="meta"))
    assert [tuple(each.shape) for each in maps] == [
        (1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3),
    ]  # fmt: skip
    assert model.segment(maps).shape == (1, 21, 64, 96)
    model.reset_classifier(4)
    assert model.forward_head(maps).shape == (1, 4)
    assert model.segment(maps).shape == (1, 5, 64, 96)
    model.set_grad_checkpointing()
    model.segmenting = True
    logits, pixels = model.train()(torch.rand(2, 3, 64, 64, device="meta"))
    assert (logits.shape, pixels.shape) == ((2, 4), (2, 5, 64, 64))
    assert model.no_weight_decay() >= {"backbone.cls_token", "backbone.pos_embed"}


def test_sizes_and_names_that_are_none() -> None:
    with torch.device("meta"):
        model = create("getam_vit")
    with pytest.raises(UserError, match="multiples of 32"):
        model.forward_features(torch.rand(1, 3, 48, 64, device="meta"))
    with pytest.raises(UserError, match=r"no GETAM called 'getam_vi'\. Did you mean"):
        create("getam_vi")
    with pytest.raises(UserError, match="Nothing is downloaded"):
        create("getam_vit", pretrained=True)


# -- training


def recipe(*changes: str) -> Recipe:
    short = ("total_batch=16", "epoch_images=64", "epochs=1", "evaluate_every=1", "warmup_epochs=0")
    return load_recipe(papers.find("getam").recipe, "embedded").with_changes(*short, *changes)


@pytest.fixture(scope="module")
def garments() -> TensorData:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 28, 28), generator=draws, dtype=torch.uint8)
    return TensorData(pixels, torch.arange(64), pixels[:20], torch.arange(20) % 10, num_classes=10)


def known(numbers: Tensor) -> tuple[Tensor, Tensor]:
    present = F.one_hot(numbers % 10, 10).bool() | F.one_hot(numbers // 10, 10).bool()
    salient = torch.zeros(len(numbers), 28, 28, dtype=torch.bool)
    salient[:, 8:20, 8:20] = True
    return present, salient


def trained(garments: TensorData, *changes: str) -> Segmenter:
    torch.manual_seed(0)
    model = Segmenter()
    chosen = recipe(*changes)
    train(model, chosen, garments, seed=0, hooks=[SingleStage(chosen, known)], options=Options(device="cpu"))
    return model


def test_the_segmentation_network_learns_in_the_second_part_alone(garments: TensorData) -> None:
    torch.manual_seed(0)
    start = Segmenter().state_dict()
    first = trained(garments, "method.classification_share=0.99", "epoch_images=48").state_dict()
    assert torch.equal(first["segmentation.weight"], start["segmentation.weight"])
    assert not torch.equal(first["head.weight"], start["head.weight"])
    both = trained(garments)
    assert not torch.equal(both.segmentation.weight, start["segmentation.weight"])
    assert not both.segmenting


@pytest.mark.parametrize("change", ["method.saliency=released", "method.saliency=none", "method.energy_weight=0.01"])
def test_every_loss_changes_the_step(garments: TensorData, change: str) -> None:
    assert not torch.equal(trained(garments, change).coarse.weight, trained(garments).coarse.weight)


def test_labels_are_of_classes_that_are_there_whatever_their_number() -> None:
    torch.manual_seed(0)
    model = Segmenter().eval()
    present, salient = known(torch.tensor([37, 11, 90]))
    settings = Settings(**recipe().method)  # type: ignore[arg-type]
    labels, _ = labels_for(model, torch.randn(3, 3, 28, 28), present, salient, settings)
    for own, there in zip(labels, present, strict=True):
        assert set(own.unique().tolist()) <= {0, IGNORED, *(1 + there.nonzero()[:, 0]).tolist()}
    assert (labels == 8).any() or (labels == 4).any()


def test_the_rate_falls_as_a_polynomial_and_by_a_factor_in_the_second_part(garments: TensorData) -> None:
    rates = []

    class Listener(SingleStage):
        def on_step(self, run: Any) -> None:
            rates.append(run.optimizer.param_groups[0]["lr"])

    chosen = recipe("optimizer=sgd", "learning_rate=0.01", "schedule=constant", "method.power=0.9",
                    "method.segmentation_rate=0.1")  # fmt: skip
    train(Segmenter(), chosen, garments, seed=0, hooks=[Listener(chosen, known)], options=Options(device="cpu"))
    assert rates == pytest.approx([0.01, 0.01 * 0.75**0.9, 0.001 * 0.5**0.9, 0.001 * 0.25**0.9])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("method.saliency=salent", "Did you mean"),
        ("method.cut=1.0", r"cut lies in \[0, 1\)"),
        ("method.opening=0", "at least one pixel"),
        ("method.start_layer=-1", "count from 0"),
        ("method.sigma_xy=0.0", "sigma_xy is above 0"),
        ("method.segmentation_rate=0.1", "set method.power above 0"),
        ("method.power=0.9", "set schedule=constant"),
        ("label_smoothing=0.1", "set label_smoothing=0"),
    ],
)
def test_bad_values_of_a_recipe(change: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        hooks(recipe(change))


def test_training_needs_supervision_and_a_network_that_segments(garments: TensorData) -> None:
    with pytest.raises(UserError, match="several labels and a saliency map"):
        train(Segmenter(), recipe(), garments, hooks=hooks(recipe()), options=Options(device="cpu"))
    supervised = [SingleStage(recipe(), known)]
    with pytest.raises(UserError, match="cannot segment"):
        train(bench.hosts.resnet_mini(), recipe(), garments, hooks=supervised, options=Options(device="cpu"))
    deep = recipe("method.start_layer=3")
    with pytest.raises(UserError, match=r"0 to 2, and maps start at layer 3: set method\.start_layer"):
        train(Segmenter(), deep, garments, hooks=[SingleStage(deep, known)], options=Options(device="cpu"))


# -- what is measured


def test_maps_of_a_network_that_knows_the_masks_segment_without_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def exact(model: Any, x: Tensor, present: Tensor, reading: str) -> Tensor:
        bright = (x[:, 0] - x[:, 0].amin(dim=(1, 2), keepdim=True)) > 0.05
        return bright[:, None].float() * present[:, :, None, None]

    from common.bench import scenes

    square = torch.zeros(4, 3, 28, 28, dtype=torch.uint8)
    square[:, :, 5:15, 5:15] = 200
    semantic = (square[:, 0] > 0).to(torch.uint8) * 3
    some = scenes.Scenes(square, semantic, (square[:, 0] > 0).to(torch.uint8))
    monkeypatch.setattr(scenes, "test_scenes", lambda quick: some)
    monkeypatch.setattr(scenes, "tuning_scenes", lambda quick: some)
    monkeypatch.setattr(experiment, "maps_of", exact)
    assert experiment.miou_of_maps(Segmenter().eval(), recipe(), True, "getam") == 1
    present, salient = experiment.known_of(some)
    assert present.nonzero()[:, 1].tolist() == [2] * 4
    assert torch.equal(salient, square[:, 0] > 0)
    monkeypatch.setattr(experiment, "maps_of", lambda *args: torch.zeros(4, 10, 28, 28))
    assert experiment.miou_of_maps(Segmenter().eval(), recipe(), True, "getam") < 0.5


@pytest.mark.parametrize("reading", [*experiment.READINGS, experiment.CAM])
def test_every_reading_gives_maps_of_the_classes_that_are_there(reading: str) -> None:
    torch.manual_seed(0)
    model = Segmenter().eval()
    present = torch.zeros(2, 10, dtype=torch.bool)
    present[0, 3] = present[0, 6] = present[1, 6] = True
    maps = experiment.maps_of(model, torch.randn(2, 3, 28, 28), present, reading)
    assert maps.shape == (2, 10, 28, 28)
    assert 0 <= maps.min() <= maps.max() <= 1
    assert not maps[~present].any()


def test_pascal_voc_counts_all_but_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "VOC2012"
    for place in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (folder / place).mkdir(parents=True)
    classes = np.zeros((40, 50), np.uint8)
    classes[:20] = 3
    classes[20] = 255
    Image.fromarray(classes, mode="L").convert("P").save(folder / "SegmentationClass" / "a.png")
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(folder / "JPEGImages" / "a.jpg")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")

    class Always(DPT):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.num_classes, self.weight = 20, torch.nn.Parameter(torch.zeros(1))
            self.pretrained_cfg = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}

        def forward_features(self, x: Tensor) -> list[Tensor]:
            return [x]

        def segment(self, maps: list[Tensor]) -> Tensor:
            one = torch.zeros(1, 21, *maps[0].shape[-2:])
            one[:, 3] = 1.0
            return one

    monkeypatch.setattr(pascal_voc, "load_model", lambda run: (Always(), "getam_vit", "released"))
    monkeypatch.setattr(Preprocessing, "of", lambda model: SimpleNamespace(mean=(0.5,) * 3, std=(0.5,) * 3))
    settings = RunSettings(folders={"pascal-voc": tmp_path}, workers=0)
    run = SimpleNamespace(settings=settings, memo=lambda key, compute: compute())
    (one,) = pascal_voc.measure(cast(Run, run))
    assert one.key == ("getam_vit", "pascal-voc-2012-val", "miou")
    share = 20 / 39  # class 3 of what is not void; background is never found
    assert one.value == pytest.approx(100 * share / 2, abs=1)
    monkeypatch.setattr(pascal_voc, "load_model", lambda run: (small(), "vit", "released"))
    with pytest.raises(UserError, match="20 classes"):
        next(pascal_voc.measure(cast(Run, run)))
