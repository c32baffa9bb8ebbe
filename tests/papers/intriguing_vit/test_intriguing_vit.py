"""Intriguing ViT: parity of segmentation by attention, curves, cue conflicts, variants, and full-scale claims."""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import papers
from common import bench
from common.attention import LastAttention, attention_masks, best_head, jaccard, resize_input
from common.bench import cue_conflict
from common.bench.cue_conflict import PIECE, conflicts, decisions, garments, partners, textures
from common.checkpoints import load_released, to_released
from common.data import loading
from common.data.preprocessing import Preprocessing
from common.data.voc import VOCSegmentation, class_masks
from common.errors import UserError
from common.measurement import Measurement, Picture
from common.robustness.full_scale_measures import identify
from common.robustness.occlusion import salient_tiles
from common.robustness.occlusion_curves import accuracies, conditions
from common.run import Run, Settings
from papers.intriguing_vit import claims, experiment, objects, pascal_voc
from papers.intriguing_vit.model import VARIANTS, create
from tests.parity import OUTPUT_TOLERANCE, Fixture, distance, fill, images

FIXTURE = Fixture.load("intriguing-vit", "segmentation")
SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3}
STATISTICS = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(array)) for name, array in FIXTURE.arrays.items()}


def released(kind: str) -> nn.Module:
    """The recorded network as timm has it."""
    name = {"plain": "deit_tiny_patch16_224", "distilled": "deit_tiny_distilled_patch16_224"}[kind]
    model = timm.create_model(name, **SMALL)
    shapes = FIXTURE.about["state"][kind]
    load_released(model, {tensor: fill(tensor, tuple(shape)) for tensor, shape in shapes.items()})
    assert resize_input(model, 512) == 512
    return model.eval()


@pytest.mark.parametrize(
    ("name", "kind", "token"),
    [("plain", "plain", 0), ("class_token", "distilled", 0), ("distillation_token", "distilled", 1)],
)
def test_parity_of_attention_and_masks_at_512_pixels(recorded, name, kind, token) -> None:
    model, image = released(kind), images(1, 3, 512, 512)
    listener = LastAttention(model, token)
    with torch.no_grad():
        model(image)
    heads = listener.take_heads(512, 512)
    listener.close()
    assert distance(heads[0].flatten(1), recorded[f"{name}_attention"].numpy()) < OUTPUT_TOLERANCE
    for share in (0.5, 0.9):
        masks = attention_masks(model, image, share=share, token=token)
        assert masks.shape == (1, 3, 512, 512)
        # Where the cumulative mass passes the share, rounding may put a patch on either side.
        different = masks[0, :, ::16, ::16] != recorded[f"{name}_mask_{share}"]
        assert different.sum() <= 3
        exact = salient_tiles(recorded[f"{name}_attention"], share).view(3, 32, 32)
        assert torch.equal(exact, recorded[f"{name}_mask_{share}"])


def test_parity_of_the_index(recorded) -> None:
    truth = class_masks(recorded["target"])[None]
    assert truth.shape[1] == 2
    assert float(best_head(recorded["candidates"][None], truth)) == pytest.approx(float(recorded["jaccard"]), abs=1e-6)


def test_index_of_known_masks() -> None:
    first, second = torch.zeros(2, 1, 1, 4, 4).bool()
    first[..., :2, :] = True
    second[..., 1:3, :] = True
    assert jaccard(first, second).item() == pytest.approx(1 / 3)
    assert jaccard(first, first).item() == 1
    counted = torch.ones(1, 4, 4).bool()
    counted[:, 1:] = False
    assert jaccard(first, second, counted).item() == 0
    objects_and_none = torch.cat([second, torch.zeros_like(second)], dim=1)
    assert best_head(torch.cat([first, second], dim=1), objects_and_none).item() == 1, "places without object are none"
    assert torch.isnan(best_head(first, torch.zeros_like(first))).all()
    with pytest.raises(UserError, match="cannot be compared"):
        jaccard(first, torch.zeros(1, 1, 2, 2).bool())


def test_masks_of_attention_take_what_they_should() -> None:
    torch.manual_seed(0)
    model = objects.finer(bench.hosts.vit_mini().eval())
    few, most = (attention_masks(model, torch.randn(2, 3, 56, 56), share=share) for share in (0.3, 0.95))
    assert few.shape == (2, 3, 56, 56)
    assert 0 < few.float().mean() < most.float().mean() < 1
    assert not [module for module in model.modules() if module._forward_hooks], "it stops listening"
    with pytest.raises(UserError, match="no attention"):
        attention_masks(bench.hosts.resnet_mini(), torch.zeros(1, 3, 28, 28))
    with pytest.raises(UserError, match="no token 1"):
        attention_masks(model, torch.zeros(1, 3, 56, 56), token=1)


class Brightness(nn.Module):
    """Class 1 for images that are bright on the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean(dim=(1, 2, 3)) - self.threshold
        return torch.stack([-bright, bright], dim=1)


def test_curves_of_a_model_whose_answers_are_known() -> None:
    """Images of 0.5 are bright until more than half of the tiles are gone; shuffling changes nothing."""
    pixels, labels = torch.full((6, 3, 28, 28), 0.5), torch.ones(6).long()
    heat = torch.zeros(6, 49)
    heat[:, :7] = 1  # the first row is salient
    chosen = conditions(grid=7, shares=(0.3, 0.7), shuffle_grids=(2, 7), salient=True)
    scores = accuracies(
        Brightness(), [(pixels[:4], labels[:4], heat[:4]), (pixels[4:], labels[4:], heat[4:])], chosen, **STATISTICS
    )
    assert scores == {
        "top1": 100.0,
        "random_drop_top1/0.3": 100.0,
        "random_drop_top1/0.7": 0.0,
        "salient_drop_top1/0.3": 100.0,
        "salient_drop_top1/0.7": 100.0,
        "nonsalient_drop_top1/0.3": 0.0,
        "nonsalient_drop_top1/0.7": 0.0,
        "shuffle_top1/2x2": 100.0,
        "shuffle_top1/7x7": 100.0,
    }


def test_draws_do_not_depend_on_the_batches() -> None:
    torch.manual_seed(0)
    pixels, labels = torch.rand(6, 3, 28, 28), torch.tensor([0, 1] * 3)
    chosen = conditions(grid=7, shares=(0.5,), shuffle_grids=(7,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 2))
    whole = accuracies(model, [(pixels, labels)], chosen, **STATISTICS)
    assert whole == accuracies(model, zip(pixels.split(2), labels.split(2), strict=True), chosen, **STATISTICS)


def test_saliency_is_asked_for_where_it_is_missing() -> None:
    batch = [(torch.rand(2, 3, 28, 28), torch.zeros(2).long())]
    chosen = conditions(grid=7, shares=(0.5,), shuffle_grids=(), salient=True)
    with pytest.raises(UserError, match="saliency"):
        accuracies(Brightness(), batch, chosen, **STATISTICS)
    accuracies(Brightness(), batch, chosen, **STATISTICS, saliency=lambda x: torch.ones(len(x), 49))
    with pytest.raises(UserError, match="at least one image"):
        accuracies(Brightness(), [], chosen, **STATISTICS)


@pytest.mark.parametrize("name", ["deit_tiny_no_position_patch16_224", "deit_tiny_patch22_224"])
def test_input_size_is_rounded_to_the_patches(name) -> None:
    model = timm.create_model(name, depth=1)
    side = resize_input(model, 120)
    assert side == {16: 112, 22: 110}[model.patch_embed.patch_size[0]]
    assert model(torch.zeros(1, 3, side, side)).shape == (1, 1000)


def test_cue_conflicts_have_one_garments_shape_and_anothers_texture() -> None:
    tests = bench.test_set(quick=True)
    images, labels = tests.clean[0, :, 0], tests.labels[0]
    mask = garments(images)
    made = conflicts(images, mask, labels)
    assert (made.texture_labels != labels).all()
    assert torch.equal(made.conflict[~mask], images[~mask])
    assert torch.equal(made.conflict[mask], made.texture[mask])
    assert made.shape[mask].unique().numel() == 1
    assert torch.equal(made.shape[~mask], images[~mask])


def test_training_for_shape_keeps_silhouettes_and_takes_textures_of_others() -> None:
    plain, textured = bench.training_data().train, experiment.textured_garments().train
    mask = garments(plain[0][:100])
    assert torch.equal(plain[1], textured[1])
    assert torch.equal(plain[0][:100][~mask], textured[0][:100][~mask])
    assert (plain[0][:100][mask] != textured[0][:100][mask]).float().mean() > 0.9


def test_partners_and_textures() -> None:
    assert partners(torch.tensor([0, 0, 1, 1, 0])).tolist() == [2, 2, 4, 4, 2]
    donor = torch.arange(28 * 28).view(1, 28, 28)
    texture = textures(donor, 28)[0]
    middle = donor[0, 9:19, 9:19]
    assert torch.equal(texture[:PIECE, :PIECE], middle)
    assert torch.equal(texture[PIECE : 2 * PIECE, :PIECE], middle.flip(0)), "mirrored, so that it has no seam"


def test_the_identity_holds(tmp_path: Path) -> None:
    run = Run(papers.find("intriguing-vit"), Settings(quick=True), tmp_path)
    assert [finding.verdict for finding in claims.permutation_invariance(run)] == ["holds"] * 3


@pytest.fixture
def few_images(monkeypatch) -> bench.TestSet:
    """20 test images a subset."""
    tests = bench.test_set(quick=True)
    few = bench.TestSet(*(getattr(tests, name)[:, :20] for name in ("clean", "labels", "corrupted", "occluded")))
    monkeypatch.setattr(bench, "test_set", lambda quick: few)
    monkeypatch.setattr(cue_conflict, "test_set", lambda quick: few)
    caches = (
        experiment.changed_images, cue_conflict.test_conflicts, objects.test_canvases, objects.tuning_canvases
    )  # fmt: skip
    for made in caches:
        made.cache_clear()
    yield few
    for made in caches:
        made.cache_clear()


def test_conditions_are_met_by_cells_of_rotating_subsets(few_images) -> None:
    changed = experiment.changed_images(True)
    assert len(changed) == 3 * 9 + 4
    images = few_images.clean[2]
    tiles = nn.functional.max_pool2d(images[:, :1].float(), 4)[:, 0].flatten(1) > 0
    kept = nn.functional.max_pool2d(changed["random_drop_top1/0.3"][:, :1].float(), 4)[:, 0].flatten(1) > 0
    assert not (kept & ~tiles).any()
    assert float((tiles & ~kept).float().mean()) == pytest.approx(0.3 * float(tiles.float().mean()), abs=0.06)
    shuffled = changed["shuffle_top1/4x4"]
    assert torch.equal(shuffled.flatten(1).sort(dim=1).values, few_images.clean[1].flatten(1).sort(dim=1).values)


def test_measures_are_kept_by_image(few_images) -> None:
    torch.manual_seed(0)
    model, recipe = bench.hosts.vit_mini().eval(), bench.host("vit_mini").settings(quick=True)
    found = experiment.measure(model, recipe, quick=True)
    assert found["random_drop_top1"].shape == (9, 20)
    assert found["shape_share"].shape == (cue_conflict.CELLS, 20)
    assert (found["shape_share"] * found["texture_share"] == 0).all(), "no decision is by both"
    segmented = objects.measure(model, recipe, quick=True)
    assert segmented["jaccard"].shape == (objects.SUBSETS, 20)
    best = objects.best_share(objects.finer(model), recipe, quick=True)
    assert segmented["jaccard"].mean() == pytest.approx(segmented[f"jaccard/{best:g}"])
    assert 0.1 < segmented["jaccard/whole"].mean() < 0.5


@pytest.mark.parametrize(("name", "tokens"), [(f"deit_tiny_patch{p}_224", (224 // p) ** 2) for p in (22, 28, 32, 38)])
def test_variants_have_the_tokens_that_fit(name, tokens) -> None:
    model = timm.create_model(name, depth=1)
    assert model.pos_embed.shape == (1, tokens + 1, 192)
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert Preprocessing.of(model).resize == 256


def test_variant_without_positions_and_refusals() -> None:
    model = create("deit_tiny_no_position_patch16_224", depth=1)
    assert model.pos_embed is None
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    load_released(model, {"model": state})
    with pytest.raises(UserError, match="pos_embed"):
        load_released(model, {"model": {**state, "pos_embed": torch.zeros(1, 197, 192)}})
    with pytest.raises(UserError, match="pos_embed is"):
        load_released(create("deit_tiny_patch32_224", depth=1), create("deit_tiny_patch22_224", depth=1).state_dict())
    with pytest.raises(UserError, match="--checkpoint"):
        create("deit_tiny_patch22_224", pretrained=True)
    with pytest.raises(UserError, match="no variant"):
        create("deit_tiny_patch23_224")
    assert set(VARIANTS) < {model.name for model in papers.find("intriguing-vit").all_models}


def test_files_are_recognised(tmp_path) -> None:
    """Although timm's DeiT would take the files of the variants, too, with resampled patches."""
    paper = papers.find("intriguing-vit")
    for name in ("deit_tiny_no_position_patch16_224", "deit_tiny_patch22_224", "deit_tiny_distilled_patch16_224"):
        content = {"model": to_released(timm.create_model(name))}
        assert identify(paper, content, tmp_path) == name


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Three pictures: one object, two objects, none."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for place in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (folder / place).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number, boxes in enumerate(([(5, 5, 40, 40, 12)], [(0, 0, 20, 20, 3), (30, 30, 60, 50, 7)], [])):
        classes = np.zeros((60, 80), np.uint8)
        for top, left, bottom, right, label in boxes:
            classes[top:bottom, left:right] = label
            classes[bottom : bottom + 2, left:right] = 255
        Image.fromarray(classes, mode="L").convert("P").save(folder / "SegmentationClass" / f"{number}.png")
        Image.fromarray(generator.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(
            folder / "JPEGImages" / f"{number}.jpg"
        )
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("0\n1\n2\n")
    return tmp_path


def voc_run(tmp_path: Path, voc: Path, monkeypatch, name: str = "deit_tiny_distilled_patch16_224") -> Run:
    build = timm.create_model
    small = {} if name.startswith("resnet") else {"depth": 1, "embed_dim": 48}
    monkeypatch.setattr(timm, "create_model", partial(build, **small))
    file = tmp_path / "released.pth"
    torch.manual_seed(0)
    torch.save({"model": to_released(timm.create_model(name, num_classes=1000))}, file)
    settings = Settings(checkpoint=file, model=f"{name}.sin_distilled", folders={"pascal-voc": voc}, workers=0)
    return Run(papers.find("intriguing-vit"), settings, tmp_path / "run")


def test_pascal_voc_goes_through_pipes_where_shared_memory_is_small(voc, monkeypatch) -> None:
    usage = namedtuple("Usage", "free")
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda path: usage(1000))
    said: list[str] = []
    monkeypatch.setattr(pascal_voc, "_say_once", said.append)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(pascal_voc, "score", lambda model, image, classes, *_: seen.append(image) or [0.0, 0.0])
    pictures = VOCSegmentation(voc, 64)
    run = SimpleNamespace(settings=Settings(workers=1), memo=lambda key, compute: compute())
    pascal_voc._scores(run, None, pictures, None, "x", 0)
    assert "batches go through pipes" in said[0]
    assert all(torch.equal(image, pictures[position][0]) for position, image in enumerate(seen))


def test_pascal_voc_of_a_checkpoint_by_both_tokens(tmp_path, voc, monkeypatch) -> None:
    monkeypatch.setattr(pascal_voc, "SIDE", 64)
    run = voc_run(tmp_path, voc, monkeypatch)
    by_class, by_distillation = claims.pascal_voc(run)
    assert by_class.key == ("deit_tiny_distilled_patch16_224.sin_distilled", "pascal-voc-2012", "jaccard")
    assert by_distillation.metric == "jaccard_distillation_token"
    assert by_class.n == 2, "a picture without object has no index"
    assert 0 < by_class.value < 100
    assert by_class.detail["without_void"] > by_class.value

    monkeypatch.setattr(pascal_voc, "score", None)
    assert [result.value for result in claims.pascal_voc(run)] == [by_class.value, by_distillation.value], "kept"


def test_register_tokens_are_no_distillation_tokens(tmp_path, voc, monkeypatch) -> None:
    monkeypatch.setattr(pascal_voc, "SIDE", 64)
    (measured,) = claims.pascal_voc(voc_run(tmp_path, voc, monkeypatch, "vit_small_patch14_reg4_dinov2"))
    assert measured.metric == "jaccard"


def test_pascal_voc_tells_what_is_wrong(tmp_path, voc, monkeypatch) -> None:
    with pytest.raises(UserError, match="laid out"):
        VOCSegmentation(tmp_path / "VOCdevkit" / "JPEGImages")
    with pytest.raises(UserError, match="one size only"):
        list(claims.pascal_voc(voc_run(tmp_path, voc, monkeypatch, "resnet18")))
    folder = voc / "VOCdevkit" / "VOC2012"
    Image.new("RGB", (80, 60)).save(folder / "SegmentationClass" / "0.png")
    with pytest.raises(UserError, match=r"0\.png is a picture in colours"):
        VOCSegmentation(voc)[0]
    (folder / "JPEGImages" / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.jpg cannot be read"):
        VOCSegmentation(voc)[1]


def test_maps_are_resized_to_the_nearest_pixel(voc) -> None:
    picture, classes = VOCSegmentation(voc, 64)[1]
    assert picture.shape == (3, 64, 64)
    assert set(classes.unique().tolist()) == {0, 3, 7, 255}


def test_imagenet_curves_are_drawn(monkeypatch, tmp_path) -> None:
    """With stand-ins for the evaluation, which has its own tests."""
    shares = [f"random_drop_top1/{tenths / 10:g}" for tenths in range(10)] + ["salient_drop_top1/0.5"]
    measured = [
        Measurement(model="m", dataset="imagenet-1k", metric=metric, value=50, unit="%", interval=(40, 60))
        for metric in shares
    ]
    asked = {}
    monkeypatch.setattr(claims, "load_model", lambda run: (nn.Identity(), "m", "released"))
    monkeypatch.setattr(claims, "evaluate", lambda *args, **kwargs: asked.update(kwargs) or measured)
    folders = {"imagenet": tmp_path, "dino": tmp_path}
    run = Run(papers.find("intriguing-vit"), Settings(folders=folders), tmp_path / "run")
    *numbers, picture = claims.imagenet_occlusion(run)
    assert numbers == measured
    assert asked["saliency"] == tmp_path / claims.DINO_FILE
    assert isinstance(picture, Picture)
    assert ">salient<" in picture.svg
    assert ">non-salient<" not in picture.svg


def test_decisions_need_a_decision() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.eye(11)[10])

        def forward(self, x: Tensor) -> Tensor:
            return self.logits.expand(len(x), -1)

    tests = bench.test_set(quick=True)
    made = conflicts(tests.clean[0, :, 0], garments(tests.clean[0, :, 0]), tests.labels[0])
    with pytest.raises(UserError, match="shape bias is undefined"):
        decisions(Constant(), [made])
