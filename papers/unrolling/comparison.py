"""What curves of error over steps say: errors, factors between learned and classical solvers, the classic figure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from common import figures
from common.measurement import Finding, FindingVerdict, Picture, Result
from common.statistics import Estimate, mean_interval
from common.verdicts import mean_measurement
from papers.unrolling.experiment import CLASSICAL, STEPS_A_POINT, Curve, first_below
from papers.unrolling.settings import Experiment

#: The survey's order of magnitude.
FACTOR = 10.0


def dataset(settings: Experiment) -> str:
    """The name of the data in measurements."""
    size = f"{settings.signal_size}x{settings.code_size}"
    return {"gaussian": f"gaussian-{size}", "patches": f"fashion-mnist-patches-{size}"}[settings.data]


def results(found: dict[str, list[Curve]], losses: dict[str, list[Curve]], settings: Experiment) -> Iterator[Result]:
    """Errors at the last layer, factors in steps at a quarter of the layers and at all of them, and figures.

    Args:
        found: what ``experiment.curves`` gives.
        losses: what ``experiment.losses`` gives.
        settings: of both.
    """
    for solver, of_seeds in found.items():
        yield mean_measurement(
            [curve[settings.layers - 1] for curve in of_seeds],
            model=solver,
            dataset=dataset(settings),
            metric="nmse",
            unit="dB",
            weights="none" if solver in CLASSICAL else "trained",
            n=settings.test_signals,
            protocol=f"nmse/1 after {settings.layers} steps or layers, float64",
            detail={"curves_db": [[round(error, 6) for error in curve[: settings.layers]] for curve in of_seeds]},
        )
    for solver in settings.networks:
        for layers in (settings.layers // 4, settings.layers):
            yield _factor(solver, layers, found, settings)
    yield _classic_figure(found, settings)
    yield _factor_figure(found, settings)
    yield _training_figure(losses, settings)


def factors(network: list[Curve], classical: list[Curve], layers: int) -> tuple[list[float], bool]:
    """How many times the steps a classical solver needs for the error of a network's first ``layers``, for each seed.

    Returns:
        The factors, and whether one of them is only a lower bound, since the error was not reached.
    """
    steps = [first_below(slow, fast[layers - 1]) for fast, slow in zip(network, classical, strict=True)]
    values = [(len(slow) if n is None else n) / layers for n, slow in zip(steps, classical, strict=True)]
    return values, None in steps


def judge(values: list[float], bounded: bool) -> tuple[FindingVerdict, Estimate]:
    """Whether the geometric mean of factors is at least ``FACTOR``, with its interval.

    Lower bounds can show that it is, but never that it is not. Equal factors at all seeds come from counting whole
    steps, not from certainty, unless they are bounds.
    """
    estimate = Estimate(*(float(np.exp(end)) for end in mean_interval(np.log(values))))
    equal = len(set(values)) == 1
    if bounded and min(values) >= FACTOR:
        return "holds", estimate
    if equal and len(values) > 1:
        estimate = Estimate(estimate.value, 0.0, np.inf)
    if estimate.low >= FACTOR:
        return "holds", estimate
    if estimate.high < FACTOR and not bounded:
        return "does not hold", estimate
    return "unclear", estimate


def _factor(solver: str, layers: int, found: dict[str, list[Curve]], settings: Experiment) -> Finding:
    values, bounded = factors(found[solver], found["ista"], layers)
    verdict, estimate = judge(values, bounded)
    interval = (estimate.low, estimate.high) if 0 < estimate.low < estimate.high < np.inf and not bounded else None
    spread = f", 95 % interval {interval[0]:.1f} to {interval[1]:.1f}" if interval else ""
    reached = float(np.mean([curve[layers - 1] for curve in found[solver]]))
    against_fista, cut = factors(found[solver], found["fista"], layers)
    return Finding(
        name=f"{solver}_{layers}_layers",
        statement=(
            f"{dataset(settings)}: what {layers} layers of {solver} reach takes ISTA at least ten times as many steps."
        ),
        verdict=verdict,
        evidence=(
            f"{'More than ' if bounded else ''}{estimate.value:.1f} times the steps{spread}; FISTA: "
            f"{'more than ' if cut else ''}{np.exp(np.mean(np.log(against_fista))):.1f} times; to {reached:.1f} dB, "
            f"{len(values)} seeds, at most {settings.iterations} steps."
        ),
        value=estimate.value,
        interval=interval,
        seeds=len(values),
    )


def _classic_figure(found: dict[str, list[Curve]], settings: Experiment) -> Picture:
    lines = {}
    for solver, of_seeds in found.items():
        mean = np.mean(of_seeds, axis=0)
        shown = (
            np.unique(np.geomspace(1, len(mean), 40).astype(int)) if solver in CLASSICAL else range(1, len(mean) + 1)
        )
        lines[solver] = ([int(step) for step in shown], [float(mean[step - 1]) for step in shown])
    best = " (with the best lambda at each step)" if len(settings.sparsities) > 1 else ""
    return Picture(
        name=f"error_over_steps_{settings.data}",
        caption=(
            f"Normalised mean squared error of the codes over steps of ISTA and FISTA{best} and layers of trained "
            f"networks; {dataset(settings)}, mean of {len(found['ista'])} seeds."
        ),
        svg=figures.curves(
            f"error_over_steps_{settings.data}", lines, xlabel="steps or layers", ylabel="NMSE in dB", logx=True
        ),
    )


def _factor_figure(found: dict[str, list[Curve]], settings: Experiment) -> Picture:
    lines = {}
    for solver in settings.networks:
        reached = range(1, settings.layers + 1)
        kept = [(k, factors(found[solver], found["ista"], k)) for k in reached]
        exact = [(k, float(np.exp(np.mean(np.log(values))))) for k, (values, bounded) in kept if not bounded]
        # A network without a point keeps its place, and so the others their colours of the classic figure.
        lines[solver] = ([k for k, _ in exact], [factor for _, factor in exact])
    lines["ten times"] = ([1, settings.layers], [FACTOR, FACTOR])
    return Picture(
        name=f"factor_{settings.data}",
        caption=(
            "Steps of ISTA over layers of a network at the network's error, by layer (geometric mean over seeds); a "
            f"line ends where ISTA does not reach the error within {settings.iterations} steps."
        ),
        svg=figures.curves(f"factor_{settings.data}", lines, xlabel="layers", ylabel="ISTA steps / layers", logy=True),
    )


def _training_figure(losses: dict[str, list[Curve]], settings: Experiment) -> Picture:
    lines = {}
    for solver, of_seeds in losses.items():
        mean = [float(point) for point in np.mean(of_seeds, axis=0)]
        lines[solver] = ([min((k + 1) * STEPS_A_POINT, settings.steps) for k in range(len(mean))], mean)
    seeds = len(next(iter(losses.values())))
    return Picture(
        name=f"training_{settings.data}",
        caption=(
            f"Training: normalised mean squared error of the training codes, averaged over all layers in dB, mean of "
            f"{STEPS_A_POINT} steps and {seeds} seeds; {dataset(settings)}."
        ),
        svg=figures.curves(
            f"training_{settings.data}", lines, xlabel="training steps", ylabel="mean NMSE in dB", markers=False
        ),
    )
