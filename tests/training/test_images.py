from __future__ import annotations

import io
import json
import os
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.errors import UserError
from common.training import images as images_module
from common.training.data import make_plan
from common.training.images import ImageData, Source, _posterize, make_transform
from common.training.loop import train
from common.training.options import Options
from common.training.randomness import seed_global

CLASSES = ("n01440764", "n01443537", "n01484850")
TRAIN, VALIDATION = 8, 3  # images a class
CHANGES = (
    "input_size=24",
    "mean=[0.5, 0.5, 0.5]",
    "std=[0.25, 0.25, 0.25]",
    "train_crop=random_resized",
    "auto_augment=rand-m9-mstd0.5-inc1",
    "color_jitter=0.4",
    "epochs=2",
)


def picture(label: int, number: int) -> Image.Image:
    """A noisy image whose colour tells the class; sizes differ, as photographs' do."""
    rng = np.random.default_rng([label, number])
    pixels = rng.integers(0, 60, (30 + number, 34, 3))
    pixels[..., label] += 180
    return Image.fromarray(pixels.astype(np.uint8))


def jpeg(label: int, number: int) -> bytes:
    file = io.BytesIO()
    picture(label, number).save(file, format="JPEG")
    return file.getvalue()


def entries(split: str) -> list[tuple[int, int]]:
    first, count = (0, TRAIN) if split == "train" else (TRAIN, VALIDATION)
    return [(label, number) for label in range(3) for number in range(first, first + count)]


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """ImageNet's layout."""
    root = tmp_path_factory.mktemp("imagenet")
    for split in ("train", "val"):
        for label, number in entries(split):
            path = root / split / CLASSES[label] / f"{CLASSES[label]}_{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(label, number))
    return root


@pytest.fixture(scope="session")
def tars(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tar")
    for split in ("train", "val"):
        files = {f"{CLASSES[label]}/{number}.JPEG": jpeg(label, number) for label, number in entries(split)}
        write_tar(root / f"{split}.tar", files)
    return root


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """WebDataset shards, shuffled as those of a real set are."""
    root = tmp_path_factory.mktemp("wds")
    for split in ("train", "validation"):
        order = entries(split)
        random.Random(0).shuffle(order)
        for shard in range(2):
            files = {}
            for label, number in order[shard::2]:
                files[f"{label}{number:03}.jpg"] = jpeg(label, number)
                files[f"{label}{number:03}.cls"] = str(label).encode()
            write_tar(root / f"{split}-{shard:04}.tar", files)
    return root


@pytest.fixture(scope="session")
def parquet(tmp_path_factory) -> Path:
    """A local Hugging Face data set of two files a split."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("hf")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    for split in ("train", "validation"):
        order = entries(split)
        random.Random(0).shuffle(order)
        for part in range(2):
            rows = [
                {"image": {"bytes": jpeg(label, number), "path": None}, "label": label}
                for label, number in order[part::2]
            ]
            datasets.Dataset.from_list(rows, features=features).to_parquet(str(root / f"{split}-{part}.parquet"))
    return root


@pytest.fixture(scope="session")
def tfds(tmp_path_factory) -> Path:
    """A local TFDS data set, which TFDS reads by its name from the folder."""
    datasets = pytest.importorskip("tensorflow_datasets", reason="needs pip install 'resight[tfds]'")
    root = tmp_path_factory.mktemp("tfds")

    class TinyColours(datasets.core.GeneratorBasedBuilder):
        VERSION = datasets.core.Version("1.0.0")
        pkg_dir_path = root

        def _info(self):
            label = datasets.features.ClassLabel(names=list(CLASSES))
            image = datasets.features.Image(encoding_format="jpeg")
            return self.dataset_info_from_configs(
                features=datasets.features.FeaturesDict({"image": image, "label": label}),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, downloads):
            return {split: self._generate_examples(split) for split in ("train", "validation")}

        def _generate_examples(self, split):
            for label, number in entries(split):
                yield f"{label}{number}", {"image": io.BytesIO(jpeg(label, number)), "label": label}

    TinyColours(data_dir=str(root)).download_and_prepare()
    return root


def source(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    if kind in ("folder", "tars"):
        return Source(request.getfixturevalue(kind))
    if kind == "wds":
        pytest.importorskip("webdataset")
        root = request.getfixturevalue("shards")
        return Source(root, "wds/", "train-{0000..0001}.tar|24", "validation-{0000..0001}.tar|9")
    if kind == "tfds":
        return Source(request.getfixturevalue("tfds"), "tfds/tiny_colours")
    root = request.getfixturevalue("parquet")
    counts = (24, 9) if kind == "hfids" else (0, 0)
    return Source(tmp_path / "cache", f"{kind}/{root}", "train", "validation", *counts)


KINDS = ("folder", "tars", "wds", "hfds", "hfids", "tfds")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_data_set_trains(kind, request, recipe, tmp_path, monkeypatch) -> None:
    """A linear model learns the colours; all training images are seen, and all validation images judged."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    chosen = recipe("plain", *CHANGES, "learning_rate=0.3", "auto_augment=''", "color_jitter=0")
    images = ImageData(source(kind, request, tmp_path), chosen, workers=1)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    result = train(model, chosen, images, options=Options(device="cpu"))
    assert result.steps == 6
    assert result.metrics["top1"] == 100
    plan = make_plan(chosen, seed=0, device_batch=0, rank=0, world=1, device=torch.device("cpu"))
    seen = torch.cat([labels for _, labels in batches(images, chosen, 0, 0)])
    if kind == "tfds":  # timm shuffles a repeated stream, so that an epoch may show an image of the next one
        assert len(seen) == 24
    else:
        assert torch.bincount(seen).tolist() == [8, 8, 8]
    judged = torch.cat([labels for _, labels in images.validation_batches(chosen, plan)])
    assert torch.bincount(judged).tolist() == [3, 3, 3]
    assert images.describe()["train_images"] == 24


def batches(images: ImageData, recipe, epoch: int, first_step: int, rank: int = 0, world: int = 1):
    plan = make_plan(recipe, seed=1, device_batch=0, rank=rank, world=world, device=torch.device("cpu"))
    found = images.training_batches(recipe, plan, epoch, first_step)
    return [next(found) for _ in range(images.steps_per_epoch(recipe) - first_step)]


# The slow one is a stream like wds; the next test resumes one of its epochs, too.
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind == "hfids" else kind for kind in KINDS]
)
def test_a_resumed_epoch_gives_the_same_pixels(kind, request, recipe, tmp_path, monkeypatch) -> None:
    """RandAugment, colour jitter and crops included, in a new process or not."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    chosen = recipe("plain", *CHANGES)
    where = source(kind, request, tmp_path)
    whole = batches(ImageData(where, chosen, workers=1), chosen, 1, 0)
    images = ImageData(where, chosen, workers=1)
    batches(images, chosen, 0, 0)  # an epoch before it does not matter
    for (expected, labels), (ours, our_labels) in zip(whole[2:], batches(images, chosen, 1, 2), strict=True):
        assert torch.equal(expected, ours)
        assert torch.equal(labels, our_labels)
    other = batches(images, chosen, 2, 0)
    assert not torch.equal(whole[0][0], other[0][0])


@pytest.mark.parametrize("kind", ["wds", "hfids"])
def test_an_epoch_of_a_stream_shows_each_image_once_however_many_workers(kind, request, recipe, tmp_path) -> None:
    """12 images for each of two workers: a multiple of no batch, so the last ones of both are put together.

    There are two shards, so there are no more workers whatever is asked for.
    """
    chosen = recipe("plain", *CHANGES, "total_batch=8", "train_crop=none", "auto_augment=''", "color_jitter=0")
    images = ImageData(source(kind, request, tmp_path), chosen, workers=5)
    seen = torch.cat([batch for batch, _ in batches(images, chosen, 0, 0)])
    assert len(seen) == len(torch.unique(seen, dim=0)) == 24
    resumed = batches(ImageData(source(kind, request, tmp_path), chosen, workers=2), chosen, 0, 2)
    assert torch.equal(resumed[0][0], seen[16:])
    shares = []
    for rank in range(2):
        images = ImageData(source(kind, request, tmp_path), chosen, workers=1)
        shares += [batch for batch, _ in batches(images, chosen, 0, 0, rank, 2)]
    assert {len(share) for share in shares} == {4}
    assert torch.equal(torch.unique(torch.cat(shares), dim=0), torch.unique(seen, dim=0))


@pytest.mark.parametrize("fsdp", [False, True])
@pytest.mark.parametrize("validation", ["validation-{0000..0001}.tar|9", "validation-0000.tar|5"])
def test_two_processes_judge_each_image_of_a_stream_once(
    shards, recipe, processes, process_group, tmp_path, validation, fsdp
) -> None:
    """Shards of 5 and 4 images, and one shard alone, of which the second process has nothing."""
    pytest.importorskip("webdataset")
    where = Source(shards, "wds/", "train-{0000..0001}.tar|24", validation)
    chosen = recipe("plain", *CHANGES, "epochs=1", "learning_rate=0.001")

    def child(rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        images = ImageData(where, chosen, workers=1)
        result = train(net(), chosen, images, folder=tmp_path, options=Options(device="cpu", fsdp=fsdp))
        (tmp_path / f"{rank}.json").write_text(json.dumps(result.metrics))

    assert processes(child, 2, **process_group(2)) == [0, 0]
    metrics = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    trained = net()
    trained.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True)["model"])
    options = Options(device="cpu")
    expected = train(trained, replace(chosen, learning_rate=0), ImageData(where, chosen, workers=1), options=options)
    assert metrics[0] == metrics[1] == pytest.approx(expected.metrics, rel=1e-4)


@pytest.mark.parametrize("kind", ["wds", "hfids", "tfds"])
def test_processes_share_out_a_validation_stream(kind, request, recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    chosen = recipe("plain", *CHANGES)
    where = source(kind, request, tmp_path)
    judged = []
    for rank in range(2):
        plan = make_plan(chosen, seed=0, device_batch=0, rank=rank, world=2, device=torch.device("cpu"))
        shares = ImageData(where, chosen, workers=1).validation_batches(chosen, plan)
        judged += [labels for _, labels in shares]
    assert torch.bincount(torch.cat(judged)).tolist() == [3, 3, 3]


def test_labels_that_are_missing_are_one_sentence(recipe, tmp_path) -> None:
    """Test splits are distributed with the label -1."""
    pytest.importorskip("webdataset")
    for split, label in (("train", "0"), ("validation", "0"), ("test", "-1")):
        files = {f"{name}.jpg": jpeg(0, 0) for name in "abcd"} | {f"{name}.cls": label.encode() for name in "abcd"}
        write_tar(tmp_path / f"{split}.tar", dict(sorted(files.items())))
    chosen = recipe("plain", *CHANGES, "total_batch=4", "epochs=1")
    for train_split, validation_split, said in (
        ("test.tar|4", "validation.tar|4", "The data has the label -1, .* name another split"),
        ("train.tar|4", "test.tar|4", "The validation set has 0 images with labels"),
    ):
        images = ImageData(Source(tmp_path, "wds/", train_split, validation_split), chosen, workers=1)
        with pytest.raises(UserError, match=said):
            train(net(), chosen, images, options=Options(device="cpu"))


def test_only_a_stream_is_told_its_length(folder, recipe) -> None:
    with pytest.raises(UserError, match=r"--validation-images is .* has 9 images: leave it out"):
        ImageData(Source(folder, validation_images=4), recipe("plain", *CHANGES))


def test_pixels_do_not_depend_on_workers_or_processes(folder, recipe) -> None:
    chosen = recipe("plain", *CHANGES, "repeated_augmentation=3")
    one, two = (ImageData(Source(folder), chosen, workers=workers) for workers in (0, 2))
    whole = batches(one, chosen, 0, 0)
    for (expected, _), (ours, _) in zip(whole, batches(two, chosen, 0, 0), strict=True):
        assert torch.equal(expected, ours)
    shares = [batches(ImageData(Source(folder), chosen, workers=0), chosen, 0, 0, rank, 2) for rank in range(2)]
    for (expected, _), first, second in zip(whole, *shares, strict=True):
        assert torch.equal(expected[0::2], first[0])
        assert torch.equal(expected[1::2], second[0])


def test_evaluation_is_timms(folder, recipe) -> None:
    from timm.data import create_dataset, create_transform

    chosen = recipe("plain", *CHANGES)
    images = ImageData(Source(folder), chosen, workers=0)
    plan = make_plan(chosen, seed=0, device_batch=0, rank=0, world=1, device=torch.device("cpu"))
    ours = torch.cat([part for part, _ in images.validation_batches(chosen, plan)])
    dataset = create_dataset("", str(folder), split="validation")
    dataset.transform = create_transform(24, interpolation="bilinear", crop_pct=1.0, normalize=False)
    expected = torch.stack([dataset[index][0] for index in range(9)])
    assert ours.shape == (9, 3, 24, 24)
    assert torch.equal(ours, expected.to(torch.uint8))


@pytest.mark.parametrize("policy", ["rand-m10-n15-inc1", "original", "augmix-m10", "3a"])
def test_every_operation_of_timms_policies_runs(recipe, policy) -> None:
    """At the greatest magnitude, where posterizing keeps no bit of a pixel."""
    transform = make_transform(recipe("plain", *CHANGES, f"auto_augment={policy}"), training=True)
    image = picture(0, 0)
    for seed in range(30):
        seed_global(seed, "test")
        assert transform(image).shape == (3, 24, 24)


def test_a_policy_that_timm_does_not_know(recipe) -> None:
    for policy, reason in (
        ("garbage", "Unknown AA policy"),
        ("rand-m9-foo7", "Unknown RandAugment"),
        ("randm9", "; write"),
    ):
        with pytest.raises(UserError, match=f"timm cannot make the auto_augment '{policy}' of this recipe.*{reason}"):
            make_transform(recipe("plain", *CHANGES, f"auto_augment={policy}"), training=True)


def test_posterizing_to_no_bits_is_black() -> None:
    assert _posterize(picture(0, 0), 0).getextrema() == ((0, 0),) * 3
    assert np.array_equal(_posterize(picture(0, 0), 3), np.asarray(picture(0, 0)) & 0b11100000)


@pytest.fixture
def broken(folder, tmp_path) -> tuple[Path, Path]:
    """A copy of the folder in which one training image is cut short."""
    for path in folder.rglob("*.JPEG"):
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    bad = tmp_path / "train" / CLASSES[1] / f"{CLASSES[1]}_2.JPEG"
    bad.write_bytes(bad.read_bytes()[:100])
    return tmp_path, bad


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image_is_named(broken, recipe, workers, content, tmp_path) -> None:
    root, bad = broken
    if content is not None:
        bad.write_bytes(content)
    chosen = recipe("plain", *CHANGES)
    with pytest.raises(UserError) as error:
        train(net(), chosen, ImageData(Source(root), chosen, workers=workers), options=Options(device="cpu"))
    assert f"The image {bad} cannot be read (" in str(error.value)
    assert "--skip-unreadable" in str(error.value)
    assert "Traceback" not in str(error.value)


def test_an_unreadable_image_can_be_left_out_of_training_but_not_of_evaluation(broken, recipe, caplog) -> None:
    root, bad = broken
    chosen = recipe("plain", *CHANGES)
    images = ImageData(Source(root), chosen, workers=0, skip_unreadable=True)
    assert train(net(), chosen, images, options=Options(device="cpu")).steps == 6
    assert str(bad) in caplog.text
    judged = root / "val" / CLASSES[0] / f"{CLASSES[0]}_8.JPEG"
    judged.write_bytes(b"")
    images = ImageData(Source(root), chosen, workers=0, skip_unreadable=True)
    with pytest.raises(UserError, match=f"{judged} cannot be read"):
        train(net(), chosen, images, options=Options(device="cpu"))


BREAKAGES = {
    "no image": (
        lambda files: files | {"b.jpg": b"no image"},
        r"The image b in .*-0000\.tar cannot be read \(.*identify",
    ),
    "cut short": (lambda files: files | {"b.jpg": jpeg(1, 1)[:200]}, r"The image b in .*-0000\.tar cannot be read \("),
    "no label": (
        lambda files: {name: content for name, content in files.items() if name != "b.cls"},
        r"The image b in .*-0000\.tar cannot be read \(it has no 'cls'\)",
    ),
}


def broken_shards(root: Path, splits: tuple[str, ...], breakage: str) -> Source:
    """Shards of 12 images a split, of which those of ``splits`` hold a broken sample."""
    for split in ("train", "validation"):
        for shard in range(2):
            files = {}
            for place, name in enumerate("abcdef"):
                files |= {f"{name}.jpg": jpeg(place % 3, place), f"{name}.cls": str(place % 3).encode()}
            if shard == 0 and split in splits:
                files = BREAKAGES[breakage][0](files)
            write_tar(root / f"{split}-{shard:04}.tar", files)
    return Source(root, "wds/", "train-{0000..0001}.tar|12", "validation-{0000..0001}.tar|12")


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_sample_of_a_shard_is_named(breakage, recipe, tmp_path) -> None:
    pytest.importorskip("webdataset")
    chosen = recipe("plain", *CHANGES, "total_batch=4")
    where = broken_shards(tmp_path, ("train",), breakage)
    with pytest.raises(UserError, match=BREAKAGES[breakage][1]) as error:
        train(net(), chosen, ImageData(where, chosen, workers=1), options=Options(device="cpu"))
    assert "--skip-unreadable" in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_broken_sample_of_a_shard_is_left_out_of_training_but_not_of_evaluation(recipe, tmp_path) -> None:
    pytest.importorskip("webdataset")
    chosen = recipe("plain", *CHANGES, "total_batch=4")
    where = broken_shards(tmp_path, ("train",), "no image")
    images = ImageData(where, chosen, workers=1, skip_unreadable=True)
    result = train(net(), chosen, images, options=Options(device="cpu"))
    assert result.steps == 6
    assert result.metrics["top1"] >= 0
    where = broken_shards(tmp_path, ("validation",), "no image")
    images = ImageData(where, chosen, workers=1, skip_unreadable=True)
    with pytest.raises(UserError, match=r"The image b in .*validation-0000\.tar cannot be read"):
        train(net(), chosen, images, options=Options(device="cpu"))


def test_a_shard_that_is_missing_cut_short_or_short_of_images_is_named(recipe, tmp_path, caplog) -> None:
    pytest.importorskip("webdataset")
    chosen = recipe("plain", *CHANGES, "total_batch=4", "epochs=1")
    where = broken_shards(tmp_path, (), "no image")
    shard = tmp_path / "train-0001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:3000])
    with pytest.raises(UserError, match=r"The shard .*train-0001\.tar is cut short: .* --skip-unreadable"):
        ImageData(where, chosen, workers=1)
    images = ImageData(where, chosen, workers=1, skip_unreadable=True)
    assert train(net(), chosen, images, options=Options(device="cpu")).steps == 3
    assert "it is cut short" in caplog.text
    shard.unlink()
    with pytest.raises(UserError, match=r"The shard .*train-0001\.tar cannot be read \(No such file"):
        ImageData(where, chosen, workers=1)
    shard.write_bytes(whole)
    where = replace(where, validation_split="validation-{0000..0001}.tar|13")
    with pytest.raises(UserError, match="has 12 images with labels, where its split or --validation-images states 13"):
        train(net(), chosen, ImageData(where, chosen, workers=1), options=Options(device="cpu"))


@pytest.mark.parametrize(
    ("kind", "said"), [("hfds", r"The image number \d+ of the data set"), ("hfids", "An image of hfids/.*")]
)
def test_a_broken_image_of_a_hugging_face_set_is_one_sentence(kind, said, recipe, tmp_path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    contents = [jpeg(place % 3, place) if place != 5 else b"no image" for place in range(9)]
    rows = [{"image": {"bytes": content, "path": None}, "label": place % 3} for place, content in enumerate(contents)]
    (tmp_path / "set").mkdir()
    for split in ("train", "validation"):
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "set" / f"{split}.parquet"))
    chosen = recipe("plain", *CHANGES, "total_batch=3")
    counts = (9, 9) if kind == "hfids" else (0, 0)
    where = Source(tmp_path / "cache", f"{kind}/{tmp_path}/set", "train", "validation", *counts)
    with pytest.raises(UserError, match=f"{said} cannot be read \\(.*identify image file.*\\): repair") as error:
        train(net(), chosen, ImageData(where, chosen, workers=1), options=Options(device="cpu"))
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("tfds/imagenette", r"tensorflow and tensorflow_datasets, not installed here: pip install 'resight\[tfds\]'"),
        ("hfds/some/set", r"datasets, not installed here: pip install 'resight\[streams\]'"),
        ("wds/", r"webdataset, not installed here: pip install 'resight\[streams\]'"),
    ],
)
def test_a_missing_reader_is_named(dataset, said, recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(images_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"^{dataset} is read by {said}"):
        ImageData(Source(tmp_path, dataset), recipe("plain", *CHANGES))


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        ("nosuch/x", "there is no such kind of data set"),
        ("hdfs/cifar10", "Did you mean hfds/?"),
        ("imagenet", "The names begin with wds/, hfds/, hfids/, tfds/, or are torch/cifar10 and torch/cifar100;"),
        ("torch/image_folder", "there is no such kind of data set"),
        ("torch/cifar", "Did you mean torch/cifar10"),
        ("hfds/", "names no data set; give hfds/NAME"),
    ],
)
def test_an_unknown_kind_of_data_set_is_refused(dataset, sentence, folder, recipe) -> None:
    """timm would take it for a folder, and train and validate on all of it."""
    with pytest.raises(UserError) as error:
        ImageData(Source(folder, dataset), recipe("plain"))
    assert sentence in str(error.value)


@pytest.mark.parametrize("proxy", ["", "socks5://127.0.0.1:9"])
def test_a_hugging_face_set_without_network_is_one_sentence(proxy, recipe, tmp_path, monkeypatch) -> None:
    pytest.importorskip("datasets")
    failure = ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.") if proxy else None
    failure = failure or type("ConnectError", (Exception,), {})("Name or service not known\nmore")

    def fails(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(images_module, "create_dataset", fails)
    with pytest.raises(UserError, match=r"(SOCKS|not known).*check its name, the network and the proxy") as error:
        ImageData(Source(tmp_path, "hfds/nobody/nothing"), recipe("plain"))
    assert "\n" not in str(error.value)


def test_a_repaired_image_lets_the_run_go_on(broken, folder, recipe, tmp_path_factory) -> None:
    """What was trained before the image was met is kept, and the result is that of an undisturbed run."""
    root, bad = broken
    chosen = recipe("plain", *CHANGES)
    run_folder, options = tmp_path_factory.mktemp("run"), Options(device="cpu", checkpoint_steps=1)
    with pytest.raises(UserError, match="cannot be read"):
        train(net(), chosen, ImageData(Source(root), chosen, workers=0), folder=run_folder, options=options)
    bad.write_bytes((folder / bad.relative_to(root)).read_bytes())
    model, whole = net(), net()
    train(model, chosen, ImageData(Source(root), chosen, workers=0), folder=run_folder, options=options)
    train(whole, chosen, ImageData(Source(folder), chosen, workers=0), options=options)
    assert torch.equal(model[2].weight, whole[2].weight)


def test_a_folder_that_does_not_fit_is_one_sentence(broken, recipe, tmp_path) -> None:
    root, _ = broken
    chosen = recipe("plain", *CHANGES)
    with pytest.raises(UserError, match=r"neither a folder train .* nor a file train\.tar"):
        ImageData(Source(root / "train"), chosen)
    (root / "val" / CLASSES[2]).rename(root / "val" / "n09999999")
    with pytest.raises(UserError, match="n01484850 is not in both"):
        ImageData(Source(root), chosen)
    for path in (root / "val" / "n09999999").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="n01484850 is not in both"):  # a folder is a class, also without images
        ImageData(Source(root), chosen)
    (root / "val" / "n09999999").rmdir()
    with pytest.raises(UserError, match="3 classes and its validation set 2"):
        ImageData(Source(root), chosen)
    with pytest.raises(UserError, match="The split train of hfds//no/such/place cannot be opened"):
        ImageData(Source(root, "hfds//no/such/place"), chosen)
    with pytest.raises(UserError, match="random_resized, simple or none, not padded"):
        ImageData(Source(root), replace(chosen, train_crop="padded"))


def test_a_stream_with_labels_beyond_the_classes_or_too_few_images(shards, recipe) -> None:
    pytest.importorskip("webdataset")
    where = Source(shards, "wds/", "train-{0000..0001}.tar|24", "validation-{0000..0001}.tar|9")
    chosen = recipe("plain", *CHANGES, "num_classes=2")
    with pytest.raises(UserError, match="has the label 2, but the recipe is written for 2 classes"):
        train(
            nn.Sequential(nn.Flatten(), nn.Linear(1728, 2)),
            chosen,
            ImageData(where, chosen, workers=1),
            options=Options(device="cpu"),
        )
    chosen = recipe("plain", *CHANGES, "total_batch=6")
    with pytest.raises(UserError, match=r"ended before the 24 images .* no more processes than it has shards"):
        batches(ImageData(where, chosen, workers=1), chosen, 0, 0, rank=2, world=3)
    chosen = recipe("plain", *CHANGES, "repeated_augmentation=3")
    with pytest.raises(UserError, match="Repeated augmentation needs a data set with an order"):
        train(net(), chosen, ImageData(where, chosen), options=Options(device="cpu"))


def test_the_command_trains_on_a_folder(folder, tmp_path, capsys) -> None:
    """The recipe for ImageNet as a user gives it, on a set of three classes; then once more, and a different one."""
    from argparse import ArgumentParser

    from common.training import command
    from results.training import write_report

    parser = ArgumentParser()
    command.add_arguments(parser)
    papers = Path(__file__).parents[2] / "papers"

    def call(*options: str) -> int:
        args = ["--data", str(folder), "--output", str(tmp_path / "run"), "--workers=0", "--device=cpu", "--quick"]
        return command.run(
            parser.parse_args([*args, *options]),
            slug="vars",
            recipe_path=papers / "vars" / "recipe.toml",
            models=["vit_tiny_patch16_224", "resnet18"],
            report=write_report,
        )

    small = ["--set=num_classes=3", "--set=input_size=32"]
    assert call("--model=vit_tiny_patch16_224", *small) == 0
    said = capsys.readouterr().out
    assert "recipe imagenet, deviating: num_classes=3, input_size=32" in said
    assert "8 images per device x 1 devices x 1 accumulation steps = total batch 8" in said
    assert "written for a total batch of 1024; learning_rate scaled linearly" in said
    assert "Trained 2 steps: top1" in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["recipe"]["changes"] == ["num_classes=3", "input_size=32"]
    assert record["settings"]["recipe"]["auto_augment"] == "rand-m9-mstd0.5-inc1"
    assert f"Report: {tmp_path / 'run' / 'report.html'}" in said
    assert {"run.json", "history.csv", "model.pt", "report.html", "checkpoints", "tensorboard"} == {
        path.name for path in (tmp_path / "run").iterdir()
    }
    assert call("--model=vit_tiny_patch16_224", *small) == 0
    assert "step 2 of 2" in capsys.readouterr().out
    with pytest.raises(UserError, match="written with another recipe, where epochs"):
        call("--model=vit_tiny_patch16_224", *small, "--set=epochs=2")
    with pytest.raises(UserError, match="3 classes, but the recipe is written for 1000"):
        call("--model=vit_tiny_patch16_224")
    with pytest.raises(UserError, match=r"vit_tinny is not a model of vars\. Did you mean vit_tiny_patch16_224\?"):
        call("--model=vit_tinny")
    assert command.create_model("resnet18", _with_size(papers, 32), 0).num_classes == 1000
    args = parser.parse_args(["--model=resnet18"])
    with pytest.raises(UserError, match="needs --data DIR"):
        command.open_data(args, _with_size(papers, 32))


def _with_size(papers: Path, size: int):
    from common.training.recipe import load_recipe

    return load_recipe(papers / "vars" / "recipe.toml", "imagenet", changes=[f"input_size={size}"])


def test_a_careless_folder_trains_as_the_clean_one(folder, recipe, tmp_path, caplog) -> None:
    """Deeper folders, other endings, hidden files, folders that systems leave behind, notes."""
    for split in ("train", "val"):
        for label, number in entries(split):
            name = f"{CLASSES[label]}_{number}.JPEG"
            place = tmp_path / split / CLASSES[label] / ("images" if number % 2 else "") / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((folder / split / CLASSES[label] / name).read_bytes())
        for name in (f"{CLASSES[0]}/._x.JPEG", ".ipynb_checkpoints/x.JPEG", "__MACOSX/a/x.JPEG", f"{CLASSES[1]}/a.txt"):
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / split / name).write_bytes(b"")
    chosen = recipe("plain", *CHANGES)
    images = ImageData(Source(tmp_path), chosen, workers=0)
    assert images.describe() == ImageData(Source(folder), chosen, workers=0).describe()
    assert "1 file is no image by the ending (.txt) and is left out" in caplog.text


def test_16_bits_of_grey_are_trained_on_as_8(recipe, tmp_path) -> None:
    for split, label in ((split, label) for split in ("train", "val") for label in range(2)):
        for number in range(4):
            path = tmp_path / split / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((24, 24), 256 * (40 + label), np.uint16)).save(path)
    chosen = recipe("plain", *CHANGES, "num_classes=2", "total_batch=8", "input_size=24")
    plan = make_plan(chosen, seed=0, device_batch=8, rank=0, world=1, device=torch.device("cpu"))
    images = ImageData(Source(tmp_path), chosen, workers=0)
    ((pixels, labels),) = images.validation_batches(chosen, plan)
    assert torch.equal(pixels.unique(), torch.tensor([40, 41], dtype=torch.uint8))
    assert torch.equal(pixels[:, 0, 0, 0], (40 + labels).to(torch.uint8))


def test_folders_that_cannot_be_trained_on_are_explained(broken, recipe) -> None:
    root, _ = broken
    chosen = recipe("plain", *CHANGES)
    (root / "train" / "n00000001").mkdir()
    with pytest.raises(UserError, match=r"class folder .*n00000001 has no image: fill it, or remove it"):
        ImageData(Source(root), chosen)
    (root / "train" / "n00000001").rmdir()
    flat = root / "flat"
    for path in list((root / "val").glob("*/*")):
        path.rename(root / "val" / path.name)
    for path in (root / "val").iterdir():
        if path.is_dir():
            path.rmdir()
    with pytest.raises(UserError, match=r"val has 9 images and no class folders.* make a folder for each class"):
        ImageData(Source(root), chosen)
    flat.mkdir()
    (root / "train").rename(flat / "all")
    flat.rename(root / "train")
    with pytest.raises(UserError, match="has one class folder, all; a classifier needs two or more"):
        ImageData(Source(root), chosen)


def test_the_simple_crop_is_a_window_of_the_resized_image_with_a_reflected_border(recipe) -> None:
    """A ramp of 40 columns, halved to 20: within a row, steps are those of the ramp, turned around in the border."""
    plain = ("color_jitter=0", "auto_augment=''", "horizontal_flip=0", "interpolation=nearest")
    chosen = recipe("plain", *CHANGES, *plain, "train_crop=simple", "crop_padding=4", "input_size=20")
    transform = make_transform(chosen, training=True)
    ramp = np.repeat(np.arange(0, 200, 5, dtype=np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    halved = np.asarray(Image.fromarray(ramp).resize((20, 30), Image.Resampling.NEAREST))[0, :, 0]
    reflected = np.pad(halved, 4, mode="reflect")
    places = set()
    for seed in range(100):
        torch.manual_seed(seed)
        rows = transform(Image.fromarray(ramp))[0]
        assert rows.shape == (20, 20)
        assert (rows == rows[0]).all()
        fitting = [at for at in range(9) if np.array_equal(rows[0], reflected[at : at + 20])]
        assert len(fitting) == 1
        places.update(fitting)
    assert places == set(range(9))
    with pytest.raises(UserError, match="resizes by one interpolation"):
        make_transform(replace(chosen, interpolation="random"), training=True)
