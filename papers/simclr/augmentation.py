"""Colour distortion, grey and blur of a batch, each image by its own draws.

The strength s of the colour distortion is that of the release (data_util.py): brightness, contrast and saturation
change by up to 0.8 s, hue by up to 0.2 s of a full turn, in an order that is drawn for each image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError

#: Weights of red, green and blue in a grey image (ITU-R BT.601).
GREY = (0.2989, 0.5870, 0.1140)


@dataclass(frozen=True)
class AugmentationSettings:
    """How strong and how frequent distortions are.

    Attributes:
        strength: s of the colour distortion; 0 changes no colours.
        colour: probability of the colour distortion.
        grey: probability of a grey image, after it.
        blur: probability of a blur.
        additive: whether brightness is added, as in SimCLRv1, or multiplied, as in SimCLRv2.
    """

    strength: float = 1.0
    colour: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    additive: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1.25:
            raise UserError(f"The strength of colour distortion lies between 0 and 1.25, not at {self.strength}.")
        for name in ("colour", "grey", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is a probability, between 0 and 1, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Draws:
    """All chance in the distortion of N images.

    Attributes:
        order: (N, 4), a permutation: what is done first, second, ...; 0 brightness, 1 contrast, 2 saturation, 3 hue.
        brightness: (N,), a factor, or what is added.
        contrast, saturation: (N,), factors.
        hue: (N,), in turns.
        coloured, greyed, blurred: (N,), whether.
        sigma: (N,), of the blur, in pixels.
    """

    order: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    coloured: Tensor
    greyed: Tensor
    blurred: Tensor
    sigma: Tensor

    @classmethod
    def sample(cls, count: int, settings: AugmentationSettings, generator: torch.Generator) -> Draws:
        """Draw for ``count`` images."""
        spread = 0.8 * settings.strength
        draw = torch.rand(8, count, generator=generator)
        swing = (2 * draw - 1) * spread
        return cls(
            order=torch.rand(count, 4, generator=generator).argsort(dim=1),
            brightness=swing[0] if settings.additive else 1 + swing[0],
            contrast=1 + swing[1],
            saturation=1 + swing[2],
            hue=swing[3] / 4,
            coloured=draw[4] < settings.colour,
            greyed=draw[5] < settings.grey,
            blurred=draw[6] < settings.blur,
            sigma=0.1 + 1.9 * draw[7],
        )

    def select(self, index: slice, device: torch.device) -> Draws:
        """The draws of some of the images, on a device."""
        return Draws(**{field.name: getattr(self, field.name)[index].to(device) for field in fields(self)})


def distort(images: Tensor, draws: Draws, settings: AugmentationSettings) -> Tensor:
    """Distort colours, make grey, blur: float images (N, C, H, W) in [0, 1] to the same, C being 1 or 3."""
    if settings.strength and settings.colour:
        images = torch.where(_each(draws.coloured), _distort_colours(images, draws, settings.additive), images)
    if settings.grey and images.shape[1] == 3:
        images = torch.where(_each(draws.greyed), luma(images).expand_as(images), images)
    if settings.blur:
        images = torch.where(_each(draws.blurred), blur(images, draws.sigma), images)
    return images.clamp(0, 1)


def _distort_colours(images: Tensor, draws: Draws, additive: bool) -> Tensor:
    changes: tuple[tuple[Callable[[Tensor, Tensor], Tensor], Tensor], ...] = (
        (torch.add if additive else torch.mul, draws.brightness),
        (adjust_contrast, draws.contrast),
        (adjust_saturation, draws.saturation),
        (adjust_hue, draws.hue),
    )
    if images.shape[1] == 1:
        changes = changes[:2]  # grey images have neither saturation nor hue
    images = images.clone()
    for place in range(4):
        for code, (change, amount) in enumerate(changes):
            chosen = (draws.order[:, place] == code).nonzero()[:, 0]
            images[chosen] = change(images[chosen], _each(amount[chosen])).clamp(0, 1)
    return images


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance of pixels from the mean of their channel by ``factor`` (N, 1, 1, 1)."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + factor * (images - mean)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale HSV's saturation by ``factor`` (N, 1, 1, 1), up to full saturation; hue and value stay."""
    value = images.amax(dim=1, keepdim=True)
    saturation = (value - images.amin(dim=1, keepdim=True)) / value.clamp(min=1e-12)
    return value - (value - images) * torch.minimum(factor, 1 / saturation.clamp(min=1e-12))


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn HSV's hue by ``turn`` (N, 1, 1, 1), in full turns; saturation and value stay."""
    red, green, blue = images.unbind(dim=1)
    value, place = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    sector = torch.where(place == 0, green - blue, torch.where(place == 1, blue - red, red - green))
    hue = sector / chroma.clamp(min=1e-12) + 2 * place + 6 * turn[:, 0]  # in sixths of a turn
    # A channel falls from the value by the chroma where the hue is two sixths and more away from its own.
    away = (hue[:, None] + images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(away, 4 - away).clamp(0, 1)


def luma(images: Tensor) -> Tensor:
    """Brightness (N, 1, H, W) of images (N, 3, H, W)."""
    return (images * images.new_tensor(GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (N, C, H, W) by ``sigma`` (N,), in pixels; kernels span a tenth of the height, black beyond."""
    count, channels, height, width = images.shape
    radius = height // 10 // 2
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernels = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0).to(images.dtype)
    flat = images.reshape(1, count * channels, height, width)
    flat = F.conv2d(flat, kernels[:, None, :, None], padding=(radius, 0), groups=count * channels)
    flat = F.conv2d(flat, kernels[:, None, None, :], padding=(0, radius), groups=count * channels)
    return flat.view_as(images)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
