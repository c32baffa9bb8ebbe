"""Random draws that are the same on every device, and, given a seed an image, the same in every batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
        _check_seeds(seeds, shape[0])
        rows = [sample(tuple(shape[1:]), generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        numbers = torch.stack(rows) if rows else torch.empty(tuple(shape))
    else:
        generator = _explicit(generator)
        numbers = sample(tuple(shape), generator=generator, device=generator.device)
    return numbers.to(device=like.device, dtype=like.dtype)


def given(draws: Mapping[str, Tensor], name: str, like: Tensor, *shapes: tuple[int, ...]) -> Tensor | None:
    """The explicit random numbers of that name, of the type and on the device of ``like``; None without any.

    Raises:
        UserError: they have none of the ``shapes``.
    """
    numbers = draws.get(name)
    if numbers is None:
        return None
    if tuple(numbers.shape) not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise UserError(f"draws {name!r} have shape {tuple(numbers.shape)} where {wanted} is needed.")
    return numbers.to(like)


def permutations(batch: int, length: int, generator: torch.Generator | None, seeds: Sequence[int] | None) -> Tensor:
    """One permutation ``(length,)`` for all from a generator, or one a seed ``(batch, length)``."""
    if seeds is not None:
        _check_seeds(seeds, batch)
        rows = [torch.randperm(length, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        return torch.stack(rows) if rows else torch.empty(0, length, dtype=torch.long)
    generator = _explicit(generator)
    return torch.randperm(length, generator=generator, device=generator.device)


def _check_seeds(seeds: Sequence[int], batch: int) -> None:
    if len(seeds) != batch:
        raise UserError(f"{len(seeds)} seeds for {batch} images; give one seed an image.")


def _explicit(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        raise UserError("this needs random numbers: pass generator=torch.Generator().manual_seed(...), seeds or draws.")
    return generator
