"""Forward pass and training step of a paper's models beside self-attention, in one process, interleaved.

``./reproduce.sh bench models --paper vars``; times are medians of process time on one thread, which other load on the
machine disturbs least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import papers

MODELS = {
    "vars": ("rvt_tiny", "performer_rvt_tiny", "vars_d_rvt_tiny", "vars_sd_rvt_tiny", "vars_s_rvt_tiny"),
    "rvt": ("rvt_tiny", "rvt_tiny_plus"),
}


def forward(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    model.eval()
    with torch.inference_mode():
        model(images)


def training_step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    model.train()
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()


def bench(paper: str, names: Sequence[str] = (), batch: int = 8, repeats: int = 7) -> dict[str, dict[str, float]]:
    """Median seconds of each model (the first is the one to compare with) for ``forward`` and ``training_step``."""
    names = tuple(names) or MODELS.get(paper) or tuple(m.name for m in papers.find(paper).all_models)
    models = {name: timm.create_model(name) for name in names}
    images, labels = torch.randn(batch, 3, 224, 224), torch.randint(1000, (batch,))
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for task in (forward, training_step):
        for repeat in range(repeats + 1):
            for name, model in models.items():
                start = time.process_time()
                task(model, images, labels)
                if repeat:  # the first is for warming up
                    seconds[name].setdefault(task.__name__, []).append(time.process_time() - start)
    return {name: {task: statistics.median(s) for task, s in tasks.items()} for name, tasks in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench models", description=__doc__.splitlines()[0])
    parser.add_argument("--paper", default="vars")
    parser.add_argument("--models", nargs="*", default=(), help="timm's names; the first is the one to compare with")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = bench(args.paper, args.models, args.batch, args.repeats)
    first = next(iter(results.values()))
    table = Table("model", *(f"{task.replace('_', ' ')}, {unit}" for task in first for unit in ("ms", "ratio")))
    for name, tasks in results.items():
        table.add_row(name, *(t for k, s in tasks.items() for t in (f"{1000 * s:.0f}", f"{s / first[k]:.2f}")))
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
