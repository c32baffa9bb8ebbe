"""Building modules for their shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

#: What gives a tensor its values.
_FILLING = {"uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"}


class _Unfilled(TorchFunctionMode):
    """Tensors on the meta device are not filled: they have no values, but working out that takes torch long."""

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name, module = getattr(function, "__name__", ""), getattr(function, "__module__", None)
        if name in _FILLING or module == torch.nn.init.__name__:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        return function(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within it, modules are built with tensors that have shapes but no values, on the meta device.

    It takes no memory, and a tenth of the time that ``torch.device("meta")`` alone would take.
    """
    with torch.device("meta"), _Unfilled():
        yield
