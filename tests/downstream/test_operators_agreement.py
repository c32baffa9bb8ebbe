"""Our operators against mmcv's compiled ones, on GPUs against CPUs, and in half precision against float32."""

from __future__ import annotations

from collections.abc import Callable

import mmcv.ops
import pytest
import torch
from torch import Tensor

from downstream.operators import registration

BOXES = torch.tensor([[0, 2.0, 3, 30, 22], [1, -5, 0, 12, 25], [1, 10, 8, 40, 40], [0, 11, 9, 12, 10]])


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers that bfloat16 holds exactly."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


#: Each operator as a function of tensors that need gradients.
DIFFERENTIABLE: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "roi_align": (
        lambda x: mmcv.ops.roi_align(x, BOXES.to(x), (3, 3), 0.25, 0, "avg", True),
        [randn(2, 4, 10, 12)],
    ),
    "roi_align_max": (
        lambda x: mmcv.ops.roi_align(x, BOXES.to(x), (3, 3), 0.25, 2, "max", True),
        [randn(2, 4, 10, 12)],
    ),
    "sigmoid_focal_loss": (
        lambda x: mmcv.ops.sigmoid_focal_loss(x, torch.arange(8, device=x.device) % 6, 2.0, 0.25, None, "none"),
        [randn(8, 5) * 4],
    ),
}

#: Operators on boxes, which have no gradients.
ON_BOXES: dict[str, Callable[[Tensor, Tensor], list[Tensor]]] = {
    "nms": lambda boxes, scores: list(mmcv.ops.nms(boxes, scores, 0.4)),
    "nms_offset": lambda boxes, scores: list(mmcv.ops.nms(boxes, scores, 0.4, offset=1)),
}


def results(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """An operator's output and gradients, on the CPU and in float32 where they are not numbers of boxes."""
    if name in ON_BOXES:
        corner = rand(50, 2) * 40
        boxes = torch.cat([corner, corner + 2 + rand(50, 2, seed=1) * 20], dim=1).to(device, dtype)
        # No two alike: among equal scores mmcv's order is not defined.
        scores = torch.randperm(50, generator=torch.Generator().manual_seed(2)) / 64
        return [torch.as_tensor(tensor).cpu() for tensor in ON_BOXES[name](boxes, scores.to(device, dtype))]
    operator, tensors = DIFFERENTIABLE[name]
    inputs = [tensor.to(device, dtype, copy=True).requires_grad_() for tensor in tensors]
    output = operator(*inputs)
    output.backward(randn(*output.shape, seed=9).to(output))
    assert all(tensor.dtype == dtype for tensor in (output, *(one.grad for one in inputs)))
    return [tensor.detach().float().cpu() for tensor in (output, *(one.grad for one in inputs))]


@pytest.mark.skipif(not registration.compiled(), reason="no compiled mmcv is installed to compare with")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", [*DIFFERENTIABLE, *ON_BOXES])
def test_agrees_with_compiled_mmcv(name: str, device: str, request: pytest.FixtureRequest) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    try:
        expected = results(name, device)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"compiled mmcv does not have it on this device: {error}")
    request.getfixturevalue("our_operators")
    for actual, wanted in zip(results(name, device), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", [*DIFFERENTIABLE, *ON_BOXES])
def test_gpu_agrees_with_cpu(name: str) -> None:
    for actual, wanted in zip(results(name, "cuda"), results(name), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)


# Not here: where mmcv's own Python keeps places of maxima in half precision.
@pytest.mark.usefixtures("our_operators")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(set(DIFFERENTIABLE) - {"roi_align_max"}))
def test_half_precision_is_float32_rounded(name: str, dtype: torch.dtype) -> None:
    """Arithmetic is float32's; only inputs, which bfloat16 holds exactly here, and results are rounded."""
    rounding = torch.finfo(dtype).eps
    for actual, wanted in zip(results(name, dtype=dtype), results(name), strict=True):
        scale = float(wanted.abs().max())
        torch.testing.assert_close(actual, wanted, rtol=rounding, atol=2 * rounding * scale)


@pytest.mark.usefixtures("our_operators")
def test_autocast_leaves_the_arithmetic_alone() -> None:
    operator, tensors = DIFFERENTIABLE["roi_align"]
    with torch.autocast("cpu", torch.bfloat16):
        inside = operator(*tensors)
    assert torch.equal(inside, operator(*tensors))
