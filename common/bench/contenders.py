"""Contenders: models that are trained alike, by the bench's recipe and budget, but for what a paper changes."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from common.bench import hosts
from common.bench.images import training_data
from common.bench.scores import Scores
from common.files import write_atomic
from common.parallel import side_by_side
from common.progress import console
from common.run import Run
from common.training.curves import TRAININGS, LossCurve
from common.training.data import TensorData
from common.training.distillation import with_teacher
from common.training.hooks import Hook
from common.training.logs import history_csv
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import Recipe, load_recipe

RECIPE = Path(__file__).with_name("recipe.toml")

#: From a trained model in eval mode, its recipe and whether the run is quick to values by metric: see `Scores`.
Measure: TypeAlias = Callable[[nn.Module, Recipe, bool], Mapping[str, "np.ndarray | float"]]


def no_hooks(recipe: Recipe) -> Sequence[Hook]:
    """Train as the recipe says."""
    return ()


@dataclass(frozen=True)
class Contender:
    """One model of a comparison.

    Attributes:
        name: unique for what it computes: contenders of one name are trained once for all papers.
        build: makes the untrained model for images (B, 3, 28, 28) and 10 classes; called with torch seeded. A function
            of a module, or a ``functools.partial`` of one.
        hooks: makes the training hooks, from the recipe; likewise.
        changes: recipe settings ``"key=value"`` that differ for this contender.
        recipe: file whose setting ``embedded`` it is trained by; the bench's, or a paper's that is based on it and adds
            keys of the paper's method.
        data: makes the training data.
        teacher: what it learns from, as its recipe's ``distillation`` says or as its hook does that asks for a teacher:
            trained before it, with the same seed.
    """

    name: str
    build: Callable[[], nn.Module]
    hooks: Callable[[Recipe], Sequence[Hook]] = no_hooks
    changes: tuple[str, ...] = ()
    recipe: Path = RECIPE
    data: Callable[[], TensorData] = training_data
    teacher: Contender | None = None

    def settings(self, *, quick: bool = False, epochs: int | None = None) -> Recipe:
        """The recipe as this contender is trained with it; ``epochs`` replaces the recipe's."""
        changes = self.changes
        if epochs is not None:
            changes = (*changes, f"epochs={epochs}", f"evaluate_every={epochs}")
        return load_recipe(self.recipe, "embedded", quick=quick, changes=changes)


def host(name: str) -> Contender:
    """A host of the bench as it is: ``vit_mini``, ``resnet_mini``, ``mixer_mini`` or ``pyramid_mini``."""
    return Contender(name, getattr(hosts, name))


@dataclass(frozen=True)
class Job:
    """One contender with one seed: train it, or take up its weights, and measure it.

    Attributes:
        contender, seed, recipe: what is trained.
        quick: whether the run is.
        device: torch device.
        folder: where weights, curves and scores are kept.
        teacher: the training of the contender's teacher, where it has one.
    """

    contender: Contender
    seed: int
    recipe: Recipe
    quick: bool
    device: str
    folder: Path
    teacher: Job | None = None

    @property
    def key(self) -> str:
        """A file name for what is trained."""
        one = self.contender
        parts = [one.name, _name(one.build), _name(one.hooks), _name(one.data), self.seed, self.recipe.as_dict()]
        if self.teacher is not None:
            parts.append(self.teacher.key)
        label = json.dumps([*parts, self.device, torch.__version__], sort_keys=True)
        return hashlib.sha256(label.encode()).hexdigest()[:24]

    def model(self) -> nn.Module:
        """The trained model in eval mode; trained now if it has not been before."""
        torch.manual_seed(self.seed)
        model = self.contender.build()
        path = self.folder / "weights" / f"{self.key}.pt"
        content = _checked(path)
        if content is not None:
            model.load_state_dict(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
        else:
            curve = LossCurve()
            hooks = [*self.contender.hooks(self.recipe), curve]
            if self.teacher is not None:
                hooks = with_teacher(self.recipe, hooks, self.teacher.model())
            options = Options(device=self.device)
            result = train(model, self.recipe, self.contender.data(), seed=self.seed, hooks=hooks, options=options)
            rows = curve.with_validation(result.history)
            log = history_csv([{"model": self.contender.name, "seed": self.seed, **row} for row in rows])
            write_atomic(self.folder / TRAININGS / f"{self.key}.csv", log)
            write_atomic(path, lambda handle: torch.save(model.state_dict(), handle))
        return model.to(self.device).eval()

    def scores_path(self, measure: Measure) -> Path:
        """The file of what ``measure`` gave."""
        label = f"{self.key} {_name(measure)} {self.quick}"
        return self.folder / "scores" / f"{hashlib.sha256(label.encode()).hexdigest()[:24]}.npz"

    def scores(self, measure: Measure) -> dict[str, np.ndarray]:
        """Values by metric; measured now if they have not been before."""
        path = self.scores_path(measure)
        content = _checked(path)
        if content is None:
            values = {name: _small(value) for name, value in measure(self.model(), self.recipe, self.quick).items()}
            write_atomic(path, lambda handle: np.savez_compressed(handle, **values))  # type: ignore[arg-type]
            return values
        with np.load(io.BytesIO(content)) as stored:
            return {name: stored[name] for name in stored.files}


def scores(run: Run, contenders: Sequence[Contender], measure: Measure) -> Scores:
    """Train every contender with every seed and measure it; what is there already is not done again.

    On a CPU, jobs run side by side, one a core: operators of models this small gain nothing from a second thread.

    Args:
        run: says how many seeds, and where weights and scores are kept: in its own folder, or in one that several runs
            share.
        contenders: what to train.
        measure: a function of a module, or a partial of one.
    """
    jobs = [_job(run, contender, seed) for seed in run.seeds() for contender in contenders]
    _work(jobs, measure, run.settings.device)
    for job in jobs:
        _show_curve(run, job)
    return Scores({(job.contender.name, job.seed): job.scores(measure) for job in jobs})


def train_share(run: Run, contenders: Sequence[Contender], measure: Measure, share: int, of: int) -> None:
    """Train and measure every ``of``-th contender and seed, from number ``share`` (from 1) on, and keep what comes out.

    Machines that do one share each, and copy their folders together, do the work of `scores`.
    """
    jobs = [_job(run, contender, seed) for seed in run.seeds() for contender in contenders]
    _work(jobs[share - 1 :: of], measure, run.settings.device)


def trained(run: Run, contender: Contender, seed: int) -> nn.Module:
    """The trained model of a contender, in eval mode; trained now if it has not been before."""
    return _job(run, contender, seed).model()


def _work(jobs: Sequence[Job], measure: Measure, device: str) -> None:
    # The first contender, mostly a host and the fastest, at the end: so no core waits long for the last job.
    todo = [job for job in reversed(jobs) if _checked(job.scores_path(measure)) is None]
    workers = 0 if device == "cpu" else 1  # a GPU is one for all
    what = f"training {len(todo)} model{'' if len(todo) == 1 else 's'}"
    for _ in side_by_side(partial(_measured, measure=measure), todo, what, workers=workers):
        pass


def _job(run: Run, contender: Contender, seed: int) -> Job:
    settings = run.settings
    recipe = contender.settings(quick=settings.quick, epochs=settings.epochs)
    folder = settings.shared or run.folder
    teacher = None if contender.teacher is None else _job(run, contender.teacher, seed)
    return Job(contender, seed, recipe, settings.quick, settings.device, folder, teacher)


def _show_curve(run: Run, job: Job) -> None:
    """Put the loss curve of a model that several runs share into this run's folder, where its report looks for it."""
    name = Path(TRAININGS) / f"{job.key}.csv"
    if job.folder != run.folder and (job.folder / name).exists():
        write_atomic(run.folder / name, (job.folder / name).read_bytes())


def _measured(job: Job, measure: Measure) -> None:
    job.scores(measure)


def _small(value: np.ndarray | float) -> np.ndarray:
    """An array as it is kept: right or wrong in a byte each, all else in float64."""
    array = np.asarray(value)
    binary = array.ndim > 0 and bool(np.isin(array, (0, 1)).all())
    return array.astype(np.uint8 if binary else np.float64)


def _checked(path: Path) -> bytes | None:
    """The content of a file that we wrote, a zip; None where it is missing or damaged, so that it is made anew."""
    if not path.exists():
        return None
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.testzip() is None:
                return content
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
        pass  # a changed byte may make it encrypted, of a later format, or begin before the file does
    console.print(f"{path} is damaged; it is made anew.", highlight=False, markup=False)
    return None


def _name(function: Callable[..., object]) -> str:
    """What identifies a function, or a partial of one, between runs of the program."""
    if isinstance(function, partial):
        return f"{_name(function.func)} {function.args} {sorted(function.keywords.items())}"
    return f"{function.__module__}.{getattr(function, '__qualname__', repr(function))}"
