"""Image folders: classes and order, and one sentence for each thing that can be wrong with a folder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.image_folder import batches, open_image_folder
from common.data.preprocessing import Preprocessing
from common.errors import UserError

PREPROCESSING = Preprocessing(size=32)
CLASSES = ("n01440764", "n01443537", "n01484850")


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(3):
            pixels = generator.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / name / f"ILSVRC2012_val_{number}.JPEG")
    return tmp_path


@pytest.mark.parametrize("where", ["", "val"])
def test_images_with_sorted_classes(folder, where):
    data = open_image_folder(folder / where, PREPROCESSING, classes=3)
    assert data.classes == {name: index for index, name in enumerate(CLASSES)}
    assert len(data) == 9
    images, labels = map(torch.cat, zip(*batches(data, batch_size=4, workers=0), strict=True))
    assert images.shape == (9, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.filename(3) == "n01443537/ILSVRC2012_val_0.JPEG"


def test_workers_read_the_same(folder):
    data = open_image_folder(folder, PREPROCESSING)
    alone, together = (list(batches(data, 4, workers)) for workers in (0, 2))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_a_subset_of_the_classes_keeps_their_numbers(folder):
    index = {"n01440764": 0, "n01443537": 1, "n01484850": 2, "n01491361": 3}
    shutil.rmtree(folder / "val" / "n01443537")
    data = open_image_folder(folder, PREPROCESSING, class_index=index, classes=2)
    assert sorted({data[i][1] for i in range(len(data))}) == [0, 2]
    with pytest.raises(UserError, match=r"no class of the model: n01484850\.$"):
        open_image_folder(folder, PREPROCESSING, class_index={"n01440764": 0})
    with pytest.raises(UserError, match=r"no images .* of the expected classes"):
        open_image_folder(folder, PREPROCESSING, class_index={"n01491361": 3})


@pytest.mark.parametrize("content", [b"", b"not an image", "half"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_and_not_skipped(folder, content, workers):
    broken = folder / "val" / "n01443537" / "ILSVRC2012_val_1.JPEG"
    broken.write_bytes(broken.read_bytes()[:500] if content == "half" else content)
    read = []
    with pytest.raises(UserError) as raised:
        read.extend(batches(open_image_folder(folder, PREPROCESSING), 2, workers))
    assert str(raised.value) == f"{broken} cannot be read as an image; replace or remove it."
    assert len(read) == 2


def test_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not a folder; expected .*/val/CLASS/IMAGE"):
        open_image_folder(tmp_path / "nowhere", PREPROCESSING)


def test_no_images(tmp_path):
    (tmp_path / "val" / "n01440764").mkdir(parents=True)
    (tmp_path / "val" / "n01440764" / "readme.txt").write_text("")
    with pytest.raises(UserError, match=r"holds no images \(.*\.jpeg.*expected"):
        open_image_folder(tmp_path, PREPROCESSING)


def test_images_outside_of_class_folders(folder):
    for file in (folder / "val").rglob("*.JPEG"):
        file.rename(folder / "val" / f"{file.parent.name}_{file.name}")
    with pytest.raises(UserError, match="where it should have CLASS/IMAGE"):
        open_image_folder(folder, PREPROCESSING)


def test_several_splits_are_not_evaluated_as_one(folder):
    (folder / "val").rename(folder / "first")
    shutil.copytree(folder / "first", folder / "second")
    with pytest.raises(UserError, match=r"has first/n01440764/ILSVRC2012_val_0\.JPEG where it should have"):
        open_image_folder(folder, PREPROCESSING)


def test_wrong_number_of_classes(folder):
    with pytest.raises(UserError, match="has 3 class folders, but 1000 classes are expected"):
        open_image_folder(folder, PREPROCESSING, classes=1000)


def test_an_empty_class_folder_would_shift_the_classes(folder):
    for file in (folder / "val" / "n01443537").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"without images, which would shift the classes: n01443537\."):
        open_image_folder(folder, PREPROCESSING, classes=3)
