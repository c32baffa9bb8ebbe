"""``corrupt``: check the arguments, split the batch, run the corruption, restore the dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.errors import UserError

from . import blur, digital, filters, noise, spatter, weather
from .draws import Draws, given_draws, image_seeds, slice_draws
from .frost_textures import read_pictures
from .parameters import CORRUPTIONS, EXTRA, Parameters, check_name, parameters_for, scale_for
from .threads import in_threads

#: Quality of the JPEG files that ImageNet-C is distributed as.
STORED_QUALITY = 85
#: On the CPU a thread works on about this many values at a time (four images of 224 pixels): few enough for its
#: cache, enough that Python does not hold the threads up.
CHUNK_VALUES = 4 * 3 * 224 * 224
#: Corruptions that compute one plane or in many small steps take this many times as many.
TIMES_AS_MANY = {"fog": 4, "motion_blur": 2, "snow": 2, "elastic_transform": 2, "pixelate": 2}
#: Smaller images than this have no room for the largest blur of the 32-pixel set.
SMALLEST_SIDE = 8

#: How far float images may leave [0, 1], as they do after resizing.
ROUNDING = 1e-4

_MODULES = (noise, blur, weather, digital, spatter)
_FUNCTIONS: dict[str, Callable[[Tensor, Parameters, Draws], Tensor]] = {
    name: getattr(module, name) for name in CORRUPTIONS + EXTRA for module in _MODULES if hasattr(module, name)
}


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    *,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | Tensor | None = None,
    draws: Mapping[str, object] | None = None,
    jpeg: bool = False,
    scale: str | None = None,
    frost_photos: Path | str | None = None,
) -> Tensor:
    """Corrupt a batch of images as ImageNet-C does.

    ImageNet-C is made of 8-bit images: float images are rounded to 8 bits first, and the result, cut to 8 bits as
    in the original, comes back in the dtype of the input. What happens to an image depends on its seed only, not on
    the batch that it is in. Values for one seed differ between CPU and GPU, whose generators differ.

    Args:
        images: ``(B, 3, H, W)``, uint8, or float in [0, 1]; any device. Height and width are at least 8 and may
            differ; lengths in pixels are not scaled with the size.
        name: one of ``CORRUPTIONS`` or ``EXTRA``.
        severity: 1 (mildest) to 5.
        generator: draws one seed per image; default torch's global generator.
        seeds: one seed per image instead, e.g. its index in the data set.
        draws: explicit random draws by name, with or without a leading batch axis, in place of random ones; each
            corruption's docstring lists its own.
        jpeg: also store the result as JPEG of quality 85, as the distributed ImageNet-C is. Reported mCE contains
            this step.
        scale: ``"imagenet"`` or ``"cifar"`` parameters; default by size, "cifar" up to 64 pixels.
        frost_photos: folder with the original's frost pictures; default stand-ins with the same statistics.

    Returns:
        The corrupted images, same shape, dtype and device.

    Raises:
        UserError: an argument is not as described.

    Source: Hendrycks and Dietterich, ICLR 2019, appendix A, and the authors' scripts.
    """
    check_name(name)
    _check_images(images)
    images = images.detach()
    height, width = images.shape[-2:]
    parameters = parameters_for(name, severity, scale or scale_for(height, width))
    own = image_seeds(len(images), generator, seeds)
    explicit = given_draws(draws, int(severity), images.device)
    pictures = read_pictures(str(frost_photos)) if frost_photos is not None and name == "frost" else None

    def run(start: int, stop: int) -> None:
        part = slice_draws(explicit, start, stop, len(images))
        chunk = images[start:stop].contiguous()
        if images.dtype != torch.uint8:
            chunk = filters.to_bytes((chunk * 255).round_())  # cuts what resizing may have left outside [0, 1]
        drawn = Draws(own[start:stop], (name, int(severity)), images.device, part, pictures)
        result = _FUNCTIONS[name](chunk, parameters, drawn)
        if jpeg:
            result = digital.jpeg(result, STORED_QUALITY)
        out[start:stop] = result
        if images.dtype != torch.uint8:
            out[start:stop].div_(255)

    with torch.inference_mode(False), torch.no_grad():  # other threads would not be in inference mode, in any case
        out = torch.empty_like(images, memory_format=torch.contiguous_format)
        if images.device.type == "cpu":
            values = CHUNK_VALUES * TIMES_AS_MANY.get(name, 1)
            in_threads(run, len(images), max(1, values // (3 * height * width)))
        elif len(images):
            run(0, len(images))
    return out


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise UserError(f"Images are {type(images).__name__}; give a torch.Tensor (B, 3, H, W).")
    if images.ndim != 4 or images.shape[1] != 3:
        raise UserError(
            f"Images have shape {tuple(images.shape)}; give (B, 3, H, W), grey ones with the channel repeated."
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"Images are {images.dtype}; give uint8, or float in [0, 1].")
    if min(images.shape[-2:]) < SMALLEST_SIDE:
        size = " x ".join(map(str, images.shape[-2:]))
        raise UserError(f"Images have {size} pixels; give at least {SMALLEST_SIDE} x {SMALLEST_SIDE}.")
    if images.is_floating_point() and images.numel():
        low, high = (float(bound) for bound in images.detach().aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise UserError(f"Float images range from {low:.4g} to {high:.4g}; give values in [0, 1], not normalised.")
