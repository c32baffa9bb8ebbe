"""What all processes hold: for losses that compare the images of a batch, and for networks beside the trained one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> tuple[int, int]:
    """This process's rank and the number of processes: (0, 1) where nothing is distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def gather(tensor: Tensor) -> Tensor:
    """The tensors (n, ...) of all processes, one after the other by rank: (world x n, ...).

    The gradient of the sum over processes of what each makes of the result comes back to where a tensor is from. With
    losses that are means over a process's own rows, and gradients averaged over processes as distributed training
    averages them, this gives the gradient of the mean over all rows.
    """
    return tensor if world()[1] == 1 else _Gather.apply(tensor)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make gradients the mean over processes, in place, as distributed training does for the model itself.

    Parameters without a gradient must be the same ones on all processes.
    """
    count = world()[1]
    if count == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= count


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(world()[1])]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # An all-reduce, since gloo has no reduce-scatter; embeddings are small beside the network's gradients.
        rank, count = world()
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(count)[rank]
