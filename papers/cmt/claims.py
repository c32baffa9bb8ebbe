"""How CMT's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import timm

from common import bench
from common.measurement import Measurement, Result
from common.profiling import count
from common.run import Run
from common.shapes import shapes_only
from papers.cmt import blocks
from papers.cmt.mini import cmt_mini

MINI = "cmt_mini"
ATTENTION, CONVOLUTIONS = "pyramid_mini", "resnet_mini"
NOT_LOCAL, PLAIN_MLP, ALL_KEYS = f"{MINI}.no_local_perception", f"{MINI}.plain_mlp", f"{MINI}.all_keys"
#: DeiT's dearest model, with which the printed ratio is taken to be; the abstract does not name it.
DEIT = "deit_base_patch16_384"


def contenders() -> list[bench.Contender]:
    """The small CMT, the same without one of its parts, and the hosts of attention and of convolutions."""
    return [
        bench.Contender(MINI, cmt_mini),
        bench.Contender(NOT_LOCAL, partial(cmt_mini, local_perception=False)),
        bench.Contender(PLAIN_MLP, partial(cmt_mini, inverted_residual=False)),
        bench.Contender(ALL_KEYS, partial(cmt_mini, reductions=(1, 1))),
        bench.host(ATTENTION),
        bench.host(CONVOLUTIONS),
    ]


def hybrid(run: Run) -> Iterator[Result]:
    """Train the small CMT, attention's host and convolutions' host; compare."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    yield from bench.findings(
        scores,
        f"{MINI} > {ATTENTION}: top1",
        f"{MINI} > {CONVOLUTIONS}: top1",
        f"{MINI} > {ATTENTION}: corruption_top1",
    )
    yield bench.difference_picture("hybrid", scores, ATTENTION)


def local_perception(run: Run) -> Iterator[Result]:
    """The small CMT with and without the convolution before attention."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {NOT_LOCAL}: top1", f"{MINI} > {NOT_LOCAL}: corruption_top1")


def inverted_residual(run: Run) -> Iterator[Result]:
    """The small CMT with and without the convolution in the MLP."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} > {PLAIN_MLP}: top1", f"{MINI} > {PLAIN_MLP}: corruption_top1")


def few_keys(run: Run) -> Iterator[Result]:
    """The small CMT with a quarter of the keys in its first stage, and with all."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.findings(scores, f"{MINI} = {ALL_KEYS}: top1")


def reach(run: Run) -> Iterator[Result]:
    """Which positions one of them depends on after a block, by exact gradients."""
    yield blocks.reach()


def attention_cost(run: Run) -> Iterator[Result]:
    """Count attention over the reduction of its keys, against the closed form."""
    yield from blocks.cost()


def cheaper_than_deit(run: Run) -> Iterator[Result]:
    """Count CMT-S and DeiT-B at 384 pixels."""
    counted: dict[str, Measurement] = {}
    for name in ("cmt_s", DEIT):
        with shapes_only():
            model: Any = timm.create_model(name)
        _, counted[name] = count(model, name, model.pretrained_cfg["input_size"])
    ours, other = counted["cmt_s"].value, counted[DEIT].value
    yield Measurement(
        model="cmt_s",
        dataset="-",
        metric="flops_ratio_deit",
        value=other / ours,
        unit="x",
        protocol=f"flops/2 multiply-adds of {DEIT} over those of cmt_s, each at its own size of images",
        detail={DEIT: other, "cmt_s": ours},
    )
