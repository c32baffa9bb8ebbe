"""Class folders and tar files: the top folder is the class, and what is not read is counted."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.folders import ImageFiles, natural_key, visible_folders
from common.data.pixels import read_image
from common.errors import UserError


def write(path: Path, grey: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {".jpg": "JPEG", ".tif": "TIFF", ".pgm": "PPM"}.get(path.suffix.lower(), path.suffix[1:].upper())
    Image.new("L", (8, 8), grey).convert("RGB").save(path, "JPEG" if form == "JPG" else form)
    return path


def labelled(files: ImageFiles) -> list[tuple[str, int]]:
    return [(files.filename(index), files[index][1]) for index in range(len(files))]


def test_the_top_folder_is_the_class_however_deep_an_image_lies(tmp_path: Path) -> None:
    for name in ("cat/a/x.jpg", "cat/b/c/y.jpg", "cat/z.jpg", "dog/images/x.JPEG"):
        write(tmp_path / name)
    files = ImageFiles(tmp_path)
    assert files.class_to_idx == {"cat": 0, "dog": 1}
    assert labelled(files) == [("cat/a/x.jpg", 0), ("cat/b/c/y.jpg", 0), ("cat/z.jpg", 0), ("dog/images/x.JPEG", 1)]
    assert ImageFiles(tmp_path, {"dog": 7})[0][1] == 7


def test_every_ending_counts_in_any_case_and_others_are_counted(tmp_path: Path) -> None:
    names = ("a.jpg", "b.PNG", "c.webp", "d.BMP", "e.tif", "f.tiff", "g.gif", "h.pgm", "i.JPEG")
    for name in names:
        write(tmp_path / "cat" / name)
    for name in ("notes.txt", "more.zip", "archive.zip"):
        (tmp_path / "cat" / name).write_bytes(b"")
    write(tmp_path / "beside.png")
    (tmp_path / "dog").mkdir()
    files = ImageFiles(tmp_path)
    assert [name for name, _ in labelled(files)] == [f"cat/{name}" for name in names]
    assert files.left_out == (
        "3 files are no image by the ending (.zip, .txt) and are left out; 1 image lies beside the class folders and "
        "is left out; no image is in the class folder dog"
    )
    assert files.class_to_idx == {"cat": 0, "dog": 1}
    assert files.empty == ["dog"]


def test_hidden_files_and_leftovers_are_no_classes_and_no_images(tmp_path: Path) -> None:
    write(tmp_path / "cat/x.jpg")
    for name in (
        "cat/._x.jpg", "cat/.ipynb_checkpoints/x.jpg", ".ipynb_checkpoints/y.jpg", "__MACOSX/cat/._x.jpg",
        "cat/@eaDir/x.jpg", "lost+found/x.jpg", ".DS_Store/x.jpg",
    ):  # fmt: skip
        write(tmp_path / name)
    files = ImageFiles(tmp_path)
    assert labelled(files) == [("cat/x.jpg", 0)]
    assert (files.left_out, visible_folders(tmp_path)) == ("", ["cat"])


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "store/x.jpg")
    root = tmp_path / "set"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        (root / name / "linked").symlink_to(tmp_path / "store")
        (root / name / "up").symlink_to(root)
    (root / "cat/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "bird").symlink_to(tmp_path / "store")
    files = ImageFiles(root)
    assert [name for name, _ in labelled(files) if "up" not in name] == [
        "bird/x.jpg", "cat/gone.jpg", "cat/linked/x.jpg", "dog/linked/x.jpg",
    ]  # fmt: skip
    with pytest.raises(OSError, match=r"gone\.jpg"):
        read_image(files[1][0])
    (root / "fish").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"The link .*fish leads nowhere"):
        ImageFiles(root)


def test_pipes_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "cat/x.jpg")
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    assert len(ImageFiles(tmp_path)) == 1


def test_names_that_differ_in_case_have_an_order(tmp_path: Path) -> None:
    expected = ["01", "1", "2", "10", "Cat", "cat", "²"]
    assert sorted(["²", "10", "cat", "1", "Cat", "2", "01"], key=natural_key) == expected
    assert sorted(expected, key=natural_key) == expected


def test_images_without_class_folders_are_explained(tmp_path: Path) -> None:
    write(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match=r"val has 1 image and no class folders.*make a folder for each class.*valprep"):
        ImageFiles(tmp_path / "val")
    (tmp_path / "none/cat").mkdir(parents=True)
    (tmp_path / "none/cat/x.heic").touch()
    with pytest.raises(UserError, match=r"none has no images in the class folders, but 1 file is no image .*\.heic"):
        ImageFiles(tmp_path / "none")
    (tmp_path / "set.zip").touch()
    with pytest.raises(UserError, match=r"set\.zip is neither a folder nor a \.tar file; unpack it"):
        ImageFiles(tmp_path / "set.zip")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def link(archive: tarfile.TarFile, name: str, target: str, kind: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    archive.addfile(info)


def jpeg(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (grey,) * 3).save(file, "JPEG")
    return file.getvalue()


def shades(files: ImageFiles) -> list[tuple[str, int, int]]:
    return [
        (name, label, round(np.asarray(read_image(files[index][0])).mean() / 10))
        for index, (name, label) in enumerate(labelled(files))
    ]


@pytest.mark.parametrize("above", ["", "./", "./train/"])
def test_a_tar_file_is_read_as_a_folder(tmp_path: Path, above: str) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        add(archive, f"{above}dog/deep/er/1.JPG", jpeg(10))
        add(archive, f"{above}cat/2.jpg", jpeg(20))
        add(archive, f"{above}cat/._2.jpg", b"mac")
        add(archive, f"{above}__MACOSX/cat/._2.jpg", b"mac")
        add(archive, f"{above}cat/notes.txt", b"")
        link(archive, f"{above}cat/3.jpg", f"{above}dog/deep/er/1.JPG", tarfile.LNKTYPE)
        link(archive, f"{above}cat/4.jpg", "../cat/2.jpg", tarfile.SYMTYPE)
        link(archive, f"{above}cat/5.jpg", "gone.jpg", tarfile.SYMTYPE)
        link(archive, f"{above}bird", "", tarfile.DIRTYPE)
    files = ImageFiles(tmp_path / "set.tar")
    assert files.class_to_idx == {"bird": 0, "cat": 1, "dog": 2}
    place = above.removeprefix("./")
    names = [files.filename(index) for index in range(len(files))]
    assert names == [place + name for name in ("cat/2.jpg", "cat/3.jpg", "cat/4.jpg", "cat/5.jpg", "dog/deep/er/1.JPG")]
    read = [round(np.asarray(read_image(files[index][0])).mean()) for index in (0, 1, 2, 4)]
    assert read == [20, 10, 20, 10]
    with pytest.raises(OSError, match="link to a file that the tar file does not hold"):
        files[3]
    assert "1 file is no image by the ending (.txt)" in files.left_out


def test_a_tar_file_of_tar_files_has_a_class_for_each(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as outer:
        for number, name in enumerate(("n02", "n01")):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for image in range(2):
                    add(archive, f"{name}_{image}.JPEG", jpeg(10 * (2 * number + image + 1)))
            add(outer, f"{name}.tar", inner.getvalue())
    assert shades(ImageFiles(tmp_path / "train.tar")) == [
        ("n01/n01_0.JPEG", 0, 3), ("n01/n01_1.JPEG", 0, 4), ("n02/n02_0.JPEG", 1, 1), ("n02/n02_1.JPEG", 1, 2),
    ]  # fmt: skip


def test_a_damaged_or_flat_tar_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"The tar file .*x\.tar cannot be read"):
        ImageFiles(tmp_path / "x.tar")
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        add(archive, "a.jpg", jpeg(0))
    with pytest.raises(UserError, match="1 image and no class folders"):
        ImageFiles(tmp_path / "val.tar")
