"""Random draws that do not depend on the device or on how images are batched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.errors import UserError

#: Where random numbers come from: a generator for the whole batch, or one seed an image, which makes the result
#: independent of the batch that the image is in.
Randomness = torch.Generator | Sequence[int]


def draw(sample: Callable[..., Tensor], shape: Sequence[int], randomness: Randomness | None, like: Tensor) -> Tensor:
    """Random numbers of ``shape``, of the type and on the device of ``like``.

    Args:
        sample: ``torch.rand`` or ``torch.randn``.
        shape: ``(B, ...)``.
        randomness: a CPU generator or ``B`` seeds. Numbers are always drawn on the CPU, so that every device gets
            the same ones.
        like: a tensor of the wanted type and device.

    Raises:
        UserError: no randomness was given, or not one seed an image.
    """
    if randomness is None:
        raise UserError("this needs random numbers: pass generator=torch.Generator().manual_seed(...) or its draws.")
    if isinstance(randomness, torch.Generator):
        numbers = sample(tuple(shape), generator=randomness, device=randomness.device)
    else:
        if len(randomness) != shape[0]:
            raise UserError(f"{len(randomness)} seeds for {shape[0]} images; give one seed an image.")
        rows = [sample(tuple(shape[1:]), generator=torch.Generator().manual_seed(int(s))) for s in randomness]
        numbers = torch.stack(rows) if rows else torch.empty(tuple(shape))
    return numbers.to(device=like.device, dtype=like.dtype)
