"""Arithmetic of the operators: float32 or float64, whatever autocast and the tensors say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def widen(tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 tensors as float32, others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def widened(operator: Callable[..., Result]) -> Callable[..., Result]:
    """Run an operator without autograd and autocast; half-precision tensors are widened by the operator itself.

    mmcv's autograd functions call an operator inside ``forward`` and ``backward``, where a gradient graph is not
    wanted, and maybe under autocast, which would take matrix products of float32 tensors to half precision.
    """

    @functools.wraps(operator)
    def run(first: Tensor, *arguments: Any, **options: Any) -> Result:
        with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
            return operator(first, *arguments, **options)

    return run
