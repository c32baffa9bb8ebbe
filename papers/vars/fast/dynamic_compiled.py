"""VARS-D and VARS-SD by compiled loops on a CPU, from q and v to the reconstruction; differentiable once.

Equations: papers/vars/attention.py. The same in torch: dynamic.py. The loops: dynamic.c.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.native import call, library, plain
from papers.vars.attention import Dynamics
from papers.vars.fast.lateral import ByFactors, Lateral
from papers.vars.precision import plain_backward

SOURCE = Path(__file__).with_name("dynamic.c")

#: Images of a head that are one piece of work of the backward pass: at least so many, so that what they share is little
#: of it, and more where there would be more pieces than that, each of which has its own sums. It is not by the number
#: of threads, on which the order of the sums would depend.
_SHARE, _PIECES = 4, 64
#: Pieces a thread of the forward pass.
_PIECES_A_THREAD = 4


class _Problem(ctypes.Structure):
    """``Dynamic`` of problem.h."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("heads", "images", "tokens", "channels", "own", "fixed", "steps")),
        *((name, ctypes.c_int) for name in ("by_factors", "gelu", "from_zero", "adaptive", "share", "next", "failed")),
        *((name, ctypes.c_float) for name in ("scale", "sparsity")),
        *((name, ctypes.c_void_p) for name in ("qv", "projection", "fixed_columns", "weights", "y", "kept", "d_y")),
        *((name, ctypes.c_void_p) for name in ("d_qv", "d_fixed_columns", "d_weights", "d_scale", "d_sparsity")),
    )

    def kept_size(self) -> int:
        """How many numbers the backward pass needs of each image and head."""
        code = library(SOURCE)
        assert code is not None
        code.kept_size.restype = ctypes.c_long
        return code.kept_size(ctypes.byref(self))

    def compute(self, name: str, **tensors: Tensor) -> None:
        """Call a function of dynamic.c with these tensors, too."""
        for field, tensor in tensors.items():
            setattr(self, field, tensor.data_ptr())
        call(SOURCE, name, self, f"the sparse reconstruction of {self.tokens} tokens")


def _problem(
    qv: Tensor, projection: Tensor, static: Tensor | None, weights: Tensor, scale: Tensor | float, sparsity: Tensor,
    dynamics: Dynamics, form: type[Lateral], pieces: int, least: int = 1,
) -> _Problem:  # fmt: skip
    """A problem that is divided into about so many pieces of work, of so many images of a head at least."""
    (images, tokens, _), (heads, channels, own) = qv.shape, projection.shape
    return _Problem(
        heads, images, tokens, channels, own, 0 if static is None else static.shape[-1], dynamics.steps,
        form is ByFactors, dynamics.shrinkage == "gelu", dynamics.from_zero, isinstance(scale, Tensor),
        share=max(least, math.ceil(heads * images / pieces)),
        scale=float(scale), sparsity=float(sparsity),
        qv=qv.data_ptr(), projection=projection.data_ptr(), weights=weights.data_ptr(),
        fixed_columns=None if static is None else static.data_ptr(),
    )  # fmt: skip


class _Reconstruction(torch.autograd.Function):
    """:func:`reconstruct`."""

    @staticmethod
    def forward(
        ctx: Any, qv: Tensor, projection: Tensor, static: Tensor | None, weights: Tensor, scale: Tensor | float,
        sparsity: Tensor, dynamics: Dynamics, form: type[Lateral], keep: bool,
    ) -> Tensor:  # fmt: skip
        pieces = _PIECES_A_THREAD * torch.get_num_threads()
        problem = _problem(qv, projection, static, weights, scale, sparsity, dynamics, form, pieces)
        found = {"y": qv.new_empty(*qv.shape[:2], qv.shape[2] // 2)}
        if keep:
            found["kept"] = qv.new_empty(problem.heads * problem.images, problem.kept_size())
            ctx.save_for_backward(qv, projection, static, weights, sparsity, found["kept"])
            ctx.scale = scale.detach() if isinstance(scale, Tensor) else scale
            ctx.dynamics, ctx.form = dynamics, form
        problem.compute("reconstruct", **found)
        return found["y"]

    @staticmethod
    @plain_backward
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        qv, projection, static, weights, sparsity, kept = ctx.saved_tensors
        problem = _problem(
            qv, projection, static, weights, ctx.scale, sparsity, ctx.dynamics, ctx.form, _PIECES, _SHARE
        )
        heads, pieces = problem.heads, math.ceil(problem.images / problem.share)
        d_qv = torch.empty_like(qv)
        d_static = qv.new_empty(heads, pieces, problem.tokens, problem.fixed)
        d_weights = qv.new_empty(heads * pieces, *weights.shape)
        d_scale, d_sparsity = qv.new_empty(heads * pieces), qv.new_empty(heads * pieces)
        problem.compute(
            "differentiate", kept=kept, d_y=gradient.contiguous(), d_qv=d_qv, d_fixed_columns=d_static,
            d_weights=d_weights, d_scale=d_scale, d_sparsity=d_sparsity,
        )  # fmt: skip
        return (
            d_qv,
            None,
            None if static is None else d_static.sum(dim=1),
            d_weights.sum(dim=0),
            d_scale.sum().view(1) if isinstance(ctx.scale, Tensor) else None,
            d_sparsity.sum().view(1),
            None,
            None,
            None,
        )


def serves(x: Tensor, weights: Tensor) -> bool:
    """Whether :func:`reconstruct` can take ``x`` and K: float32 on a CPU, where C could be compiled."""
    return plain(x) and plain(weights) and library(SOURCE) is not None


def reconstruct(
    qv: Tensor, projection: Tensor, static: Tensor | None, weights: Tensor, scale: Tensor | float, sparsity: Tensor,
    dynamics: Dynamics, form: type[Lateral],
) -> Tensor:  # fmt: skip
    """The reconstruction P u_T of VARS-D and VARS-SD, (B, N, C).

    Args:
        qv: q and v, (B, N, 2 C); float32 on a CPU, as all others.
        projection: of each head, (h, d, m - k); has no gradient.
        static: templates, (h, N, k), or None for k = 0.
        weights: K, (m, m).
        scale: of the step size, see :func:`papers.vars.fast.reconstruction.step_size`.
        sparsity: lambda, (1,).
        dynamics: which; at least one step.
        form: in which the lateral connections are computed.
    """
    static = None if static is None else static.contiguous()
    return _Reconstruction.apply(
        qv.contiguous(), projection.contiguous(), static, weights.contiguous(), scale, sparsity, dynamics, form,
        torch.is_grad_enabled(),
    )  # fmt: skip
