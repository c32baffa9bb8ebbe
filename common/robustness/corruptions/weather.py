"""Weather: snow, frost, fog, brightness."""

from __future__ import annotations

import torch
from torch import Tensor

from . import filters, frost_textures
from .draws import Draws
from .filters import to_bytes
from .parameters import Parameters


def brightness(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Value of the HSV image plus an amount: with hue and saturation kept, all channels scale with the value."""
    image = x.float()
    value = image.amax(1, keepdim=True)
    brighter = (value + 255 * p["add"]).clamp_(max=255)
    black = value == 0
    return to_bytes(image.mul_(brighter / value.clamp_(min=1)).add_(brighter * black))


def fog(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Add a plasma fractal, then scale so that the brightest value stays.

    Draw: ``fog_uniform`` (size^2 - 1,), u in [0, 1), in the order in which the fractal is refined.
    """
    height, width = x.shape[-2:]
    size = int(p["map_size"])
    while size < max(height, width):
        size *= 2
    plasma = _plasma(draws.uniform("fog_uniform", size * size - 1), size, p["decay"])[:, None, :height, :width]
    brightest = x.amax((1, 2, 3), keepdim=True).float()
    amount = p["amount"]
    scale = brightest / (brightest + 255 * amount)
    return to_bytes(x.float().add_(plasma * (255 * amount)).mul_(scale))


def _plasma(u: Tensor, size: int, decay: float) -> Tensor:
    """Diamond-square height maps with periodic borders, scaled to [0, 1].

    Args:
        u: ``(B, size^2 - 1)`` uniform in [0, 1).
        size: power of two.
        decay: the noise amplitude starts at 100, is divided by this at every refinement, and enters squared.
    """
    heights = u.new_zeros(len(u), size, size)
    used, amplitude = 0, 100.0
    step = size
    while step > 1:
        half, cells = step // 2, size // step
        noise = u[:, used : used + 3 * cells * cells].view(-1, 3, cells, cells) * (2 * amplitude**2) - amplitude**2
        used += 3 * cells * cells
        corner = heights[:, ::step, ::step]
        right = corner + corner.roll(-1, 2)
        below = corner + corner.roll(-1, 1)
        centre = (right + right.roll(-1, 1)) / 4 + noise[:, 0]
        heights[:, half::step, half::step] = centre
        heights[:, ::step, half::step] = (right + centre + centre.roll(1, 1)) / 4 + noise[:, 1]
        heights[:, half::step, ::step] = (below + centre + centre.roll(1, 2)) / 4 + noise[:, 2]
        amplitude /= decay
        step = half
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)


def snow(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Whiten the image and add two layers of motion-blurred flakes.

    Draws: ``layer_normal`` (H, W), standard normal; ``snow_angle`` (), u with angle = -135 + 90 u degrees.
    """
    height, width = x.shape[-2:]
    layer = draws.normal("layer_normal", height, width) * p["std"] + p["mean"]
    layer = filters.clipped_zoom(layer[:, None], p["zoom"])
    layer = torch.where(layer < p["threshold"], 0, layer).clamp_(0, 1).mul_(255).floor_()
    angles = draws.uniform("snow_angle").mul(90).sub(135)
    layer = filters.motion(layer, p["radius"], p["sigma"], angles)
    layer = layer + layer.flip(2, 3)
    image = x.float()
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    whiter = (image * weights).sum(1, keepdim=True).mul_(1.5).add_(127.5)
    white = torch.maximum(image, whiter).mul_(1 - p["blend"])
    return to_bytes(white.add_(image, alpha=p["blend"]).add_(layer))


def frost(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """image_weight image + frost_weight crop of a frost picture, one of five.

    Draws: ``frost_ints`` (3,): index of the picture, first row, first column; ``frost_photo_bgr`` (rows, columns, 3)
    uint8: a picture, blue first, in place of the five.
    """
    height, width = x.shape[-2:]
    ice = frost_textures.crops(height, width, int(p["photo_stride"]), draws)
    return to_bytes(ice.mul_(p["frost_weight"]).add_(x, alpha=p["image_weight"]))
