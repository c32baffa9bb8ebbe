"""Batch norm whose statistics are of the images of all processes, on every device.

torch's ``SyncBatchNorm`` computes on GPUs only and leaves timm's layers as they are. With this one, a training by
several processes has the statistics of one process with as many images.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from common.errors import UserError

_BatchNorm = nn.modules.batchnorm._BatchNorm


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class _Synchronised(_BatchNorm):
    """In training, normalise by mean and variance over the images of all processes: (B, C, ...) -> (B, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """As the batch norm that it was made from."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        dims = [dim for dim in range(x.ndim) if dim != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        sums = _Sum.apply(torch.cat([wide.sum(dims), wide.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean.view(shape)  # first, since the difference of mean squares would lose digits
        variance = _Sum.apply(centred.square().sum(dims)) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), momentum)
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape))
        return self._after(normal.to(x.dtype))

    def _after(self, x: Tensor) -> Tensor:
        return x


class SynchronisedBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """See :class:`_Synchronised`."""


class SynchronisedBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """See :class:`_Synchronised`."""


class SynchronisedBatchNorm3d(_Synchronised, nn.BatchNorm3d):
    """See :class:`_Synchronised`."""


class SynchronisedBatchNormAct2d(_Synchronised, BatchNormAct2d):
    """See :class:`_Synchronised`; timm's, with an activation."""

    def _after(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


_SYNCHRONISED: dict[type[nn.Module], type[_Synchronised]] = {
    nn.BatchNorm1d: SynchronisedBatchNorm1d,
    nn.BatchNorm2d: SynchronisedBatchNorm2d,
    nn.BatchNorm3d: SynchronisedBatchNorm3d,
    BatchNormAct2d: SynchronisedBatchNormAct2d,
}


def synchronise(model: nn.Module) -> None:
    """Synchronise all batch norms of ``model`` in place; parameters, state and names stay.

    Raises:
        UserError: it has one of a kind that is not known here.
    """
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, (_Synchronised, nn.SyncBatchNorm)):
            continue
        if type(module) not in _SYNCHRONISED:
            raise UserError(
                f"{name} is a {type(module).__name__}, which cannot be synchronised; leave out --sync-batch-norm."
            )
        module.__class__ = _SYNCHRONISED[type(module)]


def separate(model: nn.Module) -> None:
    """Undo :func:`synchronise`."""
    own: dict[type[nn.Module], type[nn.Module]] = {there: here for here, there in _SYNCHRONISED.items()}
    for module in model.modules():
        if type(module) in own:
            module.__class__ = own[type(module)]


def describe(model: nn.Module, world: int, accumulation: int) -> str:
    """Of which images batch norms take their statistics, one clause; empty where the model has none."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return ""
    if world > 1 and all(isinstance(module, (_Synchronised, nn.SyncBatchNorm)) for module in norms):
        whose = "synchronised over all processes"
    else:
        whose = "of each process by itself" if world > 1 else "of the one process"
    return f"batch norm {whose}" + (f", of each of {accumulation} passes by itself" if accumulation > 1 else "")
