"""Mask R-CNN and UPerNet on the embedded composition, with small backbones at equal budget.

A paper's ``claims.py`` names its backbones: ``downstream_backbones()`` gives ``{label: (timm name, arguments)}``, the
baseline first.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.measurement import Result
from common.parallel import side_by_side
from common.run import Run
from common.statistics import Estimate, paired_interval
from common.verdicts import difference_finding, mean_measurement
from downstream import pictures
from downstream.composition import Canvases, write

#: Written with every number; the version rises when the procedure changes.
PROTOCOL = "embedded-downstream/1"
DATASET = "fashion-mnist-canvas"

#: Config and data set of each task.
TASKS = {"detection": ("mask-rcnn", "coco"), "segmentation": ("upernet", "ade20k")}
NAMES = {"detection": "Mask R-CNN", "segmentation": "UPerNet"}

#: Iterations and canvases for ``--quick``: enough to see that it learns.
_QUICK = 60
_CANVASES = {False: Canvases(), True: Canvases(train=300, val=60)}

#: Images whose predictions are shown.
SHOWN = 4


@dataclass(frozen=True)
class _Job:
    """One backbone, task and seed. It is sent to a worker process, so it holds plain values only."""

    task: str
    label: str
    model: str
    arguments: dict[str, Any]
    seed: int
    iterations: int | None
    quick: bool
    folder: Path


def detection(run: Run) -> Iterator[Result]:
    """Box and mask AP of Mask R-CNN."""
    yield from _compare(run, "detection")


def segmentation(run: Run) -> Iterator[Result]:
    """Mean IoU of UPerNet."""
    yield from _compare(run, "segmentation")


def _backbones(run: Run) -> dict[str, tuple[str, dict[str, Any]]]:
    module = importlib.import_module(f"{run.paper.package}.claims")
    if not hasattr(module, "downstream_backbones"):
        raise UserError(
            f"{run.paper.slug} names no small backbones for the embedded composition; give a data set (--coco DIR, "
            f"--ade20k DIR), or write downstream_backbones() in its claims.py."
        )
    return module.downstream_backbones()


def _compare(run: Run, task: str) -> Iterator[Result]:
    backbones = _backbones(run)
    write(run.folder / "canvases", _CANVASES[run.settings.quick])
    iterations = getattr(run.settings, "iterations", None) or (_QUICK if run.settings.quick else None)
    jobs = [
        _Job(task, label, model, arguments, seed, iterations, run.settings.quick, run.folder)
        for seed in run.seeds(default=3, quick=1)
        for label, (model, arguments) in backbones.items()
    ]
    keys = {id(job): f"{task} {job.label} seed {job.seed} iterations {iterations}" for job in jobs}
    todo = [job for job in jobs if not run.remembers(keys[id(job)])]
    for job, outcome in zip(todo, side_by_side(_work, todo, f"training {NAMES[task]}"), strict=True):
        run.memo(keys[id(job)], lambda outcome=outcome: outcome)  # type: ignore[misc]
    outcomes: dict[str, list[dict[str, Any]]] = {label: [] for label in backbones}
    for job in jobs:
        outcomes[job.label].append(run.memo(keys[id(job)], dict))
    yield from _results(run, task, outcomes)


def _work(job: _Job) -> dict[str, Any]:
    """Evaluate untrained, train, evaluate; in a worker process."""
    import papers
    from downstream.training import CONFIGS, Job, Training

    papers.register_models()
    start = time.monotonic()
    coco, ade20k = write(job.folder / "canvases", _CANVASES[job.quick])
    config, data = TASKS[job.task]
    training = Training(
        Job(
            config=CONFIGS / "embedded" / f"{config}.py",
            data={"coco": coco, "ade20k": ade20k}[data],
            folder=job.folder / "training" / f"{config}_{job.label}_{job.seed}",
            model=job.model,
            model_args=job.arguments,
            img_size=_CANVASES[job.quick].size,
            seed=job.seed,
            iterations=job.iterations,
            workers=0,
        )
    )
    untrained = training.evaluate()
    training.train()
    trained = training.evaluate()
    seconds = time.monotonic() - start
    shown = pictures.predictions(training, SHOWN)
    return {
        "untrained": untrained,
        "trained": trained,
        "n": training.images,
        "seconds": seconds,
        "shown": shown,
        "losses": training.losses,
    }


def _results(run: Run, task: str, outcomes: dict[str, list[dict[str, Any]]]) -> Iterator[Result]:
    baseline = next(iter(outcomes))
    metrics = list(outcomes[baseline][0]["trained"])
    for label, runs in outcomes.items():
        for metric in metrics:
            trained = [each["trained"][metric] for each in runs]
            untrained = [each["untrained"][metric] for each in runs]
            yield mean_measurement(
                trained,
                model=label,
                dataset=DATASET,
                metric=metric,
                unit="%",
                weights="trained",
                n=runs[0]["n"],
                seconds=sum(each["seconds"] for each in runs),
                protocol=PROTOCOL,
                detail={"untrained_per_seed": untrained},
            )
    for metric in metrics:
        for label, runs in outcomes.items():
            gain = _difference(runs, "trained", runs, "untrained", metric)
            statement = f"{NAMES[task]} with {label} has a higher {metric} than before its training."
            yield difference_finding(statement, gain, len(runs))
        for label, runs in outcomes.items():
            if label != baseline:
                gain = _difference(runs, "trained", outcomes[baseline], "trained", metric)
                statement = f"{NAMES[task]} with {label} has a higher {metric} than with {baseline}, at equal budget."
                yield difference_finding(statement, gain, len(runs))
    losses = {label: [each["losses"] for each in runs if each.get("losses")] for label, runs in outcomes.items()}
    if any(losses.values()):
        yield pictures.training(task, NAMES[task], losses)
    yield pictures.picture(task, run.folder / "canvases", {label: runs[0]["shown"] for label, runs in outcomes.items()})


def _difference(a: list[dict[str, Any]], of_a: str, b: list[dict[str, Any]], of_b: str, metric: str) -> Estimate:
    return paired_interval([each[of_a][metric] for each in a], [each[of_b][metric] for each in b])
