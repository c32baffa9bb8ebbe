"""Digital corruptions: contrast, elastic transform, pixelation, JPEG, saturation."""

from __future__ import annotations

from functools import lru_cache

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from . import filters
from .draws import Draws
from .filters import cut, to_bytes
from .parameters import Parameters
from .threads import in_threads

#: Images of a GPU that a thread of the CPU writes and reads at a time.
JPEG_CHUNK = 4


def contrast(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """(x - mean) factor + mean, the mean per channel over the image."""
    image = x.float()
    mean = image.mean((2, 3), keepdim=True)
    return cut(image.mul_(p["factor"]).add_(mean * (1 - p["factor"]) + 1e-4))


def saturate(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Saturation of the HSV image times factor plus offset, clipped to [0, 1].

    With the hue and the largest value kept, every channel's distance to the largest value scales with saturation.
    Grey pixels have hue 0: an offset turns them red.
    """
    levels = x.amax(1, keepdim=True)
    distance = levels - x
    spread = distance.amax(1, keepdim=True).float()
    value = levels.float()
    saturation = (spread / value.clamp(min=1)).mul_(p["factor"]).add_(p["offset"]).clamp_(0, 1)
    if p["offset"] > 0:
        distance[:, 1:].masked_fill_(spread == 0, 1)
    ratio = saturation.mul_(value).div_(spread.clamp_(min=1))
    return cut(torch.addcmul(value.add_(1e-4), distance.float(), ratio, value=-1).clamp_(min=0))


def pixelate(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """Shrink by averaging, enlarge by repetition."""
    height, width = x.shape[-2:]
    small = max(1, int(height * p["scale"])), max(1, int(width * p["scale"]))
    shrunk = filters.box_shrink(x, *small)
    columns = _nearest(width, small[1], x.device)
    wide = shrunk.gather(3, columns.expand(*shrunk.shape[:3], -1))  # twice as fast as index_select
    return wide.index_select(2, _nearest(height, small[0], x.device))


@lru_cache(maxsize=64)
def _nearest(outputs: int, inputs: int, device: torch.device) -> Tensor:
    """Which of ``inputs`` pixels each of ``outputs`` repeats: the one that its centre lies in."""
    return ((torch.arange(outputs, device=device).double() + 0.5) * (inputs / outputs)).long()


def jpeg_compression(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """JPEG at the given quality, chroma subsampled 4:2:0."""
    return jpeg(x, int(p["quality"]))


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Write uint8 ``(B, 3, H, W)`` as JPEG through libjpeg (on the CPU) and read it back."""
    out = torch.empty(x.shape, dtype=torch.uint8)
    images, results = x.cpu().numpy(), out.numpy()

    def run(start: int, stop: int) -> None:
        for image, result in zip(images[start:stop], results[start:stop], strict=True):
            _, file = cv2.imencode(".jpg", cv2.merge(image[::-1]), (cv2.IMWRITE_JPEG_QUALITY, quality))  # blue first
            decoded = cv2.imdecode(file, cv2.IMREAD_COLOR)
            assert decoded is not None  # it was encoded just now
            cv2.split(decoded, result[::-1])

    if x.device.type == "cpu":  # the caller is one of several threads
        run(0, len(images))
    else:
        in_threads(run, len(images), JPEG_CHUNK)
    return out.to(x.device)


def elastic_transform(x: Tensor, p: Parameters, draws: Draws) -> Tensor:
    """A random affine warp, then a smooth random displacement of the pixels.

    Draws: ``elastic_affine`` (3, 2), ``elastic_dx`` and ``elastic_dy`` (H, W), all u in [0, 1); displacements are
    the Gaussian-filtered 2 u - 1 times alpha.
    """
    height, width = x.shape[-2:]
    warped = _affine(x.float(), draws.uniform("elastic_affine", 3, 2), p["affine"])
    u = torch.stack((draws.uniform("elastic_dx", height, width), draws.uniform("elastic_dy", height, width)), 1)
    shift = filters.gaussian(u, p["sigma"], truncate=3, mode="reflect")
    columns = torch.arange(width, device=x.device).expand(height, -1)
    rows = torch.arange(height, device=x.device).view(-1, 1).expand(-1, width)
    at = shift.mul_(2 * p["alpha"]).add_(torch.stack((columns, rows)) - p["alpha"])
    for along, size in zip(at.unbind(1), (width, height), strict=True):
        _reflect_(along, size)
    return to_bytes(_sample(warped, at))


def _reflect_(at: Tensor, size: int) -> None:
    """Bring positions on an axis into [-1, size): reflection about the outer edges of the outermost pixels.

    Between -1 and 0, and beyond size - 1, the interpolation then mirrors about the pixels' centres, not their
    edges. This is what scipy 1.0 did, with which ImageNet-C was made.
    """
    at.sub_((at / (2 * size)).floor_(), alpha=2 * size)
    torch.where(at < size, at, 2 * size - 1 - at, out=at)


def _sample(x: Tensor, at: Tensor) -> Tensor:
    """Bilinear interpolation at positions in pixels, ``(B, 2, H, W)``, column and row; border reflect101."""
    height, width = x.shape[-2:]
    for along, size in zip(at.unbind(1), (width, height), strict=True):
        along.mul_(2 / (size - 1)).sub_(1)
    return F.grid_sample(x, at.permute(0, 2, 3, 1), "bilinear", "reflection", align_corners=True)


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
    # Rows of `inverse` map a moved point (x, y, 1) back to where it was read, in units of 1/1024 pixel.
    inverse = torch.linalg.solve(torch.cat((moved.double(), ones), 2), points.double().expand(len(x), 3, 2)) * 1024
    by_column, by_row, constant = inverse[..., None].unbind(1)
    along = torch.round(by_column * torch.arange(width, device=x.device)).int()
    down = torch.round(by_row * torch.arange(height, device=x.device) + constant).int() + 16
    at = (down[:, :, :, None] + along[:, :, None, :]).bitwise_right_shift_(5)
    return _sample(x, at.float().mul_(1 / 32))
