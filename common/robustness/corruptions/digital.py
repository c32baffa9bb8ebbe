"""Digital corruptions: contrast, elastic transform, pixelation, JPEG, saturation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from . import filters
from .draws import Draws
from .filters import to_bytes
from .parameters import Parameters


def contrast(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """(x - mean) factor + mean, the mean per channel over the image."""
    image = x.float()
    mean = image.mean((2, 3), keepdim=True)
    return to_bytes(image.mul_(p["factor"]).add_(mean * (1 - p["factor"])))


def saturate(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Saturation of the HSV image times factor plus offset, clipped to [0, 1].

    With the hue and the largest value kept, every channel's distance to the largest value scales with saturation.
    Grey pixels have hue 0: an offset turns them red.
    """
    image = x.float()
    value = image.amax(1, keepdim=True)
    distance = value - image
    spread = distance.amax(1, keepdim=True)
    saturation = (spread / value.clamp(min=1) * p["factor"] + p["offset"]).clamp_(0, 1)
    if p["offset"] > 0:
        red_free = torch.tensor([0.0, 1.0, 1.0], device=x.device).view(1, 3, 1, 1)
        distance = torch.where(spread == 0, red_free, distance)
    ratio = saturation * value / spread.clamp(min=1)
    return to_bytes(value - distance * ratio)


def pixelate(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Shrink by averaging, enlarge by repetition."""
    height, width = x.shape[-2:]
    small = max(1, int(height * p["scale"])), max(1, int(width * p["scale"]))
    shrunk = filters.box_shrink(x, *small).to(torch.uint8)
    columns = _nearest(width, small[1], x.device).expand(*shrunk.shape[:3], width)
    return shrunk.gather(3, columns).index_select(2, _nearest(height, small[0], x.device))


def _nearest(outputs: int, inputs: int, device: torch.device) -> Tensor:
    """Which of ``inputs`` pixels each of ``outputs`` repeats: the one that its centre lies in."""
    return ((torch.arange(outputs, device=device).double() + 0.5) * (inputs / outputs)).long()


def jpeg_compression(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """JPEG at the given quality, chroma subsampled 4:2:0."""
    return jpeg(x, int(p["quality"]))


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Write uint8 ``(B, 3, H, W)`` as JPEG through libjpeg (on the CPU) and read it back."""
    images = [decode_jpeg(encode_jpeg(image, quality), ImageReadMode.RGB) for image in x.cpu()]
    return torch.stack(images).to(x.device)


def elastic_transform(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """A random affine warp, then a smooth random displacement of the pixels.

    Draws: ``elastic_affine`` (3, 2), ``elastic_dx`` and ``elastic_dy`` (H, W), all u in [0, 1); displacements are
    the Gaussian-filtered 2 u - 1 times alpha.
    """
    height, width = x.shape[-2:]
    warped = _affine(x.float(), draws.uniform("elastic_affine", 3, 2), p["affine"])
    shifts = [
        filters.gaussian(draws.uniform(name, height, width) * 2 - 1, p["sigma"], truncate=3, mode="reflect")
        * p["alpha"]
        for name in ("elastic_dx", "elastic_dy")
    ]
    rows = _reflect(torch.arange(height, device=x.device).view(1, -1, 1) + shifts[1], height)
    columns = _reflect(torch.arange(width, device=x.device).view(1, 1, -1) + shifts[0], width)
    return to_bytes(_sample(warped, columns, rows))


def _reflect(at: Tensor, size: int) -> Tensor:
    """Bring positions on an axis into [-1, size): reflection about the outer edges of the outermost pixels.

    Between -1 and 0, and beyond size - 1, the interpolation then mirrors about the pixels' centres, not their
    edges. This is what scipy 1.0 did, with which ImageNet-C was made.
    """
    at = at - (at / (2 * size)).floor_().mul_(2 * size)
    mirrored = (at / size).floor_().clamp_(max=1)
    return at + mirrored.mul_(2 * size - 1 - 2 * at)


def _sample(x: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Bilinear interpolation at positions in pixels, ``(B, H, W)`` each; border reflect101."""
    height, width = x.shape[-2:]
    grid = torch.stack((columns * (2 / (width - 1)) - 1, rows * (2 / (height - 1)) - 1), -1)
    return F.grid_sample(x, grid, "bilinear", "reflection", align_corners=True)


def _affine(x: Tensor, u: Tensor, amount: float) -> Tensor:
    """Move three points around the centre by up to ``amount`` pixels and warp accordingly, border reflect101.

    Positions are rounded to 1/32 pixel, as in OpenCV 3 and 4, with which ImageNet-C was made.
    """
    height, width = x.shape[-2:]
    centre_x, centre_y, side = width // 2, height // 2, min(height, width) // 3
    points = torch.tensor(
        [[centre_x + side, centre_y + side], [centre_x + side, centre_y - side], [centre_x - side, centre_y - side]],
        dtype=torch.float32,
        device=x.device,
    )
    moved = points + (u.double() * (2 * amount) - amount).float()
    ones = torch.ones(len(x), 3, 1, dtype=torch.float64, device=x.device)
    # Rows of `inverse` map a moved point (x, y, 1) back to where it was read.
    inverse = torch.linalg.solve(torch.cat((moved.double(), ones), 2), points.double().expand(len(x), 3, 2))
    columns = torch.arange(width, device=x.device, dtype=torch.float64)
    rows = torch.arange(height, device=x.device, dtype=torch.float64)
    positions = []
    for axis in (0, 1):
        along = torch.round(columns * inverse[:, 0, axis, None] * 1024)
        down = torch.round((rows * inverse[:, 1, axis, None] + inverse[:, 2, axis, None]) * 1024) + 16
        positions.append(torch.floor((down[:, :, None] + along[:, None, :]).float() / 32) / 32)
    return _sample(x, *positions)
