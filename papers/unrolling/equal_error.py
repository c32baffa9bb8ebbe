"""What it costs each solver to reach the same error: multiply-adds and milliseconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from common.measurement import Finding, Measurement, Result
from common.profiling import Comparison, compare_cost, flops, forward, ratio_finding
from common.sparse_coding import lipschitz
from papers.unrolling.comparison import dataset
from papers.unrolling.experiment import CLASSICAL, Curve, build, first_below, one_thread
from papers.unrolling.networks import Unrolled
from papers.unrolling.problems import problem
from papers.unrolling.settings import Experiment


class Truncated(nn.Module):
    """The code after a number of steps of a solver: (N, d) -> (m, d).

    Args:
        solver: gives the codes after each step for signals, or a network.
        steps: how many.
    """

    def __init__(self, solver: Callable[[Tensor], Iterator[Tensor]] | Unrolled, steps: int) -> None:
        super().__init__()
        self.solver, self.steps = solver, steps

    def forward(self, signals: Tensor) -> Tensor:
        """Solve for ``signals``."""
        codes = self.solver.codes if isinstance(self.solver, Unrolled) else self.solver
        *_, code = islice(codes(signals), self.steps)
        return code


def results(found: dict[str, list[Curve]], settings: Experiment, *, quick: bool) -> Iterator[Result]:
    """Steps, multiply-adds and time of each solver to the setting's error, and the networks' time against FISTA's."""
    error = settings.equal_error
    needed = {solver: [first_below(curve, error) for curve in of_seeds] for solver, of_seeds in found.items()}
    steps = {
        solver: round(statistics.median(n for n in counts if n is not None))
        for solver, counts in needed.items()
        if None not in counts
    }
    with one_thread(), torch.no_grad():
        posed = problem(settings, 0)
        dictionary, signals = posed.dictionary.float(), posed.signals.float()
        solvers = {solver: Truncated(_solver(solver, dictionary, settings), count) for solver, count in steps.items()}
        operations = {solver: flops(module, inputs=signals[:, :1]).total for solver, module in solvers.items()}
        costs = compare_cost(
            {solver: forward(module, signals) for solver, module in solvers.items()},
            baseline="fista" if "fista" in solvers else next(iter(solvers)),
            rounds=6 if quick else 15,
            memory=False,
            description=f"timing {settings.data}",
        )
    for solver, comparison in costs.items():
        seconds = comparison.cost.seconds
        shared = {"model": solver, "dataset": dataset(settings), "n": signals.shape[1], "seeds": len(needed[solver])}
        yield Measurement(
            **shared,
            metric="equal_error_steps",
            value=steps[solver],
            protocol=f"equal_error/1 to {error:g} dB, median over seeds",
            detail={"steps": needed[solver]},
        )
        yield Measurement(
            **shared,
            metric="equal_error_flops",
            value=operations[solver] / 1e6,
            unit="M",
            protocol=f"equal_error/1 to {error:g} dB, multiply-adds a signal, fvcore's conventions",
        )
        yield Measurement(
            **shared,
            metric="equal_error_time",
            value=1000 * seconds.median,
            unit="ms",
            protocol=f"equal_error/1 to {error:g} dB, median, {signals.shape[1]} signals at once, float32, one thread",
            detail={"quartiles_ms": [1000 * seconds.low, 1000 * seconds.high]},
        )
    for solver in settings.networks:
        yield _faster(solver, settings, steps, operations, costs)


def _faster(
    solver: str,
    settings: Experiment,
    steps: dict[str, int],
    operations: dict[str, int],
    costs: dict[str, Comparison],
) -> Finding:
    name = f"{settings.data}_{solver}"
    statement = f"{dataset(settings)}: to {settings.equal_error:g} dB {solver} is faster than FISTA."
    for needed, verdict in ((solver, "does not hold"), ("fista", "holds")):
        if needed not in costs:
            most = settings.iterations if needed in CLASSICAL else settings.layers
            return Finding(
                name=name,
                statement=statement,
                verdict=verdict,
                evidence=f"For some seed {needed} does not reach the error in its {most} steps or layers.",
            )
    ista = (
        f"ISTA takes {steps['ista']} steps, {operations['ista'] / operations[solver]:.1f} times the multiply-adds and "
        f"{costs['ista'].cost.seconds.median / costs[solver].cost.seconds.median:.1f} times the time"
        if "ista" in costs
        else f"ISTA does not reach the error within {settings.iterations} steps"
    )
    return ratio_finding(
        statement,
        costs[solver].time_ratio,
        1.0,
        whose="FISTA's",
        name=name,
        rest=(
            f", {operations[solver] / operations['fista']:.2f} times its multiply-adds; {steps[solver]} layers "
            f"against {steps['fista']} steps; {ista}"
        ),
    )


def _solver(solver: str, dictionary: Tensor, settings: Experiment) -> Callable[[Tensor], Iterator[Tensor]] | Unrolled:
    """The solver; what depends on the dictionary alone is computed beforehand."""
    if solver in CLASSICAL:
        step, sparsity = 1 / lipschitz(dictionary), settings.sparsities[0]
        return partial(CLASSICAL[solver], dictionary, sparsity=sparsity, step=step)
    return build(settings, solver, dictionary)
