"""How HorNet's claims are measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from common import bench
from common.manifest import load_manifest
from common.measurement import Measurement, Result
from common.profiling import count
from common.run import Run
from common.shapes import shapes_only
from papers.hornet import mini, order
from papers.hornet.mini import FIRST_ORDER, GATED, GLOBAL, HOST, LARGER, PLAIN
from papers.hornet.model import GlobalFilter

#: Classes of the ImageNet-22k files: the release's map to ImageNet-1k (in1k_to_21k_map.pth) names classes up to 10,458.
CLASSES_22K = 10459


def contenders() -> list[bench.Contender]:
    """The bench's hierarchical host with attention, and with convolutions in its place; see `papers.hornet.mini`."""
    return mini.contenders()


def model_size(name: str) -> Iterator[Measurement]:
    """A variant with its classifiers of ImageNet-1k and, where the manifest has them, of others who count otherwise."""
    with shapes_only():
        model: Any = timm.create_model(name)
        pretrained: Any = timm.create_model(name, num_classes=CLASSES_22K)
    params, operations = _counted(model, name)
    head = (pretrained.num_classes - model.num_classes) * model.num_features / 1e9
    transforms = operations.detail["transforms"] / 1e9
    by_tag = {
        "": (params, operations),
        ".in22k": (next(count(pretrained, name)), replace(operations, value=operations.value + head)),
        ".mmpretrain": (params, replace(operations, value=operations.value - transforms)),
        ".keras_cv": (params, operations),
    }
    printed = set(load_manifest(Path(__file__).with_name("expected.csv"))["model"])
    for tag, measured in by_tag.items():
        if not tag or name + tag in printed:
            yield from (replace(each, model=name + tag) for each in measured)


def _counted(model: Any, name: str) -> tuple[Measurement, Measurement]:
    """Parameters, and multiply-adds as the release counts them (calc_flops.py), measured as ``name``.

    That is fvcore's count; of norms, only those before MLPs and the classifier are in it, because the release writes
    out the others. A transform of C channels of H x W values counts as C H W ceil(log2(C H)); mmpretrain counts none.
    """
    params, operations = count(model, name, model.pretrained_cfg["input_size"])
    side = model.pretrained_cfg["input_size"][-1]
    places = [(side // info["reduction"]) ** 2 * info["num_chs"] for info in model.feature_info]
    norms = 5 * (sum(len(stage) * n for stage, n in zip(model.stages, places, strict=True)) + model.num_features)
    transforms = 0
    for part in model.modules():
        if isinstance(part, GlobalFilter):
            channels, height, frequencies, _ = part.complex_weight.shape
            # Maps are square here, as the images are; the inverse transform takes the frequencies.
            transforms += channels * height * (height + frequencies) * math.ceil(math.log2(channels * height))
    by_operator = operations.detail["by_operator"]
    ours = by_operator.get("layer_norm", 0) + by_operator.get("fft", 0)
    return params, replace(
        operations,
        value=operations.value + (norms + transforms - ours) / 1e9,
        protocol=f"{operations.protocol}, but norms and Fourier transforms as the release counts them",
        detail={**operations.detail, "norms": norms, "transforms": transforms},
    )


def degree(run: Run) -> Iterator[Result]:
    """Feed gated convolutions an input and a multiple of it."""
    yield from order.homogeneity()


def bound(run: Run) -> Iterator[Result]:
    """Count the multiply-adds of gated convolutions of every order."""
    yield from order.complexity()


def gated_convolution(run: Run) -> Iterator[Result]:
    """Train one host with attention, gated and plain convolutions; compare."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores, f"{GATED} > {HOST}: top1", f"{GATED} > {PLAIN}: top1", f"{GATED} > {HOST}: corruption_top1"
    )
    yield bench.difference_picture("gated_convolution", scores, HOST)


def interactions(run: Run) -> Iterator[Result]:
    """Gated convolutions of order 3 and of order 1."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{GATED} > {FIRST_ORDER}: top1", f"{GATED} > {FIRST_ORDER}: corruption_top1")


def global_filters(run: Run) -> Iterator[Result]:
    """Gated convolutions by global filters and by 7x7 convolutions, on images of the trained size and larger ones."""
    both = [each for each in contenders() if each.name in (GATED, GLOBAL)]
    scores = bench.scores(run, both, mini.at_other_resolution)
    yield from bench.measurements(scores, [f"top1/{LARGER}"])
    yield from bench.findings(scores, f"{GLOBAL} > {GATED}: top1", f"{GLOBAL} > {GATED}: top1/{LARGER}")
    learned = next(each for each in both if each.name == GLOBAL)
    yield mini.filter_picture(bench.trained(run, learned, run.seeds()[0]))
