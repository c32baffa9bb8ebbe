"""How the survey's statements are measured."""

from __future__ import annotations

from collections.abc import Iterator

from common import bench
from common.measurement import Measurement, Result
from common.run import Run
from papers.transformers_survey import mini, reach, scaling
from papers.transformers_survey.families import FAMILIES
from papers.transformers_survey.mini import HOST, contender_of

GLOBAL = contender_of("global")
#: Trained families whose multiply-adds grow more slowly than the square of the tokens.
CHEAPER = [contender_of(each.name) for each in FAMILIES if each.trained and each.exponent < 2]


def contenders() -> list[bench.Contender]:
    """One host with every family that is trained; see `papers.transformers_survey.mini`."""
    return mini.contenders()


def accuracy(run: Run) -> Iterator[Result]:
    """Accuracy and cost of all families in one host."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from bench.measurements(scores)
    for contender in contenders():
        operations, parameters = mini.cost_of(contender)
        yield Measurement(
            model=contender.name,
            dataset="-",
            metric="network_multiply_adds",
            value=operations,
            unit="M",
            protocol="flops/2 multiply-adds of one image of 28 pixels",
            detail={"parameters, 1e3": parameters},
        )
    yield from bench.findings(scores, *(f"{name} = {GLOBAL}: top1" for name in CHEAPER), f"{HOST} = {GLOBAL}: top1")
    yield mini.page_picture(scores)


def robustness(run: Run) -> Iterator[Result]:
    """Accuracy under corruption, and with parts of the image missing."""
    scores = bench.scores(run, contenders(), bench.robustness)
    windows, channels = contender_of("windows"), contender_of("cross_covariance")
    yield from bench.findings(
        scores,
        f"{GLOBAL} > {windows}: corruption_top1",
        f"{GLOBAL} > {windows}: occlusion_top1",
        f"{channels} > {GLOBAL}: corruption_top1",
    )
    yield bench.difference_picture("robustness", scores, GLOBAL)


def dynamic_weights(run: Run) -> Iterator[Result]:
    """Self-attention and MLPs over tokens."""
    scores = bench.scores(run, contenders(), bench.robustness)
    fixed = contender_of("token_mlp")
    yield from bench.findings(scores, f"{GLOBAL} > {fixed}: top1", f"{GLOBAL} > {fixed}: corruption_top1")


def complexity(run: Run) -> Iterator[Result]:
    """Count multiply-adds over the number of tokens."""
    yield from scaling.complexity(scaling.counted())


def time_and_memory(run: Run) -> Iterator[Result]:
    """Time a forward pass, and take its peak memory, over the number of tokens."""
    quick = run.settings.quick
    costs = scaling.measured_costs(run.settings.device, quick)
    yield from scaling.time_and_memory(costs, quick)
    yield scaling.scaling_picture(scaling.counted(), costs, quick)


def long_range(run: Run) -> Iterator[Result]:
    """Ask which tokens an output depends on."""
    yield from reach.findings()
