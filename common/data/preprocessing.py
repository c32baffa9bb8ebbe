"""From an image file to a model's input: resize, crop, and the statistics that normalise it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from timm.data import resolve_data_config
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor, nn

from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes a model's input; belongs to a checkpoint and is printed with what it measures.

    The statistics are declared here and applied by `common.robustness.normalisation.Normalized`, so that corruptions
    and attacks see pixels in [0, 1]. The defaults are ImageNet's usual evaluation, 256 / 224.

    Attributes:
        size: side of the square input, in pixels.
        crop: the crop's share of the resized image. 1 on images that have the input's size already, like ImageNet-C's,
            leaves the pixels as they are.
        interpolation: ``bicubic``, ``bilinear``, ...
        mean, std: per channel (R, G, B), for pixels in [0, 1].
        mode: ``center`` (the shorter edge is resized, the centre is cropped), or timm's ``squash`` (both edges are
            resized) or ``border`` (the longer edge is resized, the rest is padded).
    """

    size: int = 224
    crop: float = 224 / 256
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    mode: str = "center"

    @classmethod
    def of(cls, model: nn.Module, size: int | None = None) -> Preprocessing:
        """What the model's ``pretrained_cfg`` declares; ``size`` if the model was built for another input size."""
        declared = resolve_data_config({} if size is None else {"img_size": size}, model=model)
        _, height, width = declared["input_size"]
        if height != width:
            raise UserError(f"{type(model).__name__} takes {height} x {width} images; only square inputs are known.")
        return cls(
            size=height,
            crop=declared["crop_pct"],
            interpolation=declared["interpolation"],
            mean=tuple(declared["mean"]),
            std=tuple(declared["std"]),
            mode=declared["crop_mode"],
        )

    @property
    def resize(self) -> int:
        """Length in pixels to which an edge is resized before the crop; rounded down, as timm does."""
        return math.floor(self.size / self.crop)

    def transform(self) -> Callable[[Image.Image], Tensor]:
        """Return the function from an RGB image to a (3, size, size) uint8 tensor, as timm's own evaluation has it."""
        return transforms_imagenet_eval(
            self.size, crop_pct=self.crop, crop_mode=self.mode, interpolation=self.interpolation, normalize=False
        )

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        crop = "crop" if self.mode == "center" else f"{self.mode} crop"
        return f"resize {self.resize} {self.interpolation} {crop} {self.size} mean {mean} std {std}"
