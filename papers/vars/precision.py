"""Keeping autocast out of what half precision has too few bits for: the dynamics and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Compute in the precision of the operands; where there is no autocast, nothing is done."""
    on = not x.is_meta and torch.is_autocast_enabled(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if on else nullcontext()


def plain_backward(backward: Callable[..., Any]) -> Any:
    """Decorate a written-out backward pass: differentiable once, and without autocast where a caller has it on."""

    @wraps(backward)
    def in_own_precision(ctx: Any, *gradients: Tensor) -> Any:
        with without_autocast(gradients[0]):
            return backward(ctx, *gradients)

    return once_differentiable(in_own_precision)
