"""Time mmcv's operators, forward and backward, at sizes of detection.

``python tests/benchmarks/bench_operators.py`` prints the median milliseconds of ``--repeats`` calls, on the GPU where
there is one. Run it with a compiled mmcv installed and without, to compare.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import downstream  # noqa: F401, I001
import mmcv.ops
import torch
from torch import Tensor

from downstream.operators.registration import compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def boxes(count: int) -> Tensor:
    corner = torch.rand(count, 2) * 700
    return torch.cat([corner, corner + 20 + torch.rand(count, 2) * 200], dim=1).to(DEVICE)


def trained(operator: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Callable[[], None]:
    """Return a call of an operator on random tensors, with its backward pass."""
    tensors = [torch.rand(*shape, device=DEVICE, requires_grad=True) for shape in shapes]

    def call() -> None:
        output = operator(*tensors)
        torch.autograd.grad(output, tensors, torch.ones_like(output))

    return call


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter()
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench operators", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args(arguments).repeats
    torch.manual_seed(0)
    rois = torch.cat([torch.randint(0, 2, (512, 1), device=DEVICE), boxes(512)], dim=1)
    many, scores = boxes(2000), torch.rand(2000, device=DEVICE)
    classes = torch.randint(0, 80, (20000,), device=DEVICE)
    calls = {
        "nms, 2000 boxes": lambda: mmcv.ops.nms(many, scores, 0.7),
        "roi_align, 512 regions of 2 maps 256 x 100 x 100": trained(
            lambda x: mmcv.ops.roi_align(x, rois, (7, 7), 1 / 8, 0, "avg", True), (2, 256, 100, 100)
        ),
        "sigmoid_focal_loss, 20000 x 80": trained(
            lambda x: mmcv.ops.sigmoid_focal_loss(x, classes, 2.0, 0.25, None, "mean"), (20000, 80)
        ),
    }
    print(f"{'compiled mmcv' if compiled() else 'operators of torch and torchvision'}, {DEVICE}")
    for name, call in calls.items():
        print(f"{milliseconds(call, repeats):10.2f} ms  {name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
