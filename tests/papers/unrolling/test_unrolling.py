"""The solvers of common/sparse_coding.py and the unrolled networks: known answers, bounds, identities, determinism."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor

from common.errors import UserError
from common.run import Run
from common.run import Settings as RunSettings
from common.sparse_coding import duality_gap, fista, ista, lasso, lipschitz, shrunk_affine, soft_threshold, solve
from common.training.recipe import load_as
from papers.unrolling import PAPER, analytic, claims, comparison, equal_error, experiment
from papers.unrolling.experiment import CLASSICAL, Job, build, curves, first_below, losses, measure, train
from papers.unrolling.networks import LISTA, NETWORKS, TiLISTA
from papers.unrolling.problems import nmse, patches, problem
from papers.unrolling.settings import RECIPE, Experiment

SPARSITY = 0.1
TINY = dataclasses.replace(
    load_as(Experiment, RECIPE, "gaussian", quick=True),
    signal_size=20, code_size=40, layers=4, steps=60, test_signals=64, iterations=50, sparsities=(0.1, 0.05),
)  # fmt: skip


@pytest.fixture(scope="module")
def posed() -> tuple[Tensor, Tensor]:
    """A dictionary (20, 40) and signals (20, 8)."""
    generator = torch.Generator().manual_seed(0)
    dictionary = torch.randn(20, 40, generator=generator, dtype=torch.float64)
    return dictionary / dictionary.norm(dim=0), torch.randn(20, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("threshold", [0.5, torch.tensor(0.5), torch.full((5,), 0.5)])
def test_soft_threshold(threshold: Tensor | float) -> None:
    x = torch.tensor([-2.0, -0.5, 0.25, 0.5, 3.0])
    assert soft_threshold(x, threshold).tolist() == [-1.5, 0.0, 0.0, 0.0, 2.5]


def test_lipschitz_is_the_largest_eigenvalue(posed: tuple[Tensor, Tensor]) -> None:
    dictionary, _ = posed
    assert lipschitz(dictionary) == pytest.approx(float(torch.linalg.eigvalsh(dictionary.T @ dictionary)[-1]))


def test_an_orthogonal_dictionary_is_solved_in_one_step() -> None:
    basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    signals = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(next(ista(basis, signals, SPARSITY)), soft_threshold(basis.T @ signals, SPARSITY))


def test_ista_never_rises_and_both_keep_their_bounds(posed: tuple[Tensor, Tensor]) -> None:
    dictionary, signals = posed
    solution = solve(dictionary, signals, SPARSITY, tolerance=1e-12)
    best, scale = lasso(dictionary, signals, solution, SPARSITY), lipschitz(dictionary) * solution.square().sum(dim=0)
    steps = torch.arange(1, 201)[:, None]
    for solver, bound in ((ista, scale / (2 * steps)), (fista, 2 * scale / (steps + 1).square())):
        values = torch.stack(
            [lasso(dictionary, signals, code, SPARSITY) for code in islice(solver(dictionary, signals, SPARSITY), 200)]
        )
        assert (values - best <= bound).all()
        if solver is ista:
            assert (values.diff(dim=0) <= 1e-12).all()


def test_solution_is_that_of_coordinate_descent(posed: tuple[Tensor, Tensor]) -> None:
    dictionary, signals = posed
    solver = Lasso(alpha=SPARSITY / len(signals), fit_intercept=False, tol=1e-12, max_iter=100_000)
    theirs = solver.fit(dictionary.numpy(), signals.numpy()).coef_.T
    np.testing.assert_allclose(solve(dictionary, signals, SPARSITY, tolerance=1e-13).numpy(), theirs, atol=1e-6)


def test_duality_gap_bounds_what_is_missing(posed: tuple[Tensor, Tensor]) -> None:
    dictionary, signals = posed
    best = lasso(dictionary, signals, solve(dictionary, signals, SPARSITY, tolerance=1e-13), SPARSITY)
    for code in islice(ista(dictionary, signals, SPARSITY), 30):
        missing = lasso(dictionary, signals, code, SPARSITY) - best
        assert (duality_gap(dictionary, signals, code, SPARSITY) >= missing - 1e-12).all()


def test_a_lasso_that_is_not_solved_is_refused(posed: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="after 30 steps; allow more steps"):
        solve(*posed, SPARSITY, most_steps=30)


@pytest.mark.parametrize("batched", [False, True])
def test_shrunk_affine_is_a_step_of_ista(posed: tuple[Tensor, Tensor], batched: bool) -> None:
    dictionary, signals = (part.expand(3, -1, -1) if batched else part for part in posed)
    step = 0.1
    gram, drive = dictionary.mT @ dictionary, dictionary.mT @ signals
    code = soft_threshold(drive, SPARSITY)
    _, ours = shrunk_affine(step * drive.mT, torch.eye(40) - step * gram, code.mT, SPARSITY * step)
    expected = next(ista(dictionary, signals, SPARSITY, step=step, start=code))
    torch.testing.assert_close(ours.mT, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["lista", "lista_untied", "tilista"])
def test_untrained_network_is_ista(name: str, posed: tuple[Tensor, Tensor]) -> None:
    dictionary, signals = posed
    network = NETWORKS[name](dictionary, 6, SPARSITY, 0.0, 0.0)
    expected = list(islice(ista(dictionary, signals, SPARSITY), 6))
    with torch.no_grad():
        found = list(network.codes(signals))
        torch.testing.assert_close(network(signals), found[-1])
    assert len(found) == 6
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_what_each_network_learns(posed: tuple[Tensor, Tensor]) -> None:
    dictionary, _ = posed

    def learned(name: str) -> int:
        parameters = NETWORKS[name](dictionary, 4, SPARSITY, 0.0, 0.0).parameters()
        return sum(p.numel() for p in parameters if p.requires_grad)

    n, m, layers = 20, 40, 4
    assert learned("lista") == n * m + m * m + m
    assert learned("lista_untied") == layers * (n * m + m) + (layers - 1) * m * m
    assert learned("tilista") == n * m + 2 * layers
    assert learned("alista") == 2 * layers


def test_support_selection_leaves_the_largest_entries_unshrunk(posed: tuple[Tensor, Tensor]) -> None:
    dictionary, signals = posed
    with torch.no_grad():
        plain = next(TiLISTA(dictionary, 1, SPARSITY, learned_weights=True).codes(signals))
        network = TiLISTA(dictionary, 1, SPARSITY, learned_weights=True, selected=0.1, most_selected=0.1)
        chosen = next(network.codes(signals))
        threshold = float(network.log_threshold.exp())
    unshrunk = (chosen.abs() - plain.abs()) > 0.5 * threshold
    assert (unshrunk.sum(dim=0) == 4).all()
    assert torch.equal(chosen[~unshrunk], plain[~unshrunk])
    assert float(plain.abs()[~unshrunk].max()) <= float(chosen.abs()[unshrunk].max())


def test_analytic_weights(posed: tuple[Tensor, Tensor]) -> None:
    dictionary, _ = posed
    weight = analytic.weights(dictionary)
    torch.testing.assert_close((weight * dictionary).sum(dim=0), torch.ones(40, dtype=torch.float64))
    norm = (weight.T @ dictionary).norm()
    for seed in range(1, 6):
        other = torch.randn(20, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        # Any other that keeps the constraint: without the part along each atom.
        other -= (other * dictionary).sum(dim=0) * dictionary
        assert ((weight + 0.01 * other).T @ dictionary).norm() > norm
    least = max(analytic.least_coherence(dictionary, atom) for atom in range(40))
    own = analytic.coherence(dictionary, dictionary)
    assert least < analytic.coherence(weight, dictionary) < own


def test_an_orthogonal_dictionary_has_no_coherence() -> None:
    basis = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(analytic.weights(basis), basis)
    assert analytic.least_coherence(basis, 2) == pytest.approx(0)


def test_trained_networks_beat_ista_at_equal_layers() -> None:
    classical = min(measure(Job(TINY, 0, "ista", sparsity)).errors[TINY.layers - 1] for sparsity in TINY.sparsities)
    for name in ("lista", "alista"):
        outcome = measure(Job(TINY, 0, name))
        assert outcome.errors[-1] < classical - 1, name
        assert len(outcome.losses) == TINY.steps // 10
        assert outcome.losses[-1] < outcome.losses[0] - 0.5, name


def test_training_changes_only_what_is_learned() -> None:
    posed = problem(TINY, 0)
    network = build(TINY, "alista", posed.dictionary)
    before = network.weight.detach().float().clone()
    assert len(train(network, posed, dataclasses.replace(TINY, steps=13), seed=0)) == 2
    assert torch.equal(network.weight, before)
    assert len(network.log_step.unique()) > 1


SCRIPT = """
import json, sys
from papers.unrolling.experiment import Job, measure
from papers.unrolling.settings import Experiment
settings = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(sys.argv[1]).items()}
print(json.dumps([measure(Job(Experiment(**settings), 1, name, 0.1)) for name in ("fista", "lista", "alista")]))
"""


def test_a_second_run_gives_the_same_digits() -> None:
    """In another process, with another number of threads at its start."""
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(dataclasses.asdict(TINY))], cwd=root, capture_output=True,
        text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    ours = [measure(Job(TINY, 1, name, 0.1)) for name in ("fista", "lista", "alista")]
    assert json.loads(done.stdout.splitlines()[-1]) == [list(outcome) for outcome in ours]


def test_curves_and_trainings_are_those_of_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "side_by_side", lambda function, jobs, description: map(function, jobs))
    settings = dataclasses.replace(TINY, networks=("lista", "alista"), steps=20)
    run = Run(PAPER, RunSettings(quick=True), tmp_path)
    found, trained = curves(run, settings), losses(run, settings)
    assert list(found) == ["lista", "alista", *CLASSICAL]
    assert list(trained) == ["lista", "alista"]
    assert found["alista"][1] == measure(Job(settings, 1, "alista")).errors
    assert trained["lista"][0] == measure(Job(settings, 0, "lista")).losses
    pictures = {r.name: r for r in comparison.results(found, trained, settings) if hasattr(r, "svg")}
    assert set(pictures) == {"error_over_steps_gaussian", "factor_gaussian", "training_gaussian"}
    assert "2 seeds" in pictures["training_gaussian"].caption


def test_patches_have_zero_mean_and_unit_norm() -> None:
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = patches(images, 50, 8, torch.Generator().manual_seed(0))
    assert found.shape == (64, 50)
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(50, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.norm(dim=0), torch.ones(50, dtype=torch.float64))
    with pytest.raises(UserError, match="not plain"):
        patches(torch.zeros_like(images), 5, 8, torch.Generator())


def test_nmse_of_known_codes() -> None:
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert nmse(torch.zeros_like(truth), truth) == 0
    assert nmse(0.9 * truth, truth) == pytest.approx(-20)


def test_steps_to_an_error() -> None:
    assert first_below([-1.0, -3.0, -5.0], -3.0) == 2
    assert first_below([-1.0, -3.0], -4.0) is None
    assert comparison.factors([[-3.0, -5.0]], [[-1.0, -3.0, -4.0, -5.0]], 2) == ([2.0], False)
    assert comparison.factors([[-3.0, -9.0]], [[-1.0, -3.0, -4.0, -5.0]], 2) == ([2.0], True)


@pytest.mark.parametrize(
    ("values", "bounded", "verdict"),
    [
        ([20.0, 22.0, 21.0], False, "holds"),
        ([2.0, 2.2, 2.1], False, "does not hold"),
        ([5.0, 20.0, 40.0], False, "unclear"),
        ([2.0, 2.0, 2.0], False, "unclear"),  # equal because whole steps are counted
        ([60.0, 60.0, 60.0], True, "holds"),
        ([2.0, 2.2, 2.1], True, "unclear"),  # lower bounds never show that it does not hold
    ],
)
def test_verdict_on_factors(values: list[float], bounded: bool, verdict: str) -> None:
    assert comparison.judge(values, bounded)[0] == verdict


@pytest.mark.parametrize("name", ["convergence", "analytic_weights", "vars_is_unrolled"])
def test_identities_hold(name: str, tmp_path: Path) -> None:
    run = Run(PAPER, RunSettings(quick=True), tmp_path)
    found = [result for result in getattr(claims, name)(run) if hasattr(result, "verdict")]
    assert found
    assert {finding.verdict for finding in found} == {"holds"}


def test_equal_error_counts_and_times_what_reaches_it() -> None:
    settings = dataclasses.replace(TINY, networks=("lista", "alista"), equal_error=-3.0)
    slow, fast, never = [-1.0, -2.0, -2.5, -3.0, -4.0], [-2.0, -3.5], [-1.0, -2.0]
    found = {"ista": [slow, slow], "fista": [slow, slow], "lista": [fast, fast], "alista": [never, fast]}
    results = list(equal_error.results(found, settings, quick=True))
    values = {(r.model, r.metric): r.value for r in results if hasattr(r, "metric")}
    n, m = 20, 40
    assert values["ista", "equal_error_steps"] == 4
    assert values["lista", "equal_error_steps"] == 2
    assert values["ista", "equal_error_flops"] * 1e6 == n * m + 3 * 2 * n * m
    assert values["lista", "equal_error_flops"] * 1e6 == n * m + m * m
    assert ("alista", "equal_error_time") not in values
    verdicts = {r.statement.split()[-5]: r.verdict for r in results if hasattr(r, "verdict")}
    assert verdicts["alista"] == "does not hold"


def test_lista_of_one_layer_is_an_encoder(posed: tuple[Tensor, Tensor]) -> None:
    dictionary, signals = posed
    network = LISTA(dictionary, 1, SPARSITY)
    step = 1 / lipschitz(dictionary)
    expected = soft_threshold(step * dictionary.T @ signals, SPARSITY * step)
    torch.testing.assert_close(network(signals).detach(), expected)
    assert math.isclose(network.log_threshold[0][0].exp().item(), SPARSITY * step)
