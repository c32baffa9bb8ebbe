"""The random draws of the corruptions: made from a seed per image, or given by the caller."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np
import scipy.special
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


#: Half the number of values that a word of 16 bits takes.
HALF = 2**15


class Draws:
    """The draws of one corruption for a batch of images.

    Every image has a generator of its own, so what an image gets does not depend on the batch that it is in.
    A draw that the caller gave (by name, with or without a leading batch axis) is used in place of a random one.
    Random ones are made of 16 bits each: k / 65536 + 1 / 131072 for k uniform in 0, ..., 65535, and functions of it.

    Args:
        seeds: one seed per image.
        stream: names the use of the seeds; different streams of one seed are independent.
        device: where the draws are made and used; values for one seed differ between CPU and GPU.
        given: explicit draws by name.
        frost_pictures: what frost draws from, uint8 ``(3, rows, columns)`` each, instead of the stand-ins.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        stream: tuple[str, int],
        device: torch.device,
        given: Mapping[str, Tensor] | None = None,
        frost_pictures: Sequence[Tensor] | None = None,
    ) -> None:
        self.device = device
        self.given = given or {}
        self.frost_pictures = frost_pictures
        self._seeds = seeds
        self._stream = stream

    def __len__(self) -> int:
        return len(self._seeds)

    def has(self, name: str) -> bool:
        """Whether the caller gave this draw."""
        return name in self.given

    def uniform(self, name: str, *shape: int) -> Tensor:
        """``(B, *shape)`` float32, uniform in (0, 1)."""
        if self.has(name):
            return self.look_up(name, shape).float()
        return self._words(shape).float().add_(HALF + 0.5).mul_(1 / (2 * HALF))

    def normal(
        self, name: str, *shape: int, mean: float = 0.0, std: float = 1.0, window: tuple[slice, slice] | None = None
    ) -> Tensor:
        """``(B, *shape)`` float32, normal; with ``window`` only this part of the last two axes.

        Given draws are standard normal ones.
        """
        if self.has(name):
            whole = self.look_up(name, shape).float() * std + mean
            return whole if window is None else whole[..., window[0], window[1]]
        if window is not None:
            shape = (*shape[:-2], *(len(range(length)[part]) for length, part in zip(shape[-2:], window, strict=True)))
        return self.choose(_normal_quantiles(self.device) * std + mean, *shape)

    def choose(self, table: Tensor, *shape: int) -> Tensor:
        """``(B, *shape)`` entries of a table of 65536, each equally likely."""
        entries = self._words(shape).to(torch.int32).add_(HALF).view(-1)
        return table.index_select(0, entries).view(len(self), *shape)

    def normal_image(self, name: str, height: int, width: int, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
        """``(B, 3, H, W)`` normal; a given draw is standard normal and ``(H, W, 3)``, as NumPy code has it."""
        if self.has(name):
            return self.normal(name, height, width, 3, mean=mean, std=std).permute(0, 3, 1, 2)
        return self.normal(name, 3, height, width, mean=mean, std=std)

    def uniform_image(self, name: str, height: int, width: int) -> Tensor:
        """``(B, 3, H, W)`` uniform in (0, 1); a given draw is ``(H, W, 3)``."""
        if self.has(name):
            return self.look_up(name, (height, width, 3)).float().permute(0, 3, 1, 2)
        return self.uniform(name, 3, height, width)

    def _words(self, shape: tuple[int, ...]) -> Tensor:
        """``(B, *shape)`` int16, all values equally likely."""
        count = math.prod(shape)
        if self.device.type != "cpu":
            words = torch.empty(len(self), count, dtype=torch.int16, device=self.device)
            for row, generator in zip(words, self._torch_generators, strict=True):
                row.random_(-HALF, HALF, generator=generator)
        else:
            quads = np.empty((len(self), -(-count // 4)), np.uint64)
            for quad, bits in zip(quads, self._numpy_bits, strict=True):
                quad[:] = bits.random_raw(len(quad))
            words = torch.from_numpy(quads.view(np.int16))[:, :count]
        return words.reshape(len(self), *shape)

    @cached_property
    def _numpy_bits(self) -> list[np.random.SFC64]:
        # NumPy's fastest source of bits: three times as fast as torch's on the CPU.
        return [np.random.SFC64(sequence) for sequence in self._sequences()]

    @cached_property
    def _torch_generators(self) -> list[torch.Generator]:
        states = [int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)) for sequence in self._sequences()]
        return [torch.Generator(self.device).manual_seed(state) for state in states]

    def _sequences(self) -> list[np.random.SeedSequence]:
        name, severity = self._stream
        word = zlib.crc32(name.encode())
        return [np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, word, severity]) for seed in self._seeds]

    def look_up(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """``(B, *shape)``: the draw that the caller gave.

        Raises:
            UserError: it has another shape.
        """
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


@lru_cache(maxsize=8)
def _normal_quantiles(device: torch.device) -> Tensor:
    """The standard normal distribution's quantiles at the 65536 values that a uniform draw takes."""
    uniform = (np.arange(2 * HALF) + 0.5) / (2 * HALF)
    return torch.from_numpy(scipy.special.ndtri(uniform).astype(np.float32)).to(device)
