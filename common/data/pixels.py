"""The one reader of pixels: whatever a file holds, a picture of 8 bits a channel, the same for every command.

Pixels are those that the file stores, as torchvision and timm read them, whose numbers are compared with ours: a
transparency and an orientation in the EXIF data are left aside, of several frames the first counts, palettes, CMYK and
grey become RGB. 16 bits become 8 by their upper half, which is what Pillow does with colours and OpenCV with grey.
Streams of Hugging Face (``hfids/``) are decoded by their library, which does turn pictures by their EXIF data.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

#: What reading a broken image may raise.
READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

#: Modes of Pillow for 16 bits of grey.
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
#: Formats in which Pillow's 32-bit integers are 16 bits of grey.
_AT_MOST_SIXTEEN = ("PNG", "PPM")
#: TIFF's tag for the bits of a channel.
_BITS_PER_SAMPLE = 258


@dataclass(frozen=True)
class UnreadableImage:
    """In place of an image; an exception would bring the traceback of a loader process with it.

    Args:
        name: file, or key and shard.
        reason: why.
    """

    name: str
    reason: str


def read_image(file: Path | str | io.BytesIO, mode: str = "RGB") -> Image.Image:
    """The picture in a file, with 8 bits a channel.

    Args:
        file: its path or content.
        mode: ``RGB`` or ``L`` (grey).

    Raises:
        OSError, SyntaxError, ValueError, DecompressionBombError: it cannot be read (``READ_ERRORS``).
    """
    try:
        with Image.open(file) as opened:
            opened.load()
            return eight_bits(opened, mode)
    except (*READ_ERRORS, MemoryError):
        raise
    except Exception as error:  # decoders of damaged files raise anything
        raise ValueError(f"its decoder fails with {type(error).__name__}: {error}") from None


def eight_bits(image: Image.Image, mode: str = "RGB") -> Image.Image:
    """A loaded image with 8 bits a channel, itself where it has the ``mode`` already.

    Raises:
        ValueError: its pixels have no known black and white, or no colours that Pillow can convert.
    """
    if image.mode == mode:
        return image
    check_range_of(image)
    if image.mode == "I" or image.mode in _SIXTEEN_BITS:
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
        image = Image.fromarray((np.asarray(image).astype(np.int32) >> (bits - 8)).clip(0, 255).astype(np.uint8))
    elif image.mode in ("P", "PA", "RGBa"):
        image = image.convert("RGBA")  # directly, Pillow warns of a palette's transparency
    elif image.mode == "La":
        image = image.convert("LA")
    return image.convert(mode)


def check_range_of(image: Image.Image) -> None:
    """Raise a ``ValueError`` for an image, loaded or not, whose pixels have no known black and white."""
    if image.mode == "F" or (image.mode == "I" and image.format not in _AT_MOST_SIXTEEN):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise ValueError(f"its pixels are {kind}, which do not say what is white; store it with 8 or 16 bits a channel")
