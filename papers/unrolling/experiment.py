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
from papers.unrolling.settings import Experiment

CLASSICAL: dict[str, Callable[..., Iterator[Tensor]]] = {"ista": ista, "fista": fista}

#: A curve: the error in dB after 1, 2, ... steps or layers.
Curve = list[float]
#: Training steps whose losses are averaged for a point of a training's curve.
STEPS_A_POINT = 10


class Job(NamedTuple):
    """One solver on one problem.

    Attributes:
        settings: the experiment.
        seed: of the problem, and of the training.
        solver: of ``CLASSICAL`` or ``NETWORKS``.
        sparsity: lambda, for the first of these.
    """

    settings: Experiment
    seed: int
    solver: str
    sparsity: float = math.nan

    @property
    def label(self) -> str:
        """What the result is stored under."""
        sparsity = "" if math.isnan(self.sparsity) else f" lambda {self.sparsity}"
        return f"{self.settings.data} {self.settings.signal_size} {self.solver}{sparsity} seed {self.seed}"


class Outcome(NamedTuple):
    """What a job gives.

    Attributes:
        errors: on the test signals.
        losses: of a network's training, in dB, one a ``STEPS_A_POINT`` steps.
    """

    errors: Curve
    losses: Curve


def curves(run: Run, settings: Experiment) -> dict[str, list[Curve]]:
    """The curve of each solver for each seed; of ISTA and FISTA, at each step that of the best lambda so far.

    What an earlier call of the run has measured is taken from there.
    """
    jobs = _jobs(run, settings)
    missing = [job for job in jobs if not run.remembers(job.label)]
    for job, outcome in zip(missing, side_by_side(measure, missing, f"solving {settings.data}"), strict=True):
        run.memo(job.label, lambda outcome=outcome: outcome)
    found: dict[str, list[Curve]] = {}
    for solver in (*settings.networks, *CLASSICAL):
        for seed in run.seeds():
            same = [job for job in jobs if (job.solver, job.seed) == (solver, seed)]
            of_each = [_outcome(run, job).errors for job in same]
            found.setdefault(solver, []).append([min(errors) for errors in zip(*of_each, strict=True)])
    return found


def losses(run: Run, settings: Experiment) -> dict[str, list[Curve]]:
    """The curve of each network's training for each seed, after ``curves``."""
    found: dict[str, list[Curve]] = {solver: [] for solver in settings.networks}
    for job in _jobs(run, settings):
        if job.solver in found:
            found[job.solver].append(_outcome(run, job).losses)
    return found


def _jobs(run: Run, settings: Experiment) -> list[Job]:
    return [
        *(
            Job(settings, seed, solver, sparsity)
            for seed in run.seeds()
            for solver in CLASSICAL
            for sparsity in settings.sparsities
        ),
        *(Job(settings, seed, solver) for seed in run.seeds() for solver in settings.networks),
    ]


def _outcome(run: Run, job: Job) -> Outcome:
    return Outcome(*run.memo(job.label, lambda: measure(job)))


def measure(job: Job) -> Outcome:
    """The errors of a job, and how a network got there, on one thread."""
    with one_thread():
        posed = problem(job.settings, job.seed)
        if job.solver in CLASSICAL:
            codes = CLASSICAL[job.solver](posed.dictionary, posed.signals, job.sparsity)
            return Outcome([nmse(code, posed.codes) for code in islice(codes, job.settings.iterations)], [])
        network = build(job.settings, job.solver, posed.dictionary)
        losses = train(network, posed, job.settings, job.seed)
        with torch.no_grad():
            return Outcome([nmse(code, posed.codes) for code in network.double().codes(posed.signals)], losses)


def build(settings: Experiment, name: str, dictionary: Tensor) -> Unrolled:
    """The untrained network, with the first lambda of the settings as its threshold."""
    return NETWORKS[name](
        dictionary, settings.layers, settings.sparsities[0], settings.selected, settings.most_selected
    )


def train(network: Unrolled, posed: Problem, settings: Experiment, seed: int) -> Curve:
    """Train in float32; the loss is the error in dB (up to a factor), averaged over all layers.

    Returns:
        The loss in dB, one a ``STEPS_A_POINT`` steps.
    """
    # The problem itself is drawn from the seed as it is.
    generator = torch.Generator().manual_seed(1_000_003 + seed)
    network.float()
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
    seen = []
    for _ in range(settings.steps):
        signals, codes = (part.float() for part in posed.batch(settings.batch, generator))
        optimizer.zero_grad()
        value = loss(network, signals, codes)
        value.backward()
        seen.append(10 / math.log(10) * value.item())
        nn.utils.clip_grad_norm_(parameters, settings.clip_gradient)
        optimizer.step()
        schedule.step()
    points = [seen[first : first + STEPS_A_POINT] for first in range(0, len(seen), STEPS_A_POINT)]
    return [math.fsum(point) / len(point) for point in points]


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
