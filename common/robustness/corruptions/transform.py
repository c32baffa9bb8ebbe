"""The corruptions as a torchvision v2 transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from .engine import corrupt
from .parameters import check_name, parameters_for


class Corrupt(v2.Transform):
    """Corrupt images as ImageNet-C does; boxes, masks, key points and labels pass unchanged.

    Takes PIL images and tensors ``(..., 3, H, W)``, uint8 or float in [0, 1], so it belongs after resizing and
    cropping and before normalisation. Randomness comes from torch's global generator, as in torchvision's own.

    Args:
        name: one of ``CORRUPTIONS`` or ``EXTRA``.
        severity: 1 (mildest) to 5.
        jpeg: also store as JPEG of quality 85, see ``corrupt``.
        scale: ``"imagenet"`` or ``"cifar"`` parameters; default by size.
        frost_photos: folder with the original's frost pictures, see ``corrupt``.

    Raises:
        UserError: an unknown name, severity or scale.
    """

    def __init__(
        self,
        name: str,
        severity: int,
        *,
        jpeg: bool = False,
        scale: str | None = None,
        frost_photos: Path | str | None = None,
    ) -> None:
        super().__init__()
        parameters_for(check_name(name), severity, scale or "imagenet")
        self.name = name
        self.severity = severity
        self.jpeg = jpeg
        self.scale = scale
        self.frost_photos = frost_photos

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Corrupt one image or batch; called by torchvision for every image in a sample."""
        if isinstance(inpt, Image.Image):
            return v2.functional.to_pil_image(self._apply(v2.functional.pil_to_tensor(inpt.convert("RGB"))))
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, (tv_tensors.Image, tv_tensors.Video)):
            return inpt
        return tv_tensors.wrap(self._apply(inpt.as_subclass(torch.Tensor)), like=inpt)

    def _apply(self, image: torch.Tensor) -> torch.Tensor:
        batch = image.reshape(-1, *image.shape[-3:])
        corrupted = corrupt(
            batch, self.name, self.severity, jpeg=self.jpeg, scale=self.scale, frost_photos=self.frost_photos
        )
        return corrupted.view(image.shape)

    def extra_repr(self) -> str:
        """The arguments, as torchvision prints them."""
        return f"name={self.name!r}, severity={self.severity}, jpeg={self.jpeg}, scale={self.scale!r}"
