"""The middle of RVT's feed-forward network by the compiled loops of middle.c; differentiable once.

Batch norm, GELU, 3x3 depth-wise convolution, batch norm, GELU: torch would take each through memory by itself, and keep
four tensors of that size for the backward pass instead of one.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common.native import call, library, plain

SOURCE = Path(__file__).with_name("middle.c")
_TENSORS = (
    *("mean1", "variance1", "mean2", "variance2", "gamma1", "beta1", "gamma2", "beta2", "weight", "bias"),
    *("x", "y", "d_y", "d_x", "d_gamma1", "d_beta1", "d_gamma2", "d_beta2", "d_weight", "d_bias"),
)


class _Middle(ctypes.Structure):
    """``Middle`` of middle.c."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("images", "height", "width", "channels", "training", "next", "failed")),
        *((name, ctypes.c_float) for name in ("epsilon1", "epsilon2")),
        *((name, ctypes.c_void_p) for name in _TENSORS),
    )


def serves(x: Tensor, norm1: nn.Module, norm2: nn.Module) -> bool:
    """Whether :func:`middle` can take ``x``: float32 on a CPU, common batch norms, and a C compiler."""
    if not plain(x) or torch.is_autocast_enabled("cpu"):
        return False
    norms = (norm1, norm2)
    common = all(type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats for norm in norms)
    if not common or norm1.weight.dtype != x.dtype or norm1.training != norm2.training:
        return False
    if None in (norm1.momentum, norm2.momentum):
        return False
    if norm1.training and x.numel() == x.shape[-1]:
        return False  # one value a channel has no statistics; torch says so
    return library(SOURCE) is not None


class _Layers(torch.autograd.Function):
    """:func:`middle`: y and, in training, mean and biased variance of both norms' inputs."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, gamma1: Tensor, beta1: Tensor, gamma2: Tensor,
        beta2: Tensor, statistics: Tensor, epsilons: tuple[float, float], training: bool,
    ) -> Tensor:  # fmt: skip
        tensors = {"weight": weight, "bias": bias, "gamma1": gamma1, "beta1": beta1, "gamma2": gamma2, "beta2": beta2}
        y = torch.empty_like(x)
        _call("forward", epsilons, training, statistics, **tensors, x=x, y=y)
        ctx.save_for_backward(x, statistics, *tensors.values())
        ctx.names, ctx.epsilons, ctx.training = tuple(tensors), epsilons, training
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, statistics, *parameters = ctx.saved_tensors
        tensors = dict(zip(ctx.names, parameters, strict=True))
        d_x, found = torch.empty_like(x), {f"d_{name}": torch.empty_like(tensor) for name, tensor in tensors.items()}
        settings = ctx.epsilons, ctx.training, statistics
        _call("backward", *settings, **tensors, **found, x=x, d_y=gradient.contiguous(), d_x=d_x)
        d_shift = torch.zeros_like(tensors["beta1"])
        if not ctx.training:
            d_shift.addcdiv_(found["d_beta1"] * tensors["gamma1"], (statistics[1] + ctx.epsilons[0]).sqrt_())
        return d_x, d_shift, *found.values(), None, None, None


def _call(name: str, epsilons: tuple[float, float], training: bool, statistics: Tensor, **tensors: Tensor) -> None:
    """Call a function of middle.c; ``statistics`` are the norms' mean1, variance1, mean2 and variance2, (4, C)."""
    pointers = dict(zip(_TENSORS[:4], statistics, strict=True)) | tensors
    problem = _Middle(
        *tensors["x"].shape, training, epsilon1=epsilons[0], epsilon2=epsilons[1],
        **{key: tensor.data_ptr() for key, tensor in pointers.items()},
    )  # fmt: skip
    call(SOURCE, name, problem, f"the feed-forward network of {problem.channels} channels")


def middle(x: Tensor, shift: Tensor, norm1: nn.BatchNorm2d, convolution: nn.Conv2d, norm2: nn.BatchNorm2d) -> Tensor:
    """``GELU(norm2(convolution(GELU(norm1(x + shift)))))``, and the norms' running statistics moved on in training.

    Args:
        x: (B, H, W, C), float32 on a CPU.
        shift: (C,), the bias of the map before; adding it here takes no pass over x. In training its gradient is 0.
        norm1: of C channels.
        convolution: 3x3, depth-wise, padded by 1.
        norm2: of C channels; trains if ``norm1`` does.
    """
    norms, training = (norm1, norm2), norm1.training
    if training:
        statistics = x.new_empty(4, x.shape[-1])
    else:
        means = norm1.running_mean - shift.detach(), norm2.running_mean
        statistics = torch.stack([means[0], norm1.running_var, means[1], norm2.running_var])
    parameters = (shift, convolution.weight, convolution.bias, norm1.weight, norm1.bias, norm2.weight, norm2.bias)
    contiguous = (tensor.contiguous() for tensor in (x, *parameters))
    y = _Layers.apply(*contiguous, statistics, (norm1.eps, norm2.eps), training)
    if training:
        count = x.numel() // x.shape[-1]
        means = statistics[0] + shift.detach(), statistics[2]
        for norm, mean, variance in zip(norms, means, statistics[1::2], strict=True):
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)
    return y
