"""Parameters and FLOPs as papers count them: multiply-adds, by operator, with what is not counted listed.

The count is fvcore's, of the operators that one forward pass runs (a trace), so it equals the numbers that papers
get from fvcore, with handlers of our own (`common.profiling.operators`) where fvcore knows an operator not at all or
only in some shapes. By convention, element-wise operators (activations, softmax, additions, products) are not counted;
they are listed in ``not_counted``. fvcore counts normalisations and average pooling, and so do we.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from common.errors import UserError
from common.profiling.operators import HANDLERS, NO_ARITHMETIC


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
        model: any module; it runs where its parameters are.
        input_size: shape of one input without the batch axis; the batch has one image.
        inputs: instead of ``input_size``, what to call the model with.

    Returns:
        The same count on every call: it depends on shapes alone.

    Raises:
        UserError: the model does not run on this input.
    """
    if inputs is None:
        inputs = _example(model, input_size)
    analysis = FlopCountAnalysis(model, inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle(**HANDLERS, **dict.fromkeys(NO_ARITHMETIC))
    shapes = ", ".join(str(tuple(t.shape)) for t in ((inputs,) if isinstance(inputs, Tensor) else inputs))
    with _as_is(model), _quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            counted = analysis.by_operator()
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{type(model).__name__} does not run on an input of {shapes}: {reason}") from error
    by_operator = {name: round(count) for name, count in sorted(counted.items()) if count}
    not_counted = {name.removeprefix("aten::"): calls for name, calls in analysis.unsupported_ops().items()}
    return Flops(sum(by_operator.values()), by_operator, dict(sorted(not_counted.items())))


def _example(model: nn.Module, input_size: Sequence[int]) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, *input_size, generator=generator).to(device=like.device, dtype=like.dtype)


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


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
