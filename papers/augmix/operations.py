"""AugMix's operations on a batch of images, on any device, each image with its own operation and magnitude.

They give what Pillow gives for the images one by one, to the last bit: lookup tables are computed in float64 as
Pillow does, and so are sampling positions and bilinear interpolation, whose results Pillow truncates. Three kinds of
operation remain, so that a batch with nine different ones takes three passes: a table of 256 values per channel
(autocontrast, equalize, posterize, solarize), an affine map (rotate, shear, translate), and a blend with a degraded
image (color, contrast, brightness, sharpness).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from papers.augmix.draws import ALL_OPERATIONS

TABLE = ("autocontrast", "equalize", "posterize", "solarize")
AFFINE = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
BLEND = ("color", "contrast", "brightness", "sharpness")
#: Values that are interpolated at a time: what stays in a CPU's cache, or is work enough for a GPU.
_CHUNK = {"cpu": 1 << 17, "cuda": 1 << 26}


def apply(images: Tensor, operation: np.ndarray, magnitude: np.ndarray) -> Tensor:
    """Apply to each image its operation.

    Args:
        images: (N, C, H, W) uint8, with 1 or 3 channels.
        operation: (N,) indices in ``ALL_OPERATIONS``.
        magnitude: (N,) float64, see ``draws.magnitudes``.

    Returns:
        (N, C, H, W) uint8, a new tensor.
    """
    result = images.clone()
    for kind, change in ((TABLE, _by_table), (AFFINE, _by_map), (BLEND, _by_blend)):
        codes = [ALL_OPERATIONS.index(name) for name in kind]
        chosen = np.flatnonzero(np.isin(operation, codes))
        if chosen.size:
            index = torch.from_numpy(chosen).to(images.device)
            names = [ALL_OPERATIONS[code] for code in operation[chosen]]
            result.index_copy_(0, index, change(images.index_select(0, index), names, magnitude[chosen]))
    return result


def _by_table(images: Tensor, names: list[str], magnitude: np.ndarray) -> Tensor:
    """Replace values by a table for each image and channel."""
    count, channels = images.shape[:2]
    tables = torch.empty(count, channels, 256, dtype=torch.uint8, device=images.device)
    for name, make in (("autocontrast", _autocontrast), ("equalize", _equalize)):
        chosen = [i for i, other in enumerate(names) if other == name]
        if chosen:
            index = torch.tensor(chosen, device=images.device)
            tables[index] = make(images[index].flatten(2))
    pointwise = [i for i, name in enumerate(names) if name in ("posterize", "solarize")]
    if pointwise:
        rows = np.stack([_pointwise(names[i], int(magnitude[i])) for i in pointwise])
        index = torch.tensor(pointwise, device=images.device)
        tables[index] = torch.from_numpy(rows).to(images.device)[:, None].expand(-1, channels, -1)
    return tables.flatten().index_select(0, _in_table(images.flatten(2))).view_as(images)


def _in_table(values: Tensor) -> Tensor:
    """Where each of ``values`` (n, C, pixels) stands in n * C tables of 256 values one after another, flat int32."""
    starts = 256 * torch.arange(values.shape[0] * values.shape[1], dtype=torch.int32, device=values.device)
    return (values + starts.view(*values.shape[:2], 1)).flatten()


@lru_cache(maxsize=1024)
def _pointwise(name: str, magnitude: int) -> np.ndarray:
    """The table of posterize (bits that are kept) or solarize (first value that is inverted)."""
    values = np.arange(256)
    table = values & ~((1 << (8 - magnitude)) - 1) if name == "posterize" else np.where(
        values < magnitude, values, 255 - values
    )  # fmt: skip
    return table.astype(np.uint8)


def _autocontrast(values: Tensor) -> Tensor:
    """Tables (n, C, 256) that stretch each channel of ``values`` (n, C, pixels) uint8 over the whole range."""
    low, high = (bound.double()[..., None] for bound in torch.aminmax(values, dim=2))
    levels = torch.arange(256, dtype=torch.float64, device=values.device).expand(*values.shape[:2], -1)
    span = (high - low).clamp(min=1)
    scale = torch.full_like(span, 255.0) / span  # a number over a tensor would be computed as 255 * (1 / span)
    stretched = (levels * scale + (-low * scale)).trunc().clamp(0, 255)
    return torch.where(high > low, stretched, levels).to(torch.uint8)


def _equalize(values: Tensor) -> Tensor:
    """Tables (n, C, 256) that make each channel's histogram flat."""
    count, channels, pixels = values.shape
    histogram = torch.bincount(_in_table(values), minlength=count * channels * 256).view(count, channels, 256)
    most = histogram.gather(2, values.amax(2, keepdim=True).long())  # pixels of the largest value
    step = torch.div(pixels - most, 255, rounding_mode="floor")
    below = histogram.cumsum(2) - histogram
    divisor = step.clamp(min=1)
    flat = torch.div(torch.div(step, 2, rounding_mode="floor") + below, divisor, rounding_mode="floor").clamp(max=255)
    levels = torch.arange(256, device=values.device).expand_as(flat)
    return torch.where(step > 0, flat, levels).to(torch.uint8)


def _by_map(images: Tensor, names: list[str], magnitude: np.ndarray) -> Tensor:
    """Sample images at affinely mapped places, bilinearly, with black around."""
    channels, height, width = images.shape[1:]
    matrices = np.array([_matrix(name, float(m), width, height) for name, m in zip(names, magnitude, strict=True)])
    size = max(1, _CHUNK.get(images.device.type, _CHUNK["cpu"]) // (channels * height * width))
    result = torch.empty_like(images)
    for kind, (across, down) in _BETWEEN.items():
        chosen = torch.tensor([i for i, name in enumerate(names) if name.startswith(kind)], dtype=torch.long)
        for part in chosen.split(size) if len(chosen) else ():
            matrix = torch.from_numpy(matrices[part.numpy()]).to(images.device)
            part = part.to(images.device)
            result.index_copy_(0, part, _sample(images.index_select(0, part), matrix, across, down))
    return result


#: Whether an operation samples between columns, and between rows; translations are by whole pixels.
_BETWEEN = {"rotate": (True, True), "shear_x": (True, False), "shear_y": (False, True), "translate": (False, False)}


def _matrix(name: str, magnitude: float, width: int, height: int) -> tuple[float, ...]:
    """The map (a, b, c, d, e, f) from a place in the result to one in the image: x' = ax + by + c, y' = dx + ey + f."""
    if name == "rotate":
        return _rotation(magnitude, width, height)
    return {
        "shear_x": (1.0, magnitude, 0.0, 0.0, 1.0, 0.0),
        "shear_y": (1.0, 0.0, 0.0, magnitude, 1.0, 0.0),
        "translate_x": (1.0, 0.0, magnitude, 0.0, 1.0, 0.0),
        "translate_y": (1.0, 0.0, 0.0, 0.0, 1.0, magnitude),
    }[name]


@lru_cache(maxsize=1024)
def _rotation(degrees: float, width: int, height: int) -> tuple[float, ...]:
    """The rotation about the image's centre; sine and cosine to 15 decimals, which Pillow's results depend on."""
    angle = -math.radians(degrees % 360)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cosine, sine, cosine * -x + sine * -y + x, -sine, cosine, -sine * -x + cosine * -y + y


def _sample(images: Tensor, matrix: Tensor, between_columns: bool, between_rows: bool) -> Tensor:
    """Images (n, C, H, W) at the places of the maps (n, 6), interpolated as far as places lie between pixels."""
    channels, height, width = images.shape[1:]
    columns = torch.arange(width, dtype=torch.float64, device=images.device) + 0.5
    rows = torch.arange(height, dtype=torch.float64, device=images.device)[:, None] + 0.5
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    x = (a * columns + b * rows).add_(c)
    y = (d * columns + e * rows).add_(f)
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    x, y = x.sub_(0.5), y.sub_(0.5)
    left, top = x.floor(), y.floor()
    across, down = x.sub_(left)[:, None], y.sub_(top)[:, None]
    left, top = left.long(), top.long()
    flat = images.flatten(2)

    def pixels(row: int, column: int) -> Tensor:
        place = (top + row).clamp_(0, height - 1).mul_(width).add_((left + column).clamp_(0, width - 1))
        return flat.gather(2, place.flatten(1)[:, None].expand(-1, channels, -1)).view_as(images)

    def along(row: int) -> Tensor:
        first = pixels(row, 0)
        return _between(first.double(), pixels(row, 1).double(), across) if between_columns else first

    result = along(0)
    if between_rows:
        result = _between(result.double(), along(1).double(), down)
    return result.to(torch.uint8).masked_fill_(outside[:, None], 0)


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """``first + (second - first) * share`` in this order, on which the last bit depends; overwrites ``second``."""
    return second.sub_(first).mul_(share).add_(first)


def _by_blend(images: Tensor, names: list[str], magnitude: np.ndarray) -> Tensor:
    """Move images away from, or towards, a degraded form of themselves."""
    degraded = torch.empty_like(images)
    for name in set(names):
        index = torch.tensor([i for i, other in enumerate(names) if other == name], device=images.device)
        degraded[index] = _degraded(name, images[index])
    factor = torch.from_numpy(magnitude.astype(np.float32)).to(images.device).view(-1, 1, 1, 1)
    base = degraded.float()
    # A factor of 1 gives the image itself: whole numbers of this size are exact in float32.
    return (base + factor * (images.float() - base)).clamp_(0, 255).to(torch.uint8)


def _degraded(name: str, images: Tensor) -> Tensor:
    """Without colour, without contrast, black, or smoothed."""
    if name == "brightness":
        return torch.zeros_like(images)
    if name == "sharpness":
        return _smoothed(images)
    grey = _grey(images)
    if name == "contrast":
        mean = grey.sum(dim=(1, 2, 3), keepdim=True).double() / grey[0].numel()
        grey = (mean + 0.5).trunc().long()
    return grey.to(torch.uint8).expand_as(images)


def _grey(images: Tensor) -> Tensor:
    """Luma (n, 1, H, W) as integers: ITU-R 601-2 in 16 bits of fixed-point, rounded."""
    if images.shape[1] == 1:
        return images.long()
    red, green, blue = images.long().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16)[:, None]


def _smoothed(images: Tensor) -> Tensor:
    """Mean of 3 x 3 pixels where the middle one counts five times, rounded; the border stays as it is."""
    if min(images.shape[2:]) < 3:
        return images
    values = images.float()  # sums of 13 bytes are exact
    around = F.avg_pool2d(values, 3, stride=1, divisor_override=1) + 4 * values[:, :, 1:-1, 1:-1]
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = ((2 * around.long() + 13) // 26).to(torch.uint8)
    return result
