"""How VARS's claims are measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from common import bench, figures
from common.measurement import Finding, Picture, Result
from common.profiling import compare_cost, forward, ratio_finding, time_measurement, training_step
from common.run import Run
from papers.rvt import claims as rvt_claims
from papers.rvt.claims import MINI
from papers.vars import attention_maps as maps
from papers.vars.attention import random_features
from papers.vars.dynamic import VARSDynamic
from papers.vars.kernelized import KernelizedAttention
from papers.vars.model import create
from papers.vars.static import VARSStatic

ATTENTIONS = ("performer", "vars_s", "vars_d", "vars_sd")
BASELINE = rvt_claims.PLAIN
PERFORMER, VARS_S, VARS_D, VARS_SD = (f"{attention}_{BASELINE}" for attention in ATTENTIONS)
RELEASED = f"{VARS_D}.released"

#: Sparsity of every VARS of the small models, the released one of VARS-D and VARS-SD. The released 3.5 of VARS-S
#: leaves all its codes at zero in a network this small; see the claim ``sparse_reconstruction``.
SPARSITY: dict[str, Any] = {"attention_args": {"sparsity": 0.3}}


def mini(attention: str, **attention_args: Any) -> nn.Module:
    """The small RVT with another attention, alike in all else; see ``papers.rvt.claims``."""
    return rvt_claims.prepared(create(f"{attention}_rvt_tiny", **MINI, attention_args=attention_args))


def contenders() -> list[bench.Contender]:
    """The small RVT with self-attention, with every other attention, and VARS-D with the released shrinkage."""
    sparsity = SPARSITY["attention_args"]
    return [
        rvt_claims.small_rvt(),
        bench.Contender(PERFORMER, partial(mini, "performer")),
        *(bench.Contender(f"{name}_{BASELINE}", partial(mini, name, **sparsity)) for name in ATTENTIONS[1:]),
        bench.Contender(RELEASED, partial(mini, "vars_d", **sparsity, shrinkage="gelu")),
    ]


def downstream_backbones() -> dict[str, tuple[str, dict[str, Any]]]:
    """Backbones for canvases of garments: the small RVT with self-attention, and with VARS-D."""
    host = {name: value for name, value in MINI.items() if name not in ("img_size", "num_classes")}
    return {BASELINE: ("rvt_tiny", host), f"vars_d_{BASELINE}": ("vars_d_rvt_tiny", {**host, **SPARSITY})}


#: RVT-B* is counted as RVT's paper does.
model_size = rvt_claims.model_size


def identity(run: Run) -> Iterator[Result]:
    """The kernelised form to float64 rounding; random features against softmax as their number grows."""
    torch.manual_seed(0)
    attention = KernelizedAttention(48, num_heads=3, qkv_bias=True, shared_qk=True).double()
    vars_d = VARSDynamic(
        48, num_heads=3, qkv_bias=True, steps=1, sparsity=0.0, shrinkage="soft", normalization="rows", initial="zero",
        step_size=1.0,
    ).double()  # fmt: skip
    vars_d.load_state_dict(attention.state_dict(), strict=False)
    tokens = torch.randn(4, 50, 48, dtype=torch.float64)
    with torch.no_grad():
        expected = attention(tokens)
        error = float((vars_d(tokens) - expected).abs().max() / expected.abs().max())
    yield Finding.exactly(
        name="one_step",
        statement="VARS-D with one step from zero, step size 1 and no sparsity is kernelised self-attention.",
        holds=error < 1e-12,
        evidence=f"Largest relative difference {error:.1e} in float64 (bound 1e-12).",
        value=error,
    )
    yield from _towards_softmax()


def _towards_softmax() -> Iterator[Result]:
    """Error of kernelised against softmax attention over the number of random features: slope -1/2 in log-log."""
    generator = torch.Generator().manual_seed(0)
    unit = partial(nn.functional.normalize, dim=-1)
    q, k = (unit(torch.randn(64, 32, generator=generator, dtype=torch.float64)) for _ in range(2))
    v = torch.randn(64, 32, generator=generator, dtype=torch.float64)
    softmax = (q @ k.T).softmax(-1) @ v
    numbers = [2**power for power in range(5, 15)]
    errors = []
    for m in numbers:
        squared = []
        for _ in range(8):
            projection = torch.randn(32, m, generator=generator, dtype=torch.float64)
            kernel = random_features(q, projection) @ random_features(k, projection).T
            squared.append(float((kernel / kernel.sum(-1, keepdim=True) @ v - softmax).square().mean()))
        errors.append(float(np.sqrt(np.mean(squared))))
    slope = float(np.polyfit(np.log(numbers), np.log(errors), 1)[0])
    holds = -0.6 < slope < -0.4
    yield Finding.exactly(
        name="softmax_limit",
        statement="With random features, kernelised attention tends to softmax attention at the Monte Carlo rate.",
        holds=holds,
        evidence=(
            f"Error falls from {errors[0]:.3f} at {numbers[0]} features to {errors[-1]:.4f} at {numbers[-1]}; slope "
            f"{slope:.2f} in log-log (-0.5 expected)."
        ),
        value=slope,
    )
    reference = [errors[0] * (m / numbers[0]) ** -0.5 for m in numbers]
    yield Picture(
        name="softmax_limit",
        caption="Root-mean-square error of kernelised against softmax attention, beside a line that falls as m^-1/2.",
        svg=figures.curves(
            "softmax_limit",
            {"random features": (numbers, errors), "m^-1/2": (numbers, reference)},
            xlabel="number of random features m",
            ylabel="error",
            logx=True,
            logy=True,
        ),
    )


def sparse_reconstruction(run: Run) -> Iterator[Result]:
    """Descent, agreement with coordinate descent on the same LASSO, and support against lambda."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 49, 32, dtype=torch.float64, generator=generator)
    steps = 2000
    sparsities = (0.1, 0.3, 1.0)
    rises, gaps, slack, supports, curves = [], [], [], [], {}
    for sparsity in sparsities:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(1)
            module = VARSDynamic(32, num_heads=2, sparsity=sparsity, shrinkage="soft").double()
            module.qkv.weight.mul_(4)  # as large as features are after training; at random start v is tiny
            codes, objective = module.trajectory(tokens, steps)
            templates, values = module.reconstruction_problem(tokens)
        best, solution = _coordinate_descent(templates, values, sparsity)
        gram = templates.transpose(-2, -1) @ templates
        lipschitz = gram.abs().sum(dim=-1).amax(dim=-1) + 1
        gap = objective - best  # (steps + 1, B, h)
        counted = torch.arange(1, steps + 1, dtype=torch.float64)[:, None, None]
        bound = lipschitz * (codes[0] - solution).square().sum(dim=(-2, -1)) / (2 * counted)
        rises.append(float((objective[1:] - objective[:-1]).max()))
        slack.append(float((gap[1:] / bound).max()))
        relative = (gap / best).flatten(1).amax(dim=1)
        gaps.append(float(relative[-1]))
        supports.append(float((codes[-1].abs() > 1e-9).double().mean()))
        shown = [0, *np.unique(np.geomspace(1, steps, 40).astype(int))]
        curves[f"lambda {sparsity}"] = ([t + 1 for t in shown], [max(float(relative[t]), 1e-14) for t in shown])
    yield Finding.exactly(
        name="descent",
        statement="With a step within the Lipschitz bound the objective never rises.",
        holds=max(rises) <= 1e-9,
        evidence=f"Largest change of the objective in {steps} steps at each sparsity: {max(rises):+.1e}.",
        value=max(rises),
    )
    yield Finding.exactly(
        name="coordinate_descent",
        statement="The dynamics converge to the solution that coordinate descent finds for the same LASSO.",
        holds=max(slack) <= 1 + 1e-9 and max(gaps) < 0.01,
        evidence=(
            f"After {steps} steps the objective is at most {max(gaps):.1e} (relative) above scikit-learn's; at every "
            f"step the gap is at most {max(slack):.2f} of the bound L ||u_0 - u*||^2 / (2 t) (Beck and Teboulle, 2009, "
            f"theorem 3.1)."
        ),
        value=max(gaps),
    )
    falling = all(later < earlier for earlier, later in itertools.pairwise(supports))
    yield Finding.exactly(
        name="support",
        statement="The support of the code shrinks as lambda grows.",
        holds=falling,
        evidence="Share of active coefficients: "
        + ", ".join(f"{share:.1%} at lambda {s}" for s, share in zip(sparsities, supports, strict=True))
        + ".",
    )
    yield _active_at_the_start()
    yield Picture(
        name="objective",
        caption="Objective of VARS-D's code above that of coordinate descent, relative, over steps; the worst head.",
        svg=figures.curves(
            "objective", curves, xlabel="step + 1", ylabel="relative gap", logx=True, logy=True, markers=False
        ),
    )


def _active_at_the_start() -> Finding:
    """Whether the released sparsity of VARS-S lets any code be active in an untrained RVT-Ti."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = timm.create_model("vars_s_rvt_tiny").eval()
        images = torch.randn(2, 3, 224, 224)
        inputs: list[Tensor] = []
        modules = [module for module in model.modules() if isinstance(module, VARSStatic)]
        handles = [module.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for module in modules]
        model(images)
        for handle in handles:
            handle.remove()
        codes = [module.trajectory(x).codes[-1] for module, x in zip(modules, inputs, strict=True)]
    shares = [float((code != 0).double().mean()) for code in codes]
    return Finding(
        name="active_at_the_start",
        statement="VARS-S with the released sparsity has active codes before training.",
        verdict="holds" if max(shares) > 0 else "does not hold",
        evidence=(
            f"Share of active coefficients in the {len(shares)} blocks of an untrained vars_s_rvt_tiny on noise: at "
            f"most {max(shares):.2%}, with lambda {modules[0].sparsity}. A code at zero passes no gradient to its "
            "kernels."
        ),
        value=max(shares),
    )


def _coordinate_descent(templates: Tensor, values: Tensor, sparsity: float) -> tuple[Tensor, Tensor]:
    """What scikit-learn's LASSO reaches: objectives (B, h) and codes (B, h, m, d).

    Args:
        templates: P, (B, h, N, m).
        values: v, (B, h, N, d).
        sparsity: lambda.
    """
    batch, heads, tokens, count = templates.shape
    codes = torch.empty(batch, heads, count, values.shape[-1], dtype=torch.float64)
    for b, h in itertools.product(range(batch), range(heads)):
        # scikit-learn divides the squared error by the number of rows.
        solver = Lasso(alpha=sparsity / tokens, fit_intercept=False, tol=1e-6, max_iter=100_000)
        codes[b, h] = torch.from_numpy(solver.fit(templates[b, h].numpy(), values[b, h].numpy()).coef_.T)
    error = (values - templates @ codes).square().sum(dim=(-2, -1))
    return 0.5 * error + sparsity * codes.abs().sum(dim=(-2, -1)), codes


def robustness(run: Run) -> Iterator[Result]:
    """Small RVTs at equal budget, clean and under corruption, attack and occlusion."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from (m for m in bench.measurements(scores) if m.model != RELEASED)
    yield from bench.findings(
        scores,
        f"{VARS_SD} > {BASELINE}: corruption_top1",
        f"{VARS_D} > {BASELINE}: corruption_top1",
        f"{VARS_S} > {BASELINE}: corruption_top1",
        f"{VARS_D} > {PERFORMER}: corruption_top1",
    )
    yield bench.difference_picture("differences", scores, BASELINE)
    yield bench.corruption_picture("corruptions", scores)


def attention_maps(run: Run) -> Iterator[Result]:
    """How much attention falls on the garment of a cluttered canvas, for self-attention and each VARS."""
    yield from maps.measure(run, [one for one in contenders() if one.name not in (PERFORMER, RELEASED)], VARS_SD)


def cost(run: Run) -> Iterator[Result]:
    """Time and peak memory of RVT-Ti with each attention (quick: time, with VARS-SD alone), beside self-attention."""
    quick = run.settings.quick
    images = torch.randn(1 if quick else 4, 3, 224, 224, device=run.settings.device)
    names = ["rvt_tiny", *(f"{name}_rvt_tiny" for name in (ATTENTIONS[-1:] if quick else ATTENTIONS))]
    models = {name: timm.create_model(name).to(run.settings.device) for name in names}
    for metric, call in (("forward", forward), ("training_step", training_step)):
        costs = compare_cost(
            {name: call(model, images) for name, model in models.items()},
            baseline="rvt_tiny",
            device=run.settings.device,
            rounds=2 if quick else 8,
            warmup=1,
            memory=not quick,
            description=f"timing {metric.replace('_', ' ')}",
        )
        for name, comparison in costs.items():
            yield time_measurement(name, f"{metric}_time", comparison.cost, len(images), 224)
        comparison = costs["vars_sd_rvt_tiny"]
        memory = "" if comparison.memory_ratio is None else f", {comparison.memory_ratio:.2f} times its peak memory"
        yield ratio_finding(
            f"With VARS-SD, the dearest, a {metric.replace('_', ' ')} of RVT-Ti costs at most twice that of "
            "self-attention.",
            comparison.time_ratio,
            2.0,
            whose="self-attention's",
            rest=f"{memory}; batch {len(images)} at 224 pixels on {run.settings.device}",
            name=f"{metric}_at_most_twice",
        )


def shrinkage(run: Run) -> Iterator[Result]:
    """Train the small VARS-D with the released GELU beside the publication's soft threshold."""
    scores = bench.scores(run, contenders(), bench.robustness)
    yield from (m for m in bench.measurements(scores) if m.model == RELEASED)
    yield from bench.findings(scores, f"{RELEASED} = {VARS_D}: top1", f"{RELEASED} = {VARS_D}: corruption_top1")
