"""How the claims are measured."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import bench, figures
from common.bench import inference
from common.measurement import Finding, Picture, Result
from common.run import Run
from common.training.recipe import Recipe
from papers.simclr import claims as simclr
from papers.simclr.experiment import features
from papers.vit_continual.distillation import pooled, pooled_distillation
from papers.vit_continual.experiment import RECIPE, in_tasks, learner, measure
from papers.vit_continual.prototypes import ClassMeans
from papers.vit_continual.rehearsal import BUDGETS, FORMATS, Format, curve
from papers.vit_continual.training import hooks

FINE_TUNING = "early_conv_vit_mini"
EWC, LWF, ATTENTION, ASYMMETRIC_ATTENTION, FUNCTIONAL, ASYMMETRIC_FUNCTIONAL = (
    f"{FINE_TUNING}.{name}"
    for name in ("ewc", "lwf", "attention", "attention_asymmetric", "functional", "functional_asymmetric")
)
#: Of a learner of tasks; see `papers.vit_continual.experiment.measure`.
METRICS = ("average_top1", "task_aware_top1", "new_task_top1", "forgetting")
#: Relative error that float64 explains.
ROUNDING = 1e-9


def contenders() -> list[bench.Contender]:
    """Learners of five tasks, half the bench's images each, and the encoders whose frozen features are read.

    Learners of tasks are far from the bench's accuracy, of which nothing is asked of them: that is what they show.
    """

    def learning(name: str, *changes: str) -> bench.Contender:
        return bench.Contender(name, learner, hooks, changes, RECIPE, in_tasks)

    symmetric = "method.asymmetric=false"
    return [
        learning(FINE_TUNING),
        learning(EWC, "method.regulariser=ewc", "method.strength=5000.0"),
        learning(LWF, "method.regulariser=lwf"),
        learning(ATTENTION, "method.regulariser=attention", symmetric),
        learning(ASYMMETRIC_ATTENTION, "method.regulariser=attention"),
        learning(FUNCTIONAL, "method.regulariser=functional", symmetric),
        learning(ASYMMETRIC_FUNCTIONAL, "method.regulariser=functional"),
        *(one for one in simclr.contenders() if one.name in (simclr.SIMCLR, simclr.RANDOM)),
    ]


def asymmetry(run: Run) -> Iterator[Result]:
    """Attention and what it gives, distilled symmetrically and asymmetrically: plasticity and forgetting."""
    pairs = ((ASYMMETRIC_ATTENTION, ATTENTION), (ASYMMETRIC_FUNCTIONAL, FUNCTIONAL))
    scores = _learnt(run)
    yield from inference.findings(
        scores,
        *(f"{asymmetric} > {symmetric}: new_task_top1" for asymmetric, symmetric in pairs),
        *(f"{asymmetric} = {symmetric}: forgetting" for asymmetric, symmetric in pairs),
    )


def regularisation(run: Run) -> Iterator[Result]:
    """Fine-tuning, regularised weights, decisions and attention: what is forgotten, and what is known at the end."""
    scores = _learnt(run)
    yield from bench.measurements(scores, METRICS)
    yield from inference.findings(
        scores,
        *(f"{one} > {FINE_TUNING}: forgetting" for one in (FUNCTIONAL, ATTENTION, EWC, LWF)),
        f"{FUNCTIONAL} > {ATTENTION}: average_top1",
        f"{ATTENTION} > {FUNCTIONAL}: forgetting",
    )
    yield bench.difference_picture("regularisation", scores, FINE_TUNING, METRICS)


def losses(run: Run) -> Iterator[Result]:
    """The forms of the loss on random attention, in float64."""
    draws = torch.Generator().manual_seed(run.settings.seed)
    old, new = torch.randn(2, 1, 3, 17, 17, generator=draws, dtype=torch.float64)
    new.requires_grad_()
    with torch.no_grad():
        more, less = (float(pooled_distillation([old], [new], reverse=reverse)) for reverse in (False, True))
        distance = float((F.normalize(pooled(old, "spatial")) - F.normalize(pooled(new, "spatial"))).norm())
    error = abs((more**2 + less**2) / distance**2 - 1)
    yield Finding.exactly(
        name="halves",
        statement="Asymmetric distillation is that half of the distance in which the old attention has more.",
        holds=error < ROUNDING and more > 0 < less,
        evidence=(
            f"{more:.4f} and, reversed, {less:.4f}; their squares make up {distance:.4f} squared, "
            f"{error:.0e} apart (bound {ROUNDING:g})."
        ),
        value=error,
    )
    after, before = (_largest_gradient(old, new, before_norm=form) for form in (False, True))
    yield Finding.exactly(
        name="released_default",
        statement="The asymmetric loss that the release computes by default has no gradient.",
        holds=before < ROUNDING * after,
        evidence=f"The largest is {before:.1e}; of the form that norms both vectors first it is {after:.1e}.",
        value=before,
    )
    same = max(float(pooled_distillation([old], [old], asymmetric=form).abs()) for form in (False, True))
    yield Finding.exactly(
        name="same_attention",
        statement="Attention that has not changed costs nothing.",
        holds=same == 0,
        evidence=f"The loss is {same:g} in both forms.",
        value=same,
    )


def rehearsal(run: Run) -> Iterator[Result]:
    """Buffers of equal bytes that hold images of several resolutions and depths, and what is learnt from each alone."""
    tasks = in_tasks().tasks.of_class
    scores = bench.Scores(
        {(form.name, seed): curve(form, seed, tasks, run.settings.quick) for form in FORMATS for seed in run.seeds()}
    )
    yield from bench.measurements(scores, scores.metrics)
    whole = FORMATS[0].name
    coarse = [Format(7), *(form for form in FORMATS[1:] if form != Format(7))]  # the primary one first
    yield from inference.findings(scores, *(f"{form.name} > {whole}: rehearsal_top1" for form in coarse))
    yield _buffers(scores)


def frozen_features(run: Run) -> Iterator[Result]:
    """Class means of features that were learnt without labels, of random ones, and learning task by task."""
    encoders = [one for one in contenders() if one.name in (simclr.SIMCLR, simclr.RANDOM)]
    values = {**bench.scores(run, encoders, class_means).values, **_learnt(run, FINE_TUNING, LWF).values}
    scores = bench.Scores({key: {"average_top1": found["average_top1"]} for key, found in values.items()})
    yield from bench.measurements(bench.Scores({k: v for k, v in scores.values.items() if "resnet" in k[0]}))
    yield from inference.findings(
        scores,
        f"{simclr.SIMCLR} > {LWF}: average_top1",
        f"{simclr.SIMCLR} > {simclr.RANDOM}: average_top1",
        f"{simclr.RANDOM} > {LWF}: average_top1",
    )


def order(run: Run) -> Iterator[Result]:
    """Random features of ten classes, learnt at once and class by class."""
    draws = torch.Generator().manual_seed(run.settings.seed)
    labels = torch.arange(10).repeat(30)
    points = torch.randn(10, 8, generator=draws)[labels] + torch.randn(300, 8, generator=draws)
    once, later = ClassMeans(8), ClassMeans(8)
    once.add(points, labels)
    earlier: dict[int, Tensor] = {}
    kept = True
    for label in torch.randperm(10, generator=draws).tolist():
        later.add(points[labels == label], labels[labels == label])
        kept &= all(torch.equal(later.means[one], mean) for one, mean in earlier.items())
        earlier[label] = later.means[label].clone()
    error = float((once.means - later.means).abs().max())
    equal = torch.equal(once.predict(points), later.predict(points))
    yield Finding.exactly(
        name="same_means",
        statement="Class by class gives the means and the predictions that all classes at once give.",
        holds=error < ROUNDING and equal,
        evidence=f"Means are {error:.0e} apart at most (bound {ROUNDING:g}), predictions of 300 points are "
        f"{'the same' if equal else 'not the same'}.",
        value=error,
    )
    yield Finding.exactly(
        name="nothing_forgotten",
        statement="A mean does not change when other classes are learnt.",
        holds=kept,
        evidence="Every mean was compared, bit by bit, after every later class.",
    )


def class_means(model: nn.Module, recipe: Recipe, quick: bool) -> dict[str, np.ndarray | float]:
    """``average_top1`` of class means of frozen features, learnt task by task from the bench's training images."""
    data, tests = in_tasks(), bench.test_set(quick)
    images, labels = data.train
    learnt: ClassMeans | None = None
    for own in data.tasks.classes:
        of_task = torch.isin(labels, torch.tensor(own)).nonzero()[: 500 if quick else None, 0]
        found = torch.from_numpy(features(model, recipe, images[of_task]))
        learnt = learnt or ClassMeans(found.shape[1])
        learnt.add(found, labels[of_task])
    assert learnt is not None
    predicted = learnt.predict(torch.from_numpy(features(model, recipe, tests.clean.flatten(0, 1))))
    return {"average_top1": (predicted.view(tests.labels.shape) == tests.labels).numpy()}


def _learnt(run: Run, *names: str) -> bench.Scores:
    """Scores of the learners of tasks, all of them by default."""
    chosen = [one for one in contenders() if one.build is learner and one.name in (names or (one.name,))]
    return bench.scores(run, chosen, measure)


def _largest_gradient(old: Tensor, new: Tensor, before_norm: bool) -> float:
    loss = pooled_distillation([old], [new], before_norm=before_norm)
    (gradient,) = torch.autograd.grad(loss, new)
    return float(gradient.abs().max())


def _buffers(scores: bench.Scores) -> Picture:
    """Accuracy by the bytes of the buffer, a line a format."""
    seeds = len(scores.seeds)
    with figures.figure("buffers", 5.5, 3.6) as drawn:
        axis = drawn.subplots()
        for form, colour in zip(FORMATS, figures.COLOURS, strict=False):
            means = [scores.mean(form.name, f"rehearsal_top1/{budget}") for budget in BUDGETS]
            label = f"{form.side} x {form.side}, {form.bits} bit{'s' * (form.bits > 1)}"
            axis.plot([budget / 1000 for budget in BUDGETS], means, "o-", color=colour, markersize=4, label=label)
        axis.set_xscale("log")
        axis.set_xlabel("buffer, kB")
        axis.set_ylabel("top-1 accuracy, %")
        axis.grid(axis="y")
        axis.legend(title="a stored image")
        svg = figures.to_svg(drawn)
    return Picture(
        name="buffers",
        caption=(
            "What a classifier learns from a rehearsal buffer alone, by its size and by how images are stored in it: "
            f"mean over {seeds} seed{'' if seeds == 1 else 's'}."
        ),
        svg=svg,
    )
