"""How the survey's claims are measured."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from sklearn.linear_model import Lasso

from common import figures
from common.measurement import Finding, Picture, Result
from common.run import Run
from common.sparse_coding import fista, ista, lasso, lipschitz, soft_threshold, solve
from papers.unrolling import analytic, comparison, equal_error
from papers.unrolling.experiment import curves, losses, one_thread
from papers.unrolling.settings import load
from papers.vars.dynamic import VARSDynamic, VARSStaticDynamic

#: Of the identities: a Gaussian dictionary, small enough for exact solutions.
SIZE, SPARSITY = (50, 100), 0.1


def convergence(run: Run) -> Iterator[Result]:
    """ISTA and FISTA against their bounds, and their limit against scikit-learn's coordinate descent."""
    with one_thread():
        dictionary = _gaussian(run.settings.seed)
        signals = torch.randn(SIZE[0], 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        solution = solve(dictionary, signals, SPARSITY, tolerance=1e-12)
        best, bound = lasso(dictionary, signals, solution, SPARSITY), lipschitz(dictionary)
        steps = torch.arange(1, 1001, dtype=torch.float64)[:, None]
        distance = solution.square().sum(dim=0)
        bounds = {"ISTA": bound * distance / (2 * steps), "FISTA": 2 * bound * distance / (steps + 1).square()}
        objectives = {
            name: torch.stack(
                [
                    lasso(dictionary, signals, code, SPARSITY)
                    for code in islice(solver(dictionary, signals, SPARSITY), len(steps))
                ]
            )
            for name, solver in (("ISTA", ista), ("FISTA", fista))
        }
    yield from _bounds({name: values - best for name, values in objectives.items()}, bounds)
    rise = float((objectives["ISTA"][1:] - objectives["ISTA"][:-1]).max())
    yield Finding.exactly(
        name="ista_descends",
        statement="The objective never rises under ISTA.",
        holds=rise <= 1e-12,
        evidence=f"Largest change in {len(steps)} steps of {signals.shape[1]} signals: {rise:+.1e}.",
        value=rise,
    )
    # scikit-learn divides the squared error by the number of rows.
    solver = Lasso(alpha=SPARSITY / SIZE[0], fit_intercept=False, tol=1e-10, max_iter=100_000)
    theirs = torch.from_numpy(solver.fit(dictionary.numpy(), signals.numpy()).coef_.T.copy())
    apart = float((theirs - solution).norm() / solution.norm())
    yield Finding.exactly(
        name="limit",
        statement="FISTA's limit is the solution that coordinate descent finds.",
        holds=apart < 1e-4,
        evidence=f"Codes differ by {apart:.1e} of their norm from scikit-learn's Lasso (bound 1e-4).",
        value=apart,
    )
    shown = [0, *np.unique(np.geomspace(1, len(steps) - 1, 40).astype(int))]
    lines = {}
    for name, values in objectives.items():
        for label, y in ((name, values - best), (f"{name}, bound", bounds[name])):
            lines[label] = ([k + 1 for k in shown], [max(float((y / best).amax(dim=1)[k]), 1e-14) for k in shown])
    yield Picture(
        name="convergence",
        caption="Objective above the optimum, relative, of the worst of 20 signals, beside the bounds.",
        svg=figures.curves(
            "convergence", lines, xlabel="steps", ylabel="relative gap", logx=True, logy=True, markers=False
        ),
    )


def _bounds(gaps: dict[str, torch.Tensor], bounds: dict[str, torch.Tensor]) -> Iterator[Finding]:
    for name, rate in (("ISTA", "L ||u*||^2 / (2 k)"), ("FISTA", "2 L ||u*||^2 / (k + 1)^2")):
        share = float((gaps[name] / bounds[name]).max())
        yield Finding.exactly(
            name=f"bound_of_{name.lower()}",
            statement=f"{name}'s objective is within {rate} of the optimum after k steps from zero.",
            holds=share <= 1,
            evidence=f"At most {share:.3f} of the bound over {len(gaps[name])} steps (Beck and Teboulle, 2009).",
            value=share,
        )


def analytic_weights(run: Run) -> Iterator[Result]:
    """The constraint and optimality of the analytic weights; their coherence beside the least possible."""
    own, analytic_, least, off = [], [], [], 0.0
    with one_thread():
        for seed in run.seeds():
            dictionary = _gaussian(seed)
            weight = analytic.weights(dictionary)
            unit = (weight * dictionary).sum(dim=0)
            # At the minimum the gradient P P^T w_i is a multiple of p_i, the gradient of the constraint.
            gradient = dictionary @ (dictionary.T @ weight)
            multiple = (gradient * dictionary).sum(dim=0)
            off = max(off, float((unit - 1).abs().max()), float((gradient - multiple * dictionary).abs().max()))
            own.append(analytic.coherence(dictionary, dictionary))
            analytic_.append(analytic.coherence(weight, dictionary))
            least.append(max(analytic.least_coherence(dictionary, atom) for atom in range(SIZE[1])))
    yield Finding.exactly(
        name="closed_form",
        statement="The closed form solves min ||W^T P||_F with w_i^T p_i = 1.",
        holds=off < 1e-10,
        evidence=f"Constraint and optimality condition are met to {off:.1e} (bound 1e-10), {len(own)} dictionaries.",
        value=off,
    )
    lower = max(a - b for a, b in zip(analytic_, own, strict=True)) < 0
    yield Finding(
        name="coherence",
        statement="Analytic weights are less coherent with the dictionary than the dictionary with itself.",
        verdict="holds" if lower else "does not hold",
        evidence=(
            f"Largest product with another atom: {np.mean(own):.3f} of the dictionary itself, "
            f"{np.mean(analytic_):.3f} of the analytic weights, {np.mean(least):.3f} at the minimum (generalised "
            f"mutual coherence, by linear programming); means of {len(own)} Gaussian dictionaries."
        ),
        value=float(np.mean(analytic_)),
    )


def vars_is_unrolled(run: Run) -> Iterator[Result]:
    """The codes of VARS's attention after each step against ISTA on its templates and values."""
    steps = 10
    for name, kind, arguments in (
        ("VARS-D", VARSDynamic, {}),
        ("VARS-SD", VARSStaticDynamic, {"grid": (7, 7)}),
    ):
        with one_thread(), torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(run.settings.seed)
            # Sparse enough that the threshold matters.
            module = kind(32, num_heads=2, sparsity=2.0, shrinkage="soft", **arguments).double()
            module.qkv.weight.mul_(4)  # as large as features are after training; at random start v is tiny
            tokens = torch.randn(2, 49, 32, dtype=torch.float64)
            codes, objective = module.trajectory(tokens, steps)
            templates, values = module.reconstruction_problem(tokens)
            row_sums = (templates.mT @ templates).abs().sum(dim=-1).amax(dim=-1)
            step = 1 / (row_sums + 1)[..., None, None]
            start = soft_threshold(templates.mT @ values, module.sparsity)
            expected = torch.stack(
                [start, *islice(ista(templates, values, module.sparsity, step=step, start=start), steps)]
            )
            costs = lasso(templates, values, expected, module.sparsity).sum(dim=-1)
            errors = [
                float((ours - theirs).abs().max() / theirs.abs().max())
                for ours, theirs in ((codes, expected), (objective, costs))
            ]
        yield Finding.exactly(
            name=name.lower().replace("-", "_"),
            statement=f"The dynamics of {name} are ISTA on the LASSO of its templates and values.",
            holds=max(errors) < 1e-12,
            evidence=(
                f"Over {steps} steps codes differ by {errors[0]:.1e} and objectives by {errors[1]:.1e} (relative, in "
                f"float64; bound 1e-12); {float((codes[-1] != 0).double().mean()):.0%} of the coefficients are active."
            ),
            value=max(errors),
        )


def gaussian(run: Run) -> Iterator[Result]:
    """Every solver on Bernoulli-Gaussian codes of a Gaussian dictionary."""
    settings = load(run, "gaussian")
    yield from comparison.results(curves(run, settings), losses(run, settings), settings)


def patches(run: Run) -> Iterator[Result]:
    """Every solver on patches of Fashion-MNIST, against the LASSO's codes."""
    settings = load(run, "patches")
    yield from comparison.results(curves(run, settings), losses(run, settings), settings)


def speed(run: Run) -> Iterator[Result]:
    """Time and multiply-adds that every solver takes to the error that all reach, on both kinds of data."""
    for setting in ("gaussian", "patches"):
        settings = load(run, setting)
        yield from equal_error.results(curves(run, settings), settings, quick=run.settings.quick)


def _gaussian(seed: int) -> torch.Tensor:
    dictionary = torch.randn(*SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return dictionary / dictionary.norm(dim=0)
