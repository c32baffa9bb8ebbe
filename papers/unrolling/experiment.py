"""Errors over steps of ISTA, FISTA and trained networks on one problem, the same to the last digit in every run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from common.parallel import side_by_side
from common.run import Run
from common.sparse_coding import fista, ista
from papers.unrolling.networks import NETWORKS, Unrolled
from papers.unrolling.problems import Problem, nmse, problem
from papers.unrolling.settings import Settings

CLASSICAL: dict[str, Callable[..., Iterator[Tensor]]] = {"ista": ista, "fista": fista}

#: Points of a loss curve.
POINTS = 40
#: From natural logarithms of powers to dB.
DECIBEL = 10 / math.log(10)

#: A curve: the error in dB after 1, 2, ... steps or layers.
Curve = list[float]


class Job(NamedTuple):
    """One solver on one problem.

    Attributes:
        settings: the experiment.
        seed: of the problem, and of the training.
        solver: of ``CLASSICAL`` or ``NETWORKS``.
        sparsity: lambda, for the first of these.
    """

    settings: Settings
    seed: int
    solver: str
    sparsity: float = math.nan

    @property
    def label(self) -> str:
        """What the result is stored under."""
        sparsity = "" if math.isnan(self.sparsity) else f" lambda {self.sparsity}"
        return f"{self.settings.data} {self.settings.signal_size} {self.solver}{sparsity} seed {self.seed} and losses"


class Measured(NamedTuple):
    """What a job gives.

    Attributes:
        errors: after 1, 2, ... steps or layers.
        losses: during training, in dB, mean over the layers, ``POINTS`` of them; none of a solver without training.
    """

    errors: Curve
    losses: Curve


def curves(run: Run, settings: Settings) -> tuple[dict[str, list[Curve]], dict[str, list[Curve]]]:
    """The curve of each solver for each seed, and the losses of each network's trainings.

    Of ISTA and FISTA, the error at each step is that of the best lambda so far. What an earlier call of the run has
    measured is taken from there.
    """
    jobs = [
        *(
            Job(settings, seed, solver, sparsity)
            for seed in run.seeds()
            for solver in CLASSICAL
            for sparsity in settings.sparsities
        ),
        *(Job(settings, seed, solver) for seed in run.seeds() for solver in settings.networks),
    ]
    missing = [job for job in jobs if not run.remembers(job.label)]
    for job, measured in zip(missing, side_by_side(measure, missing, f"solving {settings.data}"), strict=True):
        run.memo(job.label, lambda measured=measured: measured._asdict())
    found: dict[str, list[Curve]] = {}
    losses: dict[str, list[Curve]] = {}
    for solver in (*CLASSICAL, *settings.networks):
        for seed in run.seeds():
            same = [job for job in jobs if (job.solver, job.seed) == (solver, seed)]
            of_each = [run.memo(job.label, lambda job=job: measure(job)._asdict()) for job in same]
            errors = zip(*(each["errors"] for each in of_each), strict=True)
            found.setdefault(solver, []).append([min(at_step) for at_step in errors])
            if solver in settings.networks:
                losses.setdefault(solver, []).append(of_each[0]["losses"])
    return found, losses


def measure(job: Job) -> Measured:
    """What a job gives, on one thread."""
    with one_thread():
        posed = problem(job.settings, job.seed)
        if job.solver in CLASSICAL:
            codes = CLASSICAL[job.solver](posed.dictionary, posed.signals, job.sparsity)
            return Measured([nmse(code, posed.codes) for code in islice(codes, job.settings.iterations)], [])
        losses: Curve = []
        network = trained(build(job.settings, job.solver, posed.dictionary), posed, job.settings, job.seed, losses)
        with torch.no_grad():
            return Measured([nmse(code, posed.codes) for code in network.double().codes(posed.signals)], losses)


def build(settings: Settings, name: str, dictionary: Tensor) -> Unrolled:
    """The untrained network, with the first lambda of the settings as its threshold."""
    return NETWORKS[name](
        dictionary, settings.layers, settings.sparsities[0], settings.selected, settings.most_selected
    )


def trained(network: Unrolled, posed: Problem, settings: Settings, seed: int, losses: Curve | None = None) -> Unrolled:
    """Train in float32; the loss is the error in dB (up to a factor), averaged over all layers.

    Args:
        network: trained in place and returned.
        posed: the problem.
        settings: of the training.
        seed: of its batches.
        losses: takes ``POINTS`` means of the loss over equal parts of the training, in dB.
    """
    # The problem itself is drawn from the seed as it is.
    generator = torch.Generator().manual_seed(1_000_003 + seed)
    network = network.float()
    parameters = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in parameters if _is_matrix(p)]
    scalars = [p for p in parameters if not _is_matrix(p)]
    groups = [
        {"params": group, "lr": rate}
        for group, rate in ((matrices, settings.matrix_rate), (scalars, settings.scalar_rate))
        if group
    ]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=settings.steps, pct_start=settings.warmup,
        cycle_momentum=False,
    )  # fmt: skip
    part_losses: list[float] = []
    for step in range(settings.steps):
        signals, codes = (part.float() for part in posed.batch(settings.batch, generator))
        optimizer.zero_grad()
        error = loss(network, signals, codes)
        error.backward()
        nn.utils.clip_grad_norm_(parameters, settings.clip_gradient)
        optimizer.step()
        schedule.step()
        part_losses.append(DECIBEL * error.item())
        if losses is not None and (step + 1) * POINTS // settings.steps > step * POINTS // settings.steps:
            losses.append(sum(part_losses) / len(part_losses))
            part_losses.clear()
    return network


def loss(network: Unrolled, signals: Tensor, truth: Tensor) -> Tensor:
    """Mean over layers of the logarithm of the normalised error, so that each layer's dB count alike."""
    energy = truth.square().sum()
    return torch.stack([((code - truth).square().sum() / energy).log() for code in network.codes(signals)]).mean()


def first_below(curve: Curve, error: float) -> int | None:
    """The number of steps after which the error is at most ``error`` dB, or None where it never is."""
    return next((step for step, reached in enumerate(curve, start=1) if reached <= error), None)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, since sums over several are rounded as the work happens to be split."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.dim() == 2 and min(parameter.shape) > 1
