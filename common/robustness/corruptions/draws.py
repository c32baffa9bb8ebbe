"""The random draws of the corruptions: made from a seed per image, or given by the caller."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError, nearest

from .parameters import SEVERITIES

#: Number of axes of an explicit draw with its batch axis.
BATCHED_RANK = {
    "noise_normal": 4,
    "noise_uniform": 4,
    "layer_normal": 3,
    "motion_angle": 1,
    "snow_angle": 1,
    "fog_uniform": 2,
    "frost_ints": 2,
    "frost_photo_bgr": 4,
    "glass": 5,
    "elastic_affine": 3,
    "elastic_dx": 3,
    "elastic_dy": 3,
}


class Draws:
    """The draws of one corruption for a batch of images.

    Every image has a generator of its own, so what an image gets does not depend on the batch that it is in.
    A draw that the caller gave (by name, with or without a leading batch axis) is used in place of a random one.

    Args:
        seeds: one seed per image.
        device: where the draws are made and used; values for one seed differ between CPU and GPU.
        given: explicit draws by name.
        frost_pictures: what frost draws from, uint8 ``(3, rows, columns)`` each, instead of the stand-ins.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        device: torch.device,
        given: Mapping[str, Tensor] | None = None,
        frost_pictures: Sequence[Tensor] | None = None,
    ) -> None:
        self.device = device
        self.given = given or {}
        self.frost_pictures = frost_pictures
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def has(self, name: str) -> bool:
        """Whether the caller gave this draw."""
        return name in self.given

    def uniform(self, name: str, *shape: int) -> Tensor:
        """``(B, *shape)`` float32, uniform in [0, 1)."""
        if self.has(name):
            return self._look_up(name, shape).float()
        draws = torch.empty((len(self), *shape), device=self.device)
        for image, generator in zip(draws, self._generators, strict=True):
            image.uniform_(generator=generator)
        return draws

    def normal(self, name: str, *shape: int) -> Tensor:
        """``(B, *shape)`` float32, standard normal."""
        if self.has(name):
            return self._look_up(name, shape).float()
        draws = torch.empty((len(self), *shape), device=self.device)
        for image, generator in zip(draws, self._generators, strict=True):
            image.normal_(generator=generator)
        return draws

    def integers(self, name: str, low: int, high: int, *shape: int) -> Tensor:
        """``(B, *shape)`` int8, uniform over low, ..., high - 1."""
        if self.has(name):
            return self._look_up(name, shape).to(torch.int8)
        draws = torch.empty((len(self), *shape), dtype=torch.int8, device=self.device)
        for image, generator in zip(draws, self._generators, strict=True):
            image.random_(low, high, generator=generator)
        return draws

    def normal_image(self, name: str, height: int, width: int) -> Tensor:
        """``(B, 3, H, W)`` standard normal; a given draw is ``(H, W, 3)``, as NumPy code has it."""
        if self.has(name):
            return self._look_up(name, (height, width, 3)).float().permute(0, 3, 1, 2)
        return self.normal(name, 3, height, width)

    def uniform_image(self, name: str, height: int, width: int) -> Tensor:
        """``(B, 3, H, W)`` uniform in [0, 1); a given draw is ``(H, W, 3)``."""
        if self.has(name):
            return self._look_up(name, (height, width, 3)).float().permute(0, 3, 1, 2)
        return self.uniform(name, 3, height, width)

    def _look_up(self, name: str, shape: tuple[int, ...]) -> Tensor:
        draw = self.given[name]
        if tuple(draw.shape) == shape:
            return draw.expand(len(self), *shape)
        if tuple(draw.shape) == (len(self), *shape):
            return draw
        raise UserError(
            f"The draw {name!r} has shape {tuple(draw.shape)}; give {shape}, or {('B', *shape)} for a batch."
        )


def given_draws(draws: Mapping[str, object] | None, severity: int, device: torch.device) -> dict[str, Tensor]:
    """Explicit draws as tensors on a device, under their plain names.

    ``draw_motion_angle`` is ``motion_angle``; ``glass_2`` is ``glass`` at severity 2 and left out at others.

    Raises:
        UserError: an unknown name.
    """
    plain: dict[str, Tensor] = {}
    for full, value in (draws or {}).items():
        name = full.removeprefix("draw_")
        if name in {f"glass_{other}" for other in SEVERITIES}:
            if name != f"glass_{severity}":
                continue
            name = "glass"
        if name not in BATCHED_RANK:
            raise UserError(
                f"There is no draw {full!r}.{nearest(name, BATCHED_RANK)} Known: {', '.join(BATCHED_RANK)}."
            )
        plain[name] = (value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))).to(device)
    return plain


def slice_draws(draws: Mapping[str, Tensor], start: int, stop: int, batch: int) -> dict[str, Tensor]:
    """The part of explicit draws that images ``start`` to ``stop`` of a batch take."""
    return {
        name: draw[start:stop]
        if name in BATCHED_RANK and draw.ndim == BATCHED_RANK[name] and len(draw) == batch
        else draw
        for name, draw in draws.items()
    }


def image_seeds(batch: int, generator: torch.Generator | None, seeds: Sequence[int] | Tensor | None) -> list[int]:
    """One seed per image: the given ones, or drawn one after the other from ``generator`` (default: torch's own).

    Raises:
        UserError: the number of seeds is not the number of images, or both arguments were given.
    """
    if seeds is not None:
        if generator is not None:
            raise UserError("Both generator and seeds were given; give one of them.")
        listed = [int(seed) for seed in seeds]
        if len(listed) != batch:
            raise UserError(f"There are {len(listed)} seeds for {batch} images; give one seed per image.")
        return listed
    device = generator.device if generator is not None else torch.device("cpu")
    if device.type == "cpu":
        return [int(seed) for seed in torch.randint(2**62, (batch,), generator=generator)]
    # A GPU generator gives other numbers for one call of size B than for B calls of size 1.
    one_by_one = [torch.randint(2**62, (1,), generator=generator, device=device) for _ in range(batch)]
    return torch.cat(one_by_one).tolist() if one_by_one else []


def stream_seed(seed: int, name: str, severity: int) -> int:
    """The seed of an image's stream for one corruption and severity, so that no two cells share their noise."""
    words = [seed & 0xFFFFFFFFFFFFFFFF, zlib.crc32(name.encode()), severity]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
