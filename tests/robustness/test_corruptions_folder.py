"""Writing a corrupted copy of an image folder."""

from __future__ import annotations

import argparse
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.folders import ImageFiles
from common.errors import UserError
from common.robustness.corruptions import folder
from common.robustness.corruptions.folder import corrupt_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index, name in enumerate(("cat/one.JPEG", "cat/two.png", "dog/three.jpg")):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (9 + index, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((70, 60 + index)).save(path)
    return tmp_path / "source"


def contents(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_layout_is_that_of_imagenet_c(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert corrupt_folder(source, target, ["fog", "contrast"], [1, 3], crop=32) == 12
    files = contents(target)
    assert len(files) == 12
    assert {"fog/1/cat/one.JPEG", "contrast/3/cat/two.JPEG", "fog/3/dog/three.jpg"} <= set(files)
    with Image.open(target / "fog/1/cat/two.JPEG") as image:
        assert (image.format, image.size) == ("JPEG", (32, 32))


def test_interrupted_run_goes_on_with_the_same_result(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    corrupt_folder(source, whole, ["gaussian_noise"], [1, 2], crop=32)
    monkeypatch.setattr(folder, "BATCH", 1)
    corrupt_folder(source, parts, ["gaussian_noise"], [2], crop=32)
    (parts / "gaussian_noise/2/cat/one.JPEG").unlink()
    kept = (parts / "gaussian_noise/2/cat/two.JPEG").stat().st_mtime_ns
    assert corrupt_folder(source, parts, ["gaussian_noise"], [1, 2], crop=32) == 4
    assert (parts / "gaussian_noise/2/cat/two.JPEG").stat().st_mtime_ns == kept
    assert contents(parts) == contents(whole)
    assert corrupt_folder(source, parts, ["gaussian_noise"], [1, 2], crop=32) == 0


def test_sizes_are_kept_on_request(source: Path, tmp_path: Path) -> None:
    corrupt_folder(source, tmp_path / "target", ["pixelate"], [1], crop=None)
    with Image.open(tmp_path / "target/pixelate/1/dog/three.jpg") as image:
        assert image.size == (70, 62)


def test_images_that_differ_in_their_endings_alone_are_all_written(source: Path, tmp_path: Path) -> None:
    for name in ("one.webp", "one.TIF", "one.jpg"):
        Image.new("RGB", (40, 40), (len(name), 9, 99)).save(source / "dog" / name)
    assert corrupt_folder(source, tmp_path / "target", ["contrast"], [1], crop=None) == 6
    written = {"dog/one.jpg", "dog/one.TIF.JPEG", "dog/one.webp.JPEG", "dog/three.jpg", "cat/one.JPEG", "cat/two.JPEG"}
    assert set(contents(tmp_path / "target")) == {f"contrast/1/{name}" for name in written}


def test_unreadable_images_are_named_after_the_others_are_written(source: Path, tmp_path: Path) -> None:
    (source / "dog/broken.jpg").write_bytes((source / "dog/three.jpg").read_bytes()[:200])
    (source / "dog/text.png").write_text("no image")
    Image.new("RGB", (5, 5)).save(source / "dog/tiny.png")
    broken = r"3 of 6 images .* dog/broken.jpg, dog/text.png, dog/tiny.png; all others are written"
    with pytest.raises(UserError, match=broken):
        corrupt_folder(source, tmp_path / "target", ["contrast"], [1], crop=None)
    assert len(contents(tmp_path / "target")) == 3


def test_full_disk_is_told_and_nothing_half_written_stays(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if "three" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"three\.jpg cannot be written \(No space left on device\); .* run again"):
        corrupt_folder(source, tmp_path / "target", ["contrast"], [1], crop=32)
    assert set(contents(tmp_path / "target")) <= {"contrast/1/cat/one.JPEG", "contrast/1/cat/two.JPEG"}
    monkeypatch.undo()
    corrupt_folder(source, tmp_path / "target", ["contrast"], [1], crop=32)
    assert len(contents(tmp_path / "target")) == 3


def test_bad_folders_are_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no folder"):
        corrupt_folder(tmp_path / "missing", tmp_path / "target")
    with pytest.raises(UserError, match=r"expected .*<class>/<image>"):
        corrupt_folder(source / "cat", tmp_path / "target")
    with pytest.raises(UserError, match="lies inside the source"):
        corrupt_folder(source, source / "corrupted")
    for name in ("two.bmp", "two.bmp.JPEG"):
        (source / "cat" / name).write_bytes((source / "cat/two.png").read_bytes())
    with pytest.raises(UserError, match="one name"):
        corrupt_folder(source, tmp_path / "target")
    with pytest.raises(UserError, match="crop of 7 pixels is too small"):
        corrupt_folder(source / "cat", tmp_path / "target", crop=7)
    with pytest.raises(UserError, match="Did you mean contrast"):
        corrupt_folder(source, tmp_path / "target", ["contrats"])


def test_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    folder.add_arguments(parser)
    target = str(tmp_path / "target")
    arguments = [str(source), target, "--corruptions", "saturate", "--severities", "2", "--crop", "16"]
    assert folder.run(parser.parse_args(arguments)) == 0
    assert "3 images written" in capsys.readouterr().out


def test_a_copy_has_the_images_and_classes_that_an_evaluation_finds(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.full((60, 70), 256 * 100, np.uint16)
    (source / "cat/deep/er").mkdir(parents=True)
    Image.fromarray(pixels).save(source / "cat/deep/er/four.TIFF")
    (source / "cat/notes.txt").touch()
    for name in ("cat/._one.JPEG", ".ipynb_checkpoints/one.JPEG", "__MACOSX/cat/one.JPEG"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"")
    (source / "bird").mkdir()
    assert corrupt_folder(source, tmp_path / "target", ["contrast"], [1], crop=32) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "1 file is no image by the ending (.txt) and is left out; no image is in the class folder bird" in said
    original, copy = ImageFiles(source), ImageFiles(tmp_path / "target/contrast/1")
    assert copy.class_to_idx == original.class_to_idx == {"bird": 0, "cat": 1, "dog": 2}
    assert [label for _, label in copy] == [label for _, label in original] == [1, 1, 1, 2]
    with Image.open(tmp_path / "target/contrast/1/cat/deep/er/four.JPEG") as image:
        assert np.abs(np.asarray(image).astype(int) - 100).max() <= 1
