"""Throughput of the evaluation loop against the bare forward pass: ``./reproduce.sh bench evaluation``."""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from common.data.preprocessing import Preprocessing
from common.robustness.benchmarks import Benchmark, benchmark
from common.robustness.benchmarks.classes import imagenet_wnids
from common.robustness.corruptions import corrupt
from common.robustness.evaluation import Evaluation, Execution
from common.robustness.normalisation import Normalized

CELLS = ("clean", "gaussian_noise/3", "brightness/3", "jpeg_compression/3")


def main(arguments: Sequence[str] = ()) -> int:
    """Print images per second: forward pass alone, clean evaluation, and evaluation of four cells at once."""
    parser = ArgumentParser(prog="./reproduce.sh bench evaluation", description=main.__doc__)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)

    model = timm.create_model(args.model).eval().to(args.device)
    preprocessing = Preprocessing.of(model)
    normalized = Normalized(model, preprocessing.mean, preprocessing.std).to(args.device)
    with tempfile.TemporaryDirectory() as folder:
        root = photographs(Path(folder) / "val", args.images)
        clean = benchmark("imagenet", root, preprocessing)
        generated = benchmark("imagenet-c-generated", root, preprocessing)
        stage = generated.stages[0]
        cells = tuple(cell for cell in stage.cells if cell.name in CELLS)
        generated = replace(generated, stages=(replace(stage, cells=cells),))

        def forward() -> float:
            images = torch.rand(args.batch_size, 3, preprocessing.size, preprocessing.size, device=args.device)
            return timed(lambda: normalized(images), args.images // args.batch_size, args.device)

        def corrupted() -> float:
            """The four cells without reading, recording and scoring."""
            images = (torch.rand(args.batch_size, 3, 224, 224, device=args.device) * 255).byte()

            def batch() -> None:
                for name in CELLS:
                    corruption, _, severity = name.partition("/")
                    changed = corrupt(images, corruption, int(severity), jpeg=True) if severity else images
                    normalized(changed.float() / 255)

            return timed(batch, args.images // args.batch_size, args.device)

        def evaluation(bench: Benchmark, repeat: int) -> float:
            job = Evaluation(
                model,
                bench,
                Path(folder) / f"{bench.name}-{repeat}",
                identity={"preprocessing": "", "precision": ""},
                normalized=normalized,
                execution=Execution(device=args.device, batch_size=args.batch_size, workers=args.workers, amp=False),
            )
            start = time.perf_counter()
            for stage in bench.stages:
                job.run_stage(stage)
            return time.perf_counter() - start

        seconds: dict[str, list[float]] = {"forward": [], "evaluate": [], "four cells": [], "evaluate four cells": []}
        for repeat in range(args.repeats):
            seconds["forward"].append(forward())
            seconds["evaluate"].append(evaluation(clean, repeat))
            seconds["four cells"].append(corrupted())
            seconds["evaluate four cells"].append(evaluation(generated, repeat))
    table = Table(title=f"{args.model}, {args.device}, {args.images} JPEG files of 500x375, batch {args.batch_size}")
    for header in ("", "images/s", "scored images/s"):
        table.add_column(header, justify="right" if header else "left")
    for name, times in seconds.items():
        rate = args.images / statistics.median(times)
        table.add_row(name, f"{rate:.1f}", f"{rate * (len(CELLS) if 'four' in name else 1):.1f}")
    Console().print(table)
    return 0


def timed(call, times: int, device: str) -> float:
    """Seconds of so many calls without gradients."""
    with torch.no_grad():
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            call()
        if device != "cpu":
            torch.cuda.synchronize()
    return time.perf_counter() - start


def photographs(root: Path, count: int) -> Path:
    """Smooth random pictures with the size of ImageNet's, as JPEG, spread over the class folders."""
    rng = np.random.default_rng(0)
    wnids = imagenet_wnids()
    for wnid in wnids:
        (root / wnid).mkdir(parents=True)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(
            root / wnids[index % 1000] / f"{index}.JPEG", quality=90
        )
    return root
