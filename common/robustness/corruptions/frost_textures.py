"""Frost pictures: random stand-ins with the statistics of the original's, or the original's own from a folder."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.data.pixels import READ_ERRORS, read_image
from common.errors import UserError

from .draws import Draws

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The pictures that ImageNet-C draws from (its script has a sixth, which it never uses).
ORIGINAL_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def crops(height: int, width: int, stride: int, draws: Draws) -> Tensor:
    """One random crop of a random frost picture per image.

    Args:
        height: rows of the crop.
        width: columns of the crop.
        stride: the pictures are shrunk by this first, by taking every ``stride``-th pixel.
        draws: ``frost_ints`` and ``frost_photo_bgr``, or neither.

    Returns:
        float32 ``(B, 3, H, W)``, grey levels.
    """
    own = draws.given.get("frost_photo_bgr")
    if own is not None:
        own = own if own.ndim == 4 else own.expand(len(draws), *own.shape)
        pictures = [shrink(picture.permute(2, 0, 1).flip(0), stride) for picture in own]
    else:
        pictures = [shrink(picture, stride) for picture in draws.frost_pictures or stand_ins()]
    pictures = [cover(picture, height, width).to(draws.device) for picture in pictures]
    if draws.has("frost_ints"):
        places = draws.look_up("frost_ints", (3,)).tolist()
        if own is None and any(not 0 <= index < len(pictures) for index, _, _ in places):
            raise UserError(f"frost_ints name a picture that is not there; give 0 to {len(pictures) - 1} first.")
    else:
        places = []
        for index, down, right in draws.uniform("frost_place", 3).tolist():
            picture = pictures[int(index * len(pictures))]
            rows, columns = picture.shape[1] - height, picture.shape[2] - width
            places.append((int(index * len(pictures)), int(down * rows), int(right * columns)))
    out = torch.empty(len(draws), 3, height, width, device=draws.device)
    for image, (index, row, column) in enumerate(places):
        picture = pictures[index] if own is None else pictures[image]
        crop = picture[:, row : row + height, column : column + width]
        if crop.shape[1:] != (height, width):
            raise UserError(
                f"A frost crop of {height} x {width} from row {row}, column {column} leaves its picture of "
                f"{picture.shape[1]} x {picture.shape[2]}; give smaller frost_ints."
            )
        out[image] = crop
    return out


def shrink(picture: Tensor, stride: int) -> Tensor:
    """Shrink ``(3, rows, columns)`` by an odd factor: the pixel in the middle of every ``stride`` x ``stride`` block.

    This is what OpenCV's bilinear resize by 1 / stride reads.
    """
    return picture[:, stride // 2 :: stride, stride // 2 :: stride]


def cover(picture: Tensor, height: int, width: int) -> Tensor:
    """Enlarge ``(3, rows, columns)`` where it is smaller than the image that it has to cover."""
    factor = max(height / picture.shape[1], width / picture.shape[2])
    if factor <= 1:
        return picture
    size = [int(np.ceil(length * factor)) for length in picture.shape[1:]]
    return F.interpolate(picture[None].float(), size=size, mode="bilinear", align_corners=False)[0].to(torch.uint8)


@cache
def read_pictures(folder: str) -> tuple[Tensor, ...]:
    """The original's five frost pictures, uint8 ``(3, rows, columns)`` each.

    Raises:
        UserError: one is missing or no image.
    """
    pictures = []
    for name in ORIGINAL_FILES:
        try:
            pictures.append(torch.from_numpy(np.array(read_image(Path(folder) / name))).permute(2, 0, 1))
        except READ_ERRORS as error:
            raise UserError(
                f"Frost picture {Path(folder) / name} cannot be read ({error}); the folder must hold "
                f"{', '.join(ORIGINAL_FILES)} of the ImageNet-C scripts."
            ) from error
    return tuple(pictures)


@cache
def stand_ins() -> tuple[Tensor, ...]:
    """Five random pictures with the statistics in ``frost.toml``, always the same; uint8 ``(3, rows, columns)``."""
    with Path(__file__).with_name("frost.toml").open("rb") as file:
        described = tomllib.load(file)["picture"]
    return tuple(_synthesise(statistics, seed) for seed, statistics in enumerate(described))


def _power(shares: NDArray[np.float64], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power at every frequency, in cycles per pixel, of a picture with these shares of it per octave.

    Between the middles of octaves it follows power laws, as in photographs: flat octaves would hold too much of their
    power at the highest frequencies.
    """
    with np.errstate(divide="ignore"):
        place = -np.log2(frequency) - 0.5  # octave i is from i to i + 1; the mean, at infinity, is in none
    octave = np.clip(np.floor(place), 0, len(shares) - 1).astype(int)

    def per_octave(power: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(octave.ravel()[1:], power.ravel()[1:], minlength=len(shares)).astype(np.float64)

    middles = np.arange(len(shares)) + 0.5
    level = np.log(shares / per_octave(np.ones_like(frequency)))
    for _ in range(10):  # every share is met to a thousandth then, and by the last division exactly
        # Above the middle of the first octave its law goes on.
        steeper = np.minimum(place - middles[0], 0) * (level[1] - level[0])
        power = np.exp(np.interp(place, middles, level) + steeper)
        excess = per_octave(power) / shares
        level -= np.log(excess)
    power = power / excess[octave]
    power[0, 0] = 0
    return power


def _synthesise(statistics: dict[str, list[float]], seed: int) -> Tensor:
    rows, columns = (int(length) for length in statistics["size"])
    rng = np.random.Generator(np.random.PCG64(seed))
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None, :])
    amplitude = np.sqrt(_power(np.array(statistics["power"]), frequency))

    def field() -> NDArray[np.float64]:
        values = np.fft.ifft2(np.fft.fft2(rng.standard_normal((rows, columns))) * amplitude).real
        ranks = scipy.special.ndtr((values - values.mean()) / values.std())
        shaped = np.interp(ranks, [0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1], statistics["quantiles"])
        return (shaped - shaped.mean()) / shaped.std()

    red_green, red_blue, green_blue = statistics["correlation"]
    correlation = np.array([[1, red_green, red_blue], [red_green, 1, green_blue], [red_blue, green_blue, 1]])
    # The first factor is what the channels share; it takes the shape of the luminance.
    values, vectors = np.linalg.eigh(correlation)
    mixing = vectors * np.sqrt(values.clip(min=0))
    mixing *= np.sign(mixing.sum(axis=0))
    fields = np.stack([field().ravel() for _ in range(3)])
    coloured = mixing[:, ::-1] @ fields
    levels = coloured * np.array(statistics["std"])[:, None] + np.array(statistics["mean"])[:, None]
    return torch.from_numpy(levels.round().clip(0, 255).astype(np.uint8).reshape(3, rows, columns))
