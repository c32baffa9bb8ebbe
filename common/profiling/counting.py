"""Parameters and FLOPs as papers count them: multiply-adds, by operator, with what is not counted listed.

Every operator of one forward pass is counted by a formula of its shapes (`common.profiling.operators`), with the
conventions of fvcore, from which papers get their numbers. By these, element-wise operators (activations, softmax,
additions, products) are not counted; they are listed in ``not_counted``. Only shapes matter, so that a model that was
built for its shapes alone (`common.shapes`) is counted as well, without memory or arithmetic.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from common.errors import UserError
from common.profiling.operators import FORMULAS, NO_ARITHMETIC


@dataclass(frozen=True)
class Parameters:
    """Number of parameters; a tensor that is used twice counts once, buffers do not count."""

    total: int
    trainable: int


@dataclass(frozen=True)
class Flops:
    """Multiply-adds of one forward pass.

    Attributes:
        total: sum of ``by_operator``.
        by_operator: multiply-adds of each counted operator, named as in PyTorch (``conv`` for every convolution).
        not_counted: calls of each operator that the count leaves out.
    """

    total: int
    by_operator: dict[str, int] = field(default_factory=dict)
    not_counted: dict[str, int] = field(default_factory=dict)

    def without(self, *operators: str) -> int:
        """Multiply-adds without some operators, e.g. ``fft``, which papers that use plain fvcore do not count."""
        return self.total - sum(self.by_operator.get(operator, 0) for operator in operators)


def parameters(model: nn.Module) -> Parameters:
    """Count a model's parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Parameters(sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable))


def flops(
    model: nn.Module,
    input_size: Sequence[int] = (3, 224, 224),
    *,
    inputs: Tensor | tuple[Tensor, ...] | None = None,
) -> Flops:
    """Count the multiply-adds of one forward pass in eval mode; the model is left as it was.

    Args:
        model: any module; it runs where its parameters are, which may be the meta device.
        input_size: shape of one input without the batch axis; the batch has one image.
        inputs: instead of ``input_size``, what to call the model with.

    Returns:
        The same count on every call: it depends on shapes alone.

    Raises:
        UserError: the model does not run on this input.
    """
    if inputs is None:
        inputs = _example(model, input_size)
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    # In inference mode compositions of operators, such as attention, are seen before they are taken apart.
    with _as_is(model), torch.inference_mode(), torch.random.fork_rng(devices=[]), inputs[0].device, _Calls() as calls:
        try:
            model(*inputs)
        except (AssertionError, RuntimeError, ValueError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:200]
            shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
            raise UserError(f"{type(model).__name__} does not run on an input of {shapes}: {reason}") from error
    by_operator = {name: round(count) for name, count in sorted(calls.counted.items()) if count}
    return Flops(sum(by_operator.values()), by_operator, dict(sorted(calls.not_counted.items())))


class _Calls(TorchDispatchMode):
    """Counts the operators that are called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: dict[str, float] = defaultdict(float)
        self.not_counted: Counter[str] = Counter()
        #: What calls on tensors without content gave, since a network's blocks call the same again and again.
        self.seen: dict[Hashable, tuple[Any, ...]] = {}

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        call = _shapes(func, args, kwargs)
        if call is None:
            return self._count(func, args, kwargs)
        if call not in self.seen:
            before = self.counted.copy(), self.not_counted.copy()
            output = self._count(func, args, kwargs)
            if not isinstance(output, Tensor):
                return output
            added = _added(self.counted, before[0]), _added(self.not_counted, before[1])
            self.seen[call] = (output.shape, output.stride(), output.dtype, *added)
            return output
        shape, stride, dtype, counted, not_counted = self.seen[call]
        for name, number in counted:
            self.counted[name] += number
        for name, number in not_counted:
            self.not_counted[name] += number
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operator = func._schema.name.partition("::")[2]
        if operator in FORMULAS:
            output = func(*args, **kwargs)
            name, formula = FORMULAS[operator]
            self.counted[name] += formula(*args, **kwargs, out_val=output)
            return output
        if func.is_view or operator in NO_ARITHMETIC:
            return func(*args, **kwargs)
        with self:
            output = func.decompose(*args, **kwargs)
        if output is not NotImplemented:
            return output  # its parts were counted
        self.not_counted[operator.removeprefix("_")] += 1
        return func(*args, **kwargs)


def _shapes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
    """What the result of a call on the meta device depends on; None where it is not one new tensor of known shape."""
    schema = func._schema
    if len(schema.returns) != 1 or schema.returns[0].alias_info or schema.is_mutable:
        return None
    leaves, structure = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors or not all(tensor.is_meta for tensor in tensors):
        return None
    parts = (
        (leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else (type(leaf), leaf) for leaf in leaves
    )
    return (func, structure, *parts)


def _added(now: Mapping[str, float], before: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, number - before.get(name, 0)) for name, number in now.items() if number != before.get(name, 0)]


def _example(model: nn.Module, input_size: Sequence[int]) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, *input_size, dtype=like.dtype, device=like.device)


@contextmanager
def _as_is(model: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards the mode that each module had; no fused encoder kernels, which hide operators."""
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        model.eval()
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes.items():
            module.training = mode
