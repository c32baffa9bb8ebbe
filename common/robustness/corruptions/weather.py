"""Weather: snow, frost, fog, brightness."""

from __future__ import annotations

import torch
from torch import Tensor

from . import filters, frost_textures
from .draws import Draws
from .filters import cut, to_bytes
from .motion import motion
from .parameters import Parameters


def brightness(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Value of the HSV image plus an amount: with hue and saturation kept, all channels scale with the value."""
    value = x.amax(1, keepdim=True).float()
    brighter = (value + 255 * p["add"]).clamp_(max=255)
    black = (brighter * (value == 0)).add_(1e-4)
    return cut(torch.addcmul(black, x.float(), brighter.div_(value.clamp_(min=1))))


def fog(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Add a plasma fractal, then scale so that the brightest value stays.

    Draw: ``fog_uniform`` (size^2 - 1,), u in [0, 1), in the order in which the fractal is refined.
    """
    height, width = x.shape[-2:]
    size = int(p["map_size"])
    while size < max(height, width):
        size *= 2
    heights = _heights(draws.uniform("fog_uniform", size * size - 1), size, p["decay"])
    lowest, highest = (bound.view(-1, 1, 1, 1) for bound in (heights.amin((1, 2)), heights.amax((1, 2))))
    brightest = x.amax((1, 2, 3), keepdim=True).float()
    amount = 255 * p["amount"]
    scale = brightest / (brightest + amount)
    density = scale * amount / (highest - lowest)
    haze = (heights[:, None, :height, :width] * density).add_(1e-4 - lowest * density)
    return cut(x.float().mul_(scale).add_(haze))


def _heights(u: Tensor, size: int, decay: float) -> Tensor:
    """Diamond-square height maps with periodic borders, ``(B, size, size)``.

    Args:
        u: ``(B, size^2 - 1)`` uniform in [0, 1).
        size: power of two.
        decay: the noise amplitude starts at 100, is divided by this at every refinement, and enters squared.
    """
    corner = u.new_zeros(len(u), 1, 1)
    used, power = 0, 100.0**2
    while (cells := corner.shape[1]) < size:
        noise = (u[:, used : used + 3 * cells * cells] * (2 * power)).sub_(power).view(-1, 3, cells, cells)
        used += 3 * cells * cells
        right = corner + corner.roll(-1, 2)
        below = corner + corner.roll(-1, 1)
        centre, upper, left = noise.unbind(1)
        centre.add_(right, alpha=0.25).add_(right.roll(-1, 1), alpha=0.25)
        upper.add_(right, alpha=0.25).add_(centre + centre.roll(1, 1), alpha=0.25)
        left.add_(below, alpha=0.25).add_(centre + centre.roll(1, 2), alpha=0.25)
        finer = corner.new_empty(len(u), 2 * cells, 2 * cells)
        finer[:, ::2, ::2] = corner
        finer[:, ::2, 1::2] = upper
        finer[:, 1::2, ::2] = left
        finer[:, 1::2, 1::2] = centre
        corner = finer
        power /= decay**2
    return corner


def snow(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Whiten the image and add two layers of motion-blurred flakes.

    Draws: ``layer_normal`` (H, W), standard normal; ``snow_angle`` (), u with angle = -135 + 90 u degrees.
    """
    height, width = x.shape[-2:]
    window = filters.zoom_window(height, p["zoom"]), filters.zoom_window(width, p["zoom"])
    layer = draws.normal("layer_normal", height, width, mean=p["mean"], std=p["std"], window=window)
    layer = filters.zoom(layer[:, None], height, width, p["zoom"])
    layer = layer.mul_(layer >= p["threshold"]).clamp_(0, 1).mul_(255).floor_()
    angles = draws.uniform("snow_angle").mul(90).sub(135)
    layer = motion(layer, p["radius"], p["sigma"], angles).floor_()
    layer = layer + layer.flip(2, 3)
    image = x.float()
    red, green, blue = image.split(1, 1)
    grey = (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    white = torch.maximum(image, grey.mul_(1.5).add_(127.5)).mul_(1 - p["blend"])
    return to_bytes(white.add_(image, alpha=p["blend"]).add_(layer))


def frost(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """image_weight image + frost_weight crop of a frost picture, one of five.

    Draws: ``frost_ints`` (3,): index of the picture, first row, first column; ``frost_photo_bgr`` (rows, columns, 3)
    uint8: a picture, blue first, in place of the five.
    """
    height, width = x.shape[-2:]
    ice = frost_textures.crops(height, width, int(p["photo_stride"]), draws)
    return to_bytes(ice.mul_(p["frost_weight"]).add_(x.float(), alpha=p["image_weight"]))
