"""Whatever a file holds becomes 8 bits a channel, or is refused by what it is."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.pixels import READ_ERRORS, read_image

GREY = np.array([[0, 255, 256, 32768, 65280, 65535]], np.uint16)


def values(path: Path, mode: str = "L") -> np.ndarray:
    return np.asarray(read_image(path, mode))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_of_grey_become_8(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    Image.fromarray(GREY).save(path)
    assert values(path).tolist() == [[0, 0, 1, 128, 255, 255]]
    colours = values(path, "RGB")
    assert (colours == values(path)[..., None]).all()


def test_big_endian_and_12_bit_grey_are_scaled_alike(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 6 1 65535\n" + GREY.astype(">u2").tobytes())
    assert values(tmp_path / "x.pgm").tolist() == [[0, 0, 1, 128, 255, 255]]
    (tmp_path / "big.tif").write_bytes(tiff(bits=16, endian=">", pixels=GREY.astype(">u2").tobytes(), width=6))
    assert values(tmp_path / "big.tif").tolist() == [[0, 0, 1, 128, 255, 255]]
    twelve = tiff(bits=12, endian="<", pixels=bytes([0xFF, 0xF8, 0x00]), width=2)  # 4095, 2048
    (tmp_path / "twelve.tif").write_bytes(twelve)
    assert values(tmp_path / "twelve.tif").tolist() == [[255, 128]]


def tiff(*, bits: int, endian: str, pixels: bytes, width: int) -> bytes:
    """A TIFF file of one row of grey."""
    order = "little" if endian == "<" else "big"
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, len(pixels))]
    padded = pixels + bytes(len(pixels) % 2)
    file = (b"II" if endian == "<" else b"MM") + (42).to_bytes(2, order) + (8 + len(padded)).to_bytes(4, order) + padded
    file += len(tags).to_bytes(2, order)
    for tag, value in tags:
        short = value.to_bytes(2, order) + bytes(2)
        file += tag.to_bytes(2, order) + (3).to_bytes(2, order) + (1).to_bytes(4, order) + short
    return file + bytes(4)


@pytest.mark.parametrize(("kind", "said"), [(np.int32, "32-bit integers"), (np.float32, "floating-point numbers")])
def test_pixels_without_a_known_white_are_refused(tmp_path: Path, kind: type, said: str) -> None:
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=f"its pixels are {said}, .*; store it with 8 or 16 bits"):
        read_image(tmp_path / "x.tif")


def test_palettes_transparency_and_cmyk_are_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(tmp_path / "p.png", transparency=bytes([0, 128]))
    Image.new("RGBA", (2, 1), (10, 20, 30, 0)).save(tmp_path / "a.png")
    Image.new("LA", (2, 1), (7, 0)).save(tmp_path / "la.png")
    Image.new("1", (2, 1), 1).save(tmp_path / "one.png")
    Image.new("CMYK", (2, 1), (0, 255, 255, 0)).save(tmp_path / "c.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert values(tmp_path / "p.png", "RGB").tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert values(tmp_path / "a.png", "RGB")[0, 0].tolist() == [10, 20, 30]
    assert values(tmp_path / "la.png")[0, 0] == 7
    assert values(tmp_path / "one.png")[0, 0] == 255
    assert values(tmp_path / "c.tif", "RGB")[0, 0].tolist() == [255, 0, 0]


def test_pixels_are_as_stored_whatever_the_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    Image.new("RGB", (6, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").size == (6, 4)


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert values(tmp_path / "x.gif", "RGB")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_damaged_files_raise_nothing_else(form: str) -> None:
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(file, form)
    content = file.getvalue()
    for _ in range(40):
        damaged = bytearray(content[: rng.integers(1, len(content) + 1)])
        for place in rng.integers(0, len(damaged), 4):
            damaged[place] = rng.integers(256)
        try:
            assert read_image(io.BytesIO(bytes(damaged))).mode == "RGB"
        except READ_ERRORS:
            continue
