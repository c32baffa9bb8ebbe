"""Mixed precision on CPUs, for which mmengine has no optimizer wrapper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Losses are computed under autocast to bfloat16, whose range is float32's, so that they are not scaled."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Around the forward pass of a training step."""
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield
