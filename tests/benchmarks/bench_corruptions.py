"""Throughput of the corruptions beside the PyPI package imagecorruptions 1.1.2, in one process, interleaved.

``python -m tests.benchmarks.bench_corruptions``, or ``./reproduce.sh bench corruptions``. The package is no dependency;
without it, only our own times are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from common.profiling import compare_cost
from common.robustness.corruptions import CORRUPTIONS, EXTRA, corrupt

PHOTO = Path(__file__).parents[1] / "robustness" / "fixtures" / "imagenet-c" / "imagenet_deterministic.npz"
#: The package takes this many images a sample; glass blur takes most of a second for one.
REFERENCE_IMAGES = {"glass_blur": 1, "zoom_blur": 2}
REFERENCE_IMAGES_DEFAULT = 4

#: What installs the package, which states too few and too old requirements.
INSTALL = (
    'pip install --no-deps imagecorruptions==1.1.2 && pip install opencv-python-headless scikit-image "setuptools<81"'
)

Reference = Callable[[NDArray[np.uint8], str, int], NDArray[np.uint8]]


def load_reference() -> Reference | None:
    """imagecorruptions' function, with what it needs of old libraries put in place; None if it is not installed."""
    import importlib.util

    if importlib.util.find_spec("imagecorruptions") is None:
        return None
    import scipy.ndimage
    import skimage.filters

    def gaussian(image: object, *args: object, multichannel: bool = False, **rest: object) -> object:
        return modern_gaussian(image, *args, channel_axis=-1 if multichannel else None, **rest)

    modern_gaussian = skimage.filters.gaussian
    interpolation = types.ModuleType("scipy.ndimage.interpolation")
    interpolation.map_coordinates = scipy.ndimage.map_coordinates  # type: ignore[attr-defined]
    sys.modules["scipy.ndimage.interpolation"] = interpolation
    vars(np).update(float_=np.float64, fromstring=np.frombuffer)
    skimage.filters.gaussian = gaussian
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import imagecorruptions
    finally:
        skimage.filters.gaussian = modern_gaussian

    def run(image: NDArray[np.uint8], name: str, severity: int) -> NDArray[np.uint8]:
        return imagecorruptions.corrupt(image, severity=severity, corruption_name=name)

    return run


def photographs(batch: int) -> torch.Tensor:
    """``(batch, 3, 224, 224)`` uint8: one photograph, flipped and moved around."""
    with np.load(PHOTO) as file:
        photo = torch.from_numpy(file["input"]).permute(2, 0, 1)
    moved = [photo.roll((7 * i, 13 * i), (1, 2)) for i in range(batch)]
    return torch.stack([image.flip(2) if i % 2 else image for i, image in enumerate(moved)]).contiguous()


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="images a call (default 32)")
    parser.add_argument("--severity", type=int, default=3, choices=range(1, 6), help="severity (default 3)")
    parser.add_argument("--rounds", type=int, default=7, help="samples a corruption (default 7)")
    parser.add_argument("--threads", type=int, default=2, help="cores for either side (default 2)")
    parser.add_argument("names", nargs="*", help="corruptions (default all 19)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    reference = load_reference()
    if reference is not None:
        import cv2

        cv2.setNumThreads(options.threads)
    images = photographs(options.batch)
    arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]

    table = Table(
        title=f"Corruptions, severity {options.severity}, 224 pixels, batch {options.batch}, "
        f"{options.threads} threads: milliseconds an image, median [quartiles]"
    )
    table.add_column("corruption")
    for column in ("resight", "imagecorruptions 1.1.2", "times faster"):
        table.add_column(column, justify="right")
    ratios = []
    for name in options.names or CORRUPTIONS + EXTRA:
        count = min(REFERENCE_IMAGES.get(name, REFERENCE_IMAGES_DEFAULT), options.batch)

        def ours(name: str = name) -> object:
            return corrupt(images, name, options.severity)

        def theirs(name: str = name, count: int = count) -> object:
            assert reference is not None
            return [reference(array, name, options.severity) for array in arrays[:count]]

        candidates = {"resight": ours} if reference is None else {"resight": ours, "reference": theirs}
        costs = compare_cost(
            candidates, baseline="resight", rounds=options.rounds, warmup=1, memory=False, description=name
        )
        cells = [_milliseconds(costs["resight"].cost.seconds, options.batch), "not installed", ""]
        if reference is not None:
            ratio = costs["reference"].time_ratio
            faster = options.batch / count
            ratios.append(ratio.median * faster)
            cells[1] = _milliseconds(costs["reference"].cost.seconds, count)
            cells[2] = f"{ratios[-1]:.1f} [{ratio.low * faster:.1f}, {ratio.high * faster:.1f}]"
        table.add_row(name, *cells)
    if ratios:
        table.add_section()
        table.add_row("geometric mean", "", "", f"{statistics.geometric_mean(ratios):.1f}")
        table.add_row("least", "", "", f"{min(ratios):.1f}")
    Console().print(table)
    if reference is None:
        Console().print(
            f"imagecorruptions is not installed, so nothing was compared; get it by: {INSTALL}", markup=False
        )
    return 0


def _milliseconds(seconds: object, images: int) -> str:
    median, low, high = (getattr(seconds, field) * 1e3 / images for field in ("median", "low", "high"))
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    raise SystemExit(main())
