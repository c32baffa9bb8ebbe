"""Benchmark sets on stand-ins with the same layout: mapping, metric, and what a wrong layout is told."""

from __future__ import annotations

import json
import pkgutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from common.errors import UserError
from common.measurement import Measurement
from common.robustness.benchmarks import BENCHMARKS, benchmark
from common.robustness.benchmarks.classes import imagenet_wnids, sixteen_class_scores, sixteen_classes, subset
from common.robustness.benchmarks.saliency import Saliency
from common.robustness.benchmarks.sets import STAND_IN_FROST
from common.robustness.corruptions import CORRUPTIONS, EXTRA
from common.robustness.evaluation import Execution, evaluate
from common.robustness.frequency import RADII
from common.robustness.metrics.corruption import alexnet
from common.robustness.metrics.detection import detection
from common.robustness.metrics.sequences import PERTURBATIONS
from common.robustness.protocols import versioned
from tests.robustness.stand_ins import PLAIN, ColourModel, class_folders, colour, write_picture

PARITY = Path(__file__).parent / "fixtures"


def measure(name: str, root: Path, **settings) -> dict[tuple[str, str], Measurement]:
    settings = {"preprocessing": PLAIN, **settings}
    execution = Execution(workers=0, batch_size=settings.pop("batch_size", 256), limit=settings.pop("limit", None))
    found = evaluate(ColourModel(), name, root, model_name="colour", execution=execution, **settings)
    assert all(m.model == "colour" and m.protocol.startswith(versioned(m.metric)) for m in found)
    return {(m.dataset, m.metric): m for m in found}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's validation set with one picture a class; every tenth shows the class after it."""
    root = tmp_path_factory.mktemp("imagenet")
    wnids = imagenet_wnids()
    class_folders(root / "val", wnids, {wnids[i]: i + 1 for i in range(10, 1000, 10)})
    return root


def test_class_tables() -> None:
    wnids = imagenet_wnids()
    assert len(wnids) == 1000
    assert list(wnids) == sorted(wnids)
    for name in ("imagenet-a", "imagenet-o", "imagenet-r"):
        found = subset(name)
        assert len(found) == 200
        # Labels follow the sorted folders, and so do the outputs.
        assert list(found) == sorted(found)
        assert list(found.values()) == sorted(found.values())
    assert len(set(subset("imagenet-a")) & set(subset("imagenet-r"))) < 200
    # Both sets have these in the released lists, at both ends.
    assert list(subset("imagenet-a").values())[:5] == [6, 11, 13, 15, 17]
    assert list(subset("imagenet-r").values())[:5] == [1, 2, 4, 6, 8]


def test_sixteen_categories() -> None:
    categories = sixteen_classes()
    assert list(categories) == sorted(categories)
    assert len(categories) == 16
    used = [index for indices in categories.values() for index in indices]
    assert len(used) == len(set(used)) == 207
    with np.load(PARITY / "robustness_metrics" / "sixteen_classes.npz") as file:
        probabilities, aggregated, order = (torch.from_numpy(file[k]) for k in ("probabilities", "aggregated", "order"))
    scores = sixteen_class_scores(probabilities.log())
    assert torch.allclose(scores, aggregated, rtol=1e-4, atol=1e-9)
    assert torch.equal(scores.argmax(1), order[:, 0])


def test_imagenet_and_its_200_class_subsets(imagenet: Path) -> None:
    found = measure("imagenet", imagenet)
    top1 = found["imagenet-1k", "top1"]
    assert top1.value == pytest.approx(90.1)
    assert top1.n == 1000
    low, high = top1.interval
    assert 88 < low < 90.1 < high < 92
    right = found["imagenet-1k", "rms_calibration_error"]
    assert right.value > found["imagenet-1k", "rms_calibration_error_released"].value > 0
    # A wrong picture's own class is one of the six nearest colours, so it may be among the best five.
    assert 90.1 < found["imagenet-1k", "top5"].value < 100
    assert "crop 16" in top1.protocol
    for name in ("imagenet-a", "imagenet-r"):
        # A wrong colour's class may lie outside the subset: with the others masked, fewer are wrong.
        outputs = subset(name)
        among = list(outputs.values())
        shown = [i + 1 if i % 10 == 0 and i else i for i in among]
        flat = torch.tensor([colour(i) for i in shown]).view(-1, 3, 1, 1).expand(-1, 3, 16, 16) / 255
        right = ColourModel()(flat)[:, among].argmax(1) == torch.arange(200)
        expected = right.float().mean().item()
        assert found[f"imagenet-1k/{name}-classes", "top1"].value == pytest.approx(100 * expected)
        assert found[f"imagenet-1k/{name}-classes", "top1"].n == 200


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_200_class_sets_mask_the_other_classes(name: str, tmp_path: Path) -> None:
    outputs = subset(name)
    wnids = list(outputs)
    # One picture shows a class outside the set that is nearest to its own: right under the mask.
    outside = next(i for i in range(1000) if i not in outputs.values() and i + 1 in outputs.values())
    neighbour = imagenet_wnids()[outside + 1]
    class_folders(tmp_path, wnids, {neighbour: outside, wnids[0]: outputs[wnids[-1]]})
    palette = torch.tensor([colour(i) for i in range(1000)]).float()
    kept = list(outputs.values())
    masked = kept[(palette[kept] - palette[outside]).square().sum(1).argmin()]
    found = measure(name, tmp_path)[name, "top1"]
    assert found.value == pytest.approx(100 * (199 - (masked != outside + 1)) / 200)


def test_numbered_folders_are_sorted_as_numbers(tmp_path: Path) -> None:
    for index in range(1000):
        write_picture(tmp_path / str(index) / "a.png", index)
    assert measure("imagenet-v2", tmp_path)["imagenet-v2", "top1"].value == 100


def test_sketch_and_stylized(imagenet: Path, tmp_path: Path) -> None:
    (tmp_path / "sketch").symlink_to(imagenet / "val")
    assert measure("imagenet-sketch", tmp_path)["imagenet-sketch", "top1"].value == pytest.approx(90.1)
    assert measure("stylized-imagenet", imagenet)["stylized-imagenet", "top1"].value == pytest.approx(90.1)


def test_real_labels(tmp_path: Path) -> None:
    real = json.loads(pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json"))
    wnids = imagenet_wnids()
    class_folders(tmp_path, wnids)
    for wnid in wnids:
        (tmp_path / wnid / "picture.png").unlink()
    several = next(i for i, labels in enumerate(real) if len(labels) > 1)
    none = next(i for i, labels in enumerate(real) if not labels)
    wrong = next(i for i, labels in enumerate(real) if i > several and labels and 7 not in labels)
    # The last accepted label counts as right, an image without labels does not count, another class is wrong.
    for image, shown, ending in ((several, real[several][-1], ""), (none, 3, ""), (wrong, 7, f"_{wnids[5]}")):
        write_picture(tmp_path / wnids[5] / f"ILSVRC2012_val_{image + 1:08d}{ending}.JPEG", shown)
    found = measure("imagenet-real", tmp_path)["imagenet-real", "top1"]
    assert (found.value, found.n) == (50, 2)
    write_picture(tmp_path / wnids[5] / "cat.png", 1)
    with pytest.raises(UserError, match=r"cat\.png is not a file name"):
        measure("imagenet-real", tmp_path)


def test_objectnet(tmp_path: Path) -> None:
    base = tmp_path / "objectnet-1.0"
    (base / "mappings").mkdir(parents=True)
    names = [f"name {i}" for i in range(1000)]
    tables = {
        "folder_to_objectnet_label.json": {"chair": "Chair", "lamp": "Lamp", "odd": "Odd"},
        "objectnet_to_imagenet_1k.json": {"Chair": "name 3; name 900", "Lamp": "name 5"},
        # Model output i is line 999 - i of the names.
        "pytorch_to_imagenet_2012_id.json": {str(i): 999 - i for i in range(1000)},
    }
    for file, table in tables.items():
        (base / "mappings" / file).write_text(json.dumps(table))
    (base / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(reversed(names)) + "\n")
    for folder, shown in (("chair", 900), ("lamp", 6), ("odd", 1)):
        write_picture(base / "images" / folder / "1.png", shown)
    # A red border must not reach the model.
    from PIL import Image

    picture = Image.new("RGB", (20, 20), (255, 0, 0))
    picture.paste(colour(3), (2, 2, 18, 18))
    picture.save(base / "images" / "chair" / "2.png")
    for root in (tmp_path, base):
        found = measure("objectnet", root)["objectnet", "top1"]
        assert (found.value, found.n) == (pytest.approx(200 / 3), 3)
    (base / "mappings" / "objectnet_to_imagenet_1k.json").write_text('{"Chair": "name 1000"}')
    with pytest.raises(UserError, match="do not fit together"):
        measure("objectnet", base)
    (base / "mappings" / "objectnet_to_imagenet_1k.json").unlink()
    with pytest.raises(UserError, match=r"objectnet_to_imagenet_1k\.json is missing"):
        measure("objectnet", base)


def test_cue_conflict(tmp_path: Path) -> None:
    categories = sixteen_classes()
    first = {name: indices[0] for name, indices in categories.items()}
    for name in categories:
        write_picture(tmp_path / name / f"{name}1-{name}2.png", first[name])

    def shown(shape: str, texture: str, index: int, number: int) -> None:
        write_picture(tmp_path / shape / f"0000_cue_{shape}{number}-{texture}{number}.png", index)

    shown("knife", "oven", first["knife"], 1)
    shown("knife", "oven", first["oven"], 2)
    shown("oven", "knife", first["oven"], 3)
    shown("oven", "knife", first["airplane"], 4)
    found = measure("cue-conflict", tmp_path)
    assert found["cue-conflict", "shape_bias"].value == pytest.approx(200 / 3)
    assert found["cue-conflict", "shape_bias"].n == 3
    # As released, images without a conflict stay in the denominator of the shares.
    assert found["cue-conflict", "shape_share"].value == pytest.approx(100 * 2 / 20)
    write_picture(tmp_path / "oven" / "oven.png", 1)
    with pytest.raises(UserError, match="does not name shape and texture"):
        measure("cue-conflict", tmp_path)


def test_imagenet_c_from_disk(imagenet: Path, tmp_path: Path) -> None:
    """Two kinds of cells: right pictures, and pictures where severity s of snow has s in ten classes wrong."""
    wnids = imagenet_wnids()
    clean = class_folders(tmp_path / "clean", wnids)
    root = tmp_path / "c"
    for name in CORRUPTIONS:
        (root / name).mkdir(parents=True)
        for severity in range(1, 6):
            if name == "snow" and severity == 5:
                (root / name / "5").symlink_to(imagenet / "val")
            else:
                (root / name / str(severity)).symlink_to(clean)
    found = measure("imagenet-c", root, clean=str(imagenet), limit=40)
    errors = found["imagenet-c", "mce"].detail["errors"]
    snow = errors["snow"][4]
    assert 0 < snow < 0.4
    assert found["imagenet-c", "corruption_error/snow/5"].value == pytest.approx(100 * snow)
    mce = found["imagenet-c", "mce"]
    assert mce.value == pytest.approx(100 * snow / 5 / alexnet()["error"]["snow"] / 15)
    assert mce.value == pytest.approx(np.mean(list(mce.detail["corruption_errors"].values())))
    assert mce.interval[0] < mce.value < mce.interval[1]
    relative = found["imagenet-c", "relative_mce"]
    assert relative.value == pytest.approx(np.mean(list(relative.detail["relative_corruption_errors"].values())))
    assert found["imagenet-c", "clean_top1"].value == pytest.approx(100 - 100 * snow)
    more = class_folders(tmp_path / "more", wnids)
    write_picture(more / wnids[0] / "second.png", 0)
    (root / "gaussian_noise" / "2").unlink()
    (root / "gaussian_noise" / "2").symlink_to(more)
    with pytest.raises(UserError, match=r"noise/2 has 1001 images and .*gaussian_noise/1 has 1000; unpack both again"):
        measure("imagenet-c", root, limit=1)
    (root / "fog" / "3").unlink()
    with pytest.raises(UserError, match=r"lacks 1 folders of ImageNet-C, the first fog/3: expected .*gaussian_noise/1"):
        benchmark("imagenet-c", root)


def test_imagenet_c_with_its_extra_corruptions(imagenet: Path, tmp_path: Path) -> None:
    """All right but under one extra corruption, which the mean over 19 counts and mCE does not."""
    clean = class_folders(tmp_path / "clean", imagenet_wnids())
    root = tmp_path / "c"
    for name in CORRUPTIONS + EXTRA:
        (root / name).mkdir(parents=True)
        for severity in range(1, 6):
            (root / name / str(severity)).symlink_to(imagenet / "val" if name == "saturate" else clean)
    found = measure("imagenet-c-19", root, limit=40)
    saturate = found["imagenet-c", "corruption_error/saturate/1"].value
    assert 0 < saturate < 40
    assert found["imagenet-c", "corruption_top1_19"].value == pytest.approx(100 - saturate / 19)
    assert found["imagenet-c", "corruption_top1"].value == 100
    assert found["imagenet-c", "mce"].value == 0
    assert ("imagenet-c", "corruption_top1_15") not in measure("imagenet-c", root, limit=1)
    (root / "spatter" / "2").unlink()
    with pytest.raises(UserError, match=r"with the extra corruptions, the first spatter/2"):
        benchmark("imagenet-c-19", root)
    benchmark("imagenet-c", root)


def test_imagenet_c_generated_degrades(imagenet: Path, tmp_path: Path) -> None:
    found = measure("imagenet-c-generated", imagenet, limit=2, batch_size=2, output=tmp_path)
    assert found["imagenet-c-generated", "clean_top1"].n == 2
    errors = found["imagenet-c-generated", "mce"].detail["errors"]
    assert list(errors) == list(CORRUPTIONS)
    # Brightness shifts flat colours away, pixelating them changes nothing.
    assert errors["brightness"][4] >= 0.5
    assert errors["brightness"][4] > errors["pixelate"][4]
    assert errors["pixelate"][4] == 1 - found["imagenet-c-generated", "clean_top1"].value / 100
    assert "JPEG 85" in found["imagenet-c-generated", "mce"].protocol
    assert len(list((tmp_path / "imagenet-c-generated").rglob("*.npy"))) == 76


def test_attacks_and_occlusion_on_imagenet(imagenet: Path) -> None:
    attacked = measure("imagenet-attacks", imagenet, limit=50)
    assert {metric for _, metric in attacked} == {"fgsm_top1", "pgd_top1", "pgd_eps4_top1"}
    # A step of 1/255 moves no colour out of its cell of 25/255; nor do 4/255.
    clean = measure("imagenet", imagenet, limit=50)["imagenet-1k", "top1"]
    assert clean.n == 50
    assert attacked["imagenet-1k", "pgd_eps4_top1"].value == clean.value
    occluded = measure(
        "imagenet-occlusion",
        imagenet,
        limit=50,
        preprocessing=replace(PLAIN, size=28),
    )
    assert occluded["imagenet-1k", "random_drop_top1/0"].value == clean.value
    assert occluded["imagenet-1k", "random_drop_top1/0.9"].value < clean.value
    # Tiles of one colour can be shuffled at will.
    assert occluded["imagenet-1k", "shuffle_top1/14x14"].value == clean.value


def test_images_of_one_colour_pass_all_filters(imagenet: Path) -> None:
    clean = measure("imagenet", imagenet, limit=30)["imagenet-1k", "top1"]
    filtered = measure("imagenet-frequency", imagenet, limit=30)
    assert {metric for _, metric in filtered} == {f"{kind}_pass_top1/{r:g}" for kind in ("low", "high") for r in RADII}
    assert {found.value for found in filtered.values()} == {clean.value}
    assert "radii in units of half a cycle a pixel" in filtered["imagenet-1k", "low_pass_top1/0.25"].protocol


def test_one_patch_attacked_or_corrupted(imagenet: Path) -> None:
    # The patch is a quarter of the image, which 40 steps of 2/255 can move by half the distance of two colours.
    quarter = replace(PLAIN, size=32)
    attacked = measure("imagenet-patch-attack", imagenet, limit=20, preprocessing=quarter)
    (found,) = attacked.values()
    assert found.metric == "patch_attack_top1"
    assert found.value < measure("imagenet", imagenet, limit=20)["imagenet-1k", "top1"].value
    assert "PatchPgd(size=16" in found.protocol
    corrupted = measure("imagenet-patch-corruption", imagenet, limit=2, preprocessing=quarter)
    cells = [m.value for (_, metric), m in corrupted.items() if metric.startswith("patch_corruption_top1/")]
    assert len(cells) == 75
    assert corrupted["imagenet-1k", "patch_corruption_top1"].value == pytest.approx(np.mean(cells))
    assert corrupted["imagenet-1k", "patch_corruption_top1"].n == 2
    assert STAND_IN_FROST in corrupted["imagenet-1k", "patch_corruption_top1"].protocol


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a ViT-S/16 under DINO's names, which are timm's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_small_patch16_224", num_classes=0)
    # The attention of random weights is all but even.
    with torch.no_grad():
        model.blocks[-1].attn.qkv.weight.mul_(20)
    path = tmp_path_factory.mktemp("dino") / "dino.pth"
    torch.save(model.state_dict(), path)
    return path


def test_saliency_is_the_attention_of_one_head(dino: Path) -> None:
    saliency = Saliency(dino)
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = saliency(images)
    assert saliency(images) is found
    saliency.attention.fused_attn = False
    maps = []
    saliency.attention.attn_drop.register_forward_hook(lambda module, args, output: maps.append(output))
    assert torch.equal(saliency(images.clone()), found)
    assert torch.allclose(found, maps[0][:, 1, 0, 1:], rtol=1e-4, atol=1e-7)
    assert found.std() / found.mean() > 0.1
    assert saliency(images[:, :, :112, :112]).shape == (2, 196)


def test_salient_patches_are_dropped_by_dinos_attention(imagenet: Path, dino: Path, tmp_path: Path) -> None:
    small = replace(PLAIN, size=28)
    found = measure("imagenet-occlusion", imagenet, limit=4, preprocessing=small, saliency=dino)
    metrics = [metric for _, metric in found]
    assert sum(metric.startswith("salient_drop_top1/") for metric in metrics) == 9
    assert sum(metric.startswith("nonsalient_drop_top1/") for metric in metrics) == 9
    # Without nine tenths of the mass, or with a tenth of it alone, the colour is lost.
    assert found["imagenet-1k", "salient_drop_top1/0.9"].value < 100
    assert found["imagenet-1k", "nonsalient_drop_top1/0.1"].value < 100
    assert "DINO ViT-S/16" in found["imagenet-1k", "salient_drop_top1/0.9"].protocol
    other = tmp_path / "other.pth"
    torch.save(ColourModel().state_dict(), other)
    with pytest.raises(UserError):
        benchmark("imagenet-occlusion", imagenet, saliency=other)


def test_imagenet_o_is_told_by_confidence(imagenet: Path, tmp_path: Path) -> None:
    outputs = subset("imagenet-o")
    # Unknown pictures show classes outside the 200, so that the known ones are nearer to one of them.
    others = [index for index in range(1000) if index not in outputs.values()]
    shown = dict(zip(outputs, others[::4], strict=True))
    root = class_folders(tmp_path / "o", outputs, shown)
    found = measure("imagenet-o", root, clean=str(imagenet))
    assert {metric for _, metric in found} == {"auroc", "aupr", "fpr95"}

    def confidence(indices: list[int]) -> np.ndarray:
        flat = torch.tensor([colour(index) for index in indices]).view(-1, 3, 1, 1).expand(-1, 3, 16, 16) / 255
        return ColourModel()(flat)[:, list(outputs.values())].softmax(1).amax(1).detach().numpy()

    known = [index + (index % 10 == 0 and index > 0) for index in outputs.values()]
    expected = detection(-confidence(others[::4]), -confidence(known))
    assert found["imagenet-o", "aupr"].value == pytest.approx(100 * expected.aupr, abs=0.1)
    assert found["imagenet-o", "fpr95"].value == pytest.approx(100 * expected.fpr95, abs=1)
    assert found["imagenet-o", "auroc"].value == pytest.approx(100 * expected.auroc, abs=0.1)
    assert found["imagenet-o", "auroc"].value > 50
    assert found["imagenet-o", "aupr"].n == 400
    with pytest.raises(UserError, match=r"give their folder too .*imagenet-o=DIR imagenet=DIR"):
        benchmark("imagenet-o", root)


def test_imagenet_p(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for name in PERTURBATIONS:
        folder = tmp_path / name / imagenet_wnids()[0]
        folder.mkdir(parents=True)
        # Two frames of one class, then one of another: one flip against the previous frame, as against the first.
        writer = cv2.VideoWriter(str(folder / "0.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64))
        for index in (555, 555, 0):
            writer.write(np.full((64, 64, 3), colour(index)[::-1], np.uint8))
        writer.release()
    flips = dict.fromkeys(PERTURBATIONS, 0.25)
    found = measure("imagenet-p", tmp_path, alexnet_flips=flips, alexnet_distances=dict.fromkeys(PERTURBATIONS, 0.5))
    assert found["imagenet-p", "flip_probability/tilt"].value == pytest.approx(50)
    assert found["imagenet-p", "top5_distance/gaussian_noise"].value > 0
    assert found["imagenet-p", "mfr"].value == pytest.approx(200)
    distances = [found["imagenet-p", f"top5_distance/{name}"].value for name in PERTURBATIONS]
    assert found["imagenet-p", "mt5d"].value == pytest.approx(200 * np.mean(distances))
    assert not {("imagenet-p", "mfr"), ("imagenet-p", "mt5d")} & measure("imagenet-p", tmp_path).keys()
    # Sequences need not have one length.
    longer = tmp_path / "tilt" / imagenet_wnids()[0] / "1.mp4"
    writer = cv2.VideoWriter(str(longer), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64))
    for index in (555, 555, 555, 555, 0):
        writer.write(np.full((64, 64, 3), colour(index)[::-1], np.uint8))
    writer.release()
    found = measure("imagenet-p", tmp_path)
    assert found["imagenet-p", "flip_probability/tilt"].value == pytest.approx((50 + 25) / 2)
    (tmp_path / "tilt" / imagenet_wnids()[0] / "0.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"tilt.*0\.mp4 cannot be read"):
        measure("imagenet-p", tmp_path)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Class folders of any data, named by numbers: three pictures each, one of them of the class before."""
    for label in range(12):
        for number, shown in enumerate((label, label, max(label - 1, 0))):
            write_picture(tmp_path / "few" / "val" / str(label) / f"{number}.png", shown, size=30)
    return tmp_path / "few"


def test_pictures_of_any_classes(few: Path, tmp_path: Path) -> None:
    """Labels are numbered folders in the order of numbers, and grids need not divide the pictures."""
    chosen = {"preprocessing": replace(PLAIN, size=30), "execution": Execution(workers=0), "model_name": "few"}
    model = ColourModel(12)
    found = {m.metric: m for m in evaluate(model, "images", few, **chosen)}
    assert (found["top1"].value, found["top1"].n) == (pytest.approx(100 * 25 / 36), 36)
    assert found["top1"].dataset == "images"
    assert "12 classes" in found["top1"].protocol
    dropped = {m.metric: m for m in evaluate(model, "images-occlusion", few, **chosen)}
    assert dropped["random_drop_top1/0"].value == found["top1"].value
    assert dropped["random_drop_top1/0.5"].value < 30, "the mean colour is another"
    assert {name for name in dropped if name.startswith("shuffle")} == {"shuffle_top1/2x2"}, "30 is no multiple of 4"
    assert "on grids 2," in dropped["random_drop_top1/0"].protocol
    with pytest.raises(UserError, match="needs 12 classes an image; give a model with an output for each class folder"):
        evaluate(ColourModel(), "images", few, **chosen)
    # Folders of some of ImageNet's classes are for its models.
    wnids = imagenet_wnids()[500:503]
    class_folders(tmp_path / "some", wnids, {wnids[0]: 7})
    (top1, *_) = evaluate(ColourModel(), "images", tmp_path / "some", **chosen)
    assert top1.value == pytest.approx(200 / 3)
    assert "3 of ImageNet-1k's 1000 classes" in top1.protocol


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_folder_is_told_from_wrong_layout(name: str, tmp_path: Path) -> None:
    for missing in (tmp_path / "nowhere", "data/nowhere"):
        with pytest.raises(UserError, match=r"nowhere does not exist; give the folder of .*, laid out as .*ROOT"):
            benchmark(name, missing)
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"is not laid out as .*: expected .*ROOT.*; found 1 entries, the first train/"):
        benchmark(name, tmp_path)


def test_unsorted_validation_images_are_seen(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write_picture(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", 0)
    with pytest.raises(UserError, match=r"val has 1 image and no class folders.*valprep\.sh"):
        benchmark("imagenet", tmp_path)


def test_wrong_number_of_classes_is_named(tmp_path: Path) -> None:
    wnids = imagenet_wnids()
    for wnid in (*wnids[:998], "n99999999"):
        (tmp_path / wnid).mkdir()
    message = f"has 999 class folders where ImageNet-1k val has 1000: 2 are missing, the first {wnids[998]}; 1 do not"
    with pytest.raises(UserError, match=message):
        benchmark("imagenet", tmp_path)


def test_empty_class_folders_and_unknown_names(tmp_path: Path) -> None:
    for wnid in subset("imagenet-a"):
        (tmp_path / wnid).mkdir()
    with pytest.raises(UserError, match="no images"):
        measure("imagenet-a", tmp_path)
    with pytest.raises(UserError, match="Did you mean imagenet-r"):
        benchmark("imagenet-rr", tmp_path)
    with pytest.raises(UserError, match="stream"):
        measure("imagenet", "wds/imagenet")


def test_tar_file(imagenet: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        archive.add(imagenet / "val", arcname="val")
    assert measure("imagenet", tmp_path / "val.tar")["imagenet-1k", "top1"].value == pytest.approx(90.1)
