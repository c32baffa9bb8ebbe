"""Random draws that are the same on every device, and, given a seed an image, the same in every batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.errors import UserError


def draw(
    sample: Callable[..., Tensor],
    shape: Sequence[int],
    like: Tensor,
    generator: torch.Generator | None,
    seeds: Sequence[int] | None,
) -> Tensor:
    """Random numbers of ``shape``, of the type and on the device of ``like``.

    Args:
        sample: ``torch.rand`` or ``torch.randn``.
        shape: ``(B, ...)``.
        like: a tensor of the wanted type and device.
        generator: for the whole batch.
        seeds: ``B`` seeds instead, one an image; their numbers are drawn on the CPU, so every device gets the same.

    Raises:
        UserError: neither or not enough was given.
    """
    if seeds is not None:
        if len(seeds) != shape[0]:
            raise UserError(f"{len(seeds)} seeds for {shape[0]} images; give one seed an image.")
        rows = [sample(tuple(shape[1:]), generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        numbers = torch.stack(rows) if rows else torch.empty(tuple(shape))
    else:
        generator = _explicit(generator)
        numbers = sample(tuple(shape), generator=generator, device=generator.device)
    return numbers.to(device=like.device, dtype=like.dtype)


def permutations(length: int, generator: torch.Generator | None, seeds: Sequence[int] | None) -> Tensor:
    """One permutation ``(length,)`` from a generator, or one a seed ``(B, length)``."""
    if seeds is not None:
        return torch.stack([torch.randperm(length, generator=torch.Generator().manual_seed(int(s))) for s in seeds])
    generator = _explicit(generator)
    return torch.randperm(length, generator=generator, device=generator.device)


def _explicit(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        raise UserError("this needs random numbers: pass generator=torch.Generator().manual_seed(...), seeds or draws.")
    return generator
