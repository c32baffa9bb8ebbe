"""Contenders, trained at equal budget with several seeds and measured, side by side on the cores of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from common.files import write_atomic
from common.parallel import side_by_side
from common.progress import console
from common.robustness.embedded.images import training_data
from common.run import Run
from common.tensor_files import UnreadableError, read_tensors
from common.training.curves import TRAININGS, LossCurve
from common.training.data import TensorData
from common.training.hooks import Hook
from common.training.logs import history_csv
from common.training.loop import train
from common.training.options import Options
from common.training.recipe import Recipe, load_recipe


def _no_hooks(recipe: Recipe) -> Sequence[Hook]:
    return ()


@dataclass(frozen=True)
class Contender:
    """One model of the comparison.

    Attributes:
        name: the model's name in measurements, unique for what it computes: results are kept under it.
        build: makes the untrained model for images (B, 3, 28, 28) and 10 classes; called with torch seeded.
        hooks: makes the training hooks, from the recipe.
        changes: recipe settings ``"key=value"`` that differ for this contender.
    """

    name: str
    build: Callable[[], nn.Module]
    hooks: Callable[[Recipe], Sequence[Hook]] = _no_hooks
    changes: tuple[str, ...] = ()


def recipe_for(run: Run, path: Path, contender: Contender) -> Recipe:
    """The paper's embedded recipe as this contender is trained with it."""
    changes = contender.changes
    if run.settings.epochs is not None:
        changes = (*changes, f"epochs={run.settings.epochs}", f"evaluate_every={run.settings.epochs}")
    return load_recipe(path, "embedded", quick=run.settings.quick, changes=changes)


@dataclass(frozen=True)
class Job:
    """One contender with one seed: train it, or take its weights from the run's folder, and measure it.

    Attributes:
        contender, seed, recipe: what is trained.
        data: makes the training data.
        weights: file that keeps the trained weights.
        log: CSV of loss and accuracy during training.
        device: torch device.
        measure: from the trained model and the recipe to numbers by name.
    """

    contender: Contender
    seed: int
    recipe: Recipe
    data: Callable[[], TensorData]
    weights: Path
    log: Path
    device: str
    measure: Callable[[nn.Module, Recipe], dict[str, float]]

    def model(self) -> nn.Module:
        """The trained model in eval mode; trained now if it has not been before."""
        torch.manual_seed(self.seed)
        model = self.contender.build()
        state = self._kept()
        if state is not None:
            model.load_state_dict(state)
        else:
            hooks = self.contender.hooks(self.recipe)
            curve = LossCurve()
            options = Options(device=self.device)
            result = train(model, self.recipe, self.data(), seed=self.seed, hooks=[*hooks, curve], options=options)
            rows = curve.with_validation(result.history)
            log = history_csv([{"model": self.contender.name, "seed": self.seed, **row} for row in rows])
            write_atomic(self.log, log)
            write_atomic(self.weights, lambda handle: torch.save(model.state_dict(), handle))
        return model.to(self.device).eval()

    def _kept(self) -> dict[str, Tensor] | None:
        """The weights in the file; None where there is none, or a damaged one: the model is then trained anew."""
        if not self.weights.exists():
            return None
        try:
            return read_tensors(self.weights, check=True)
        except UnreadableError as error:
            say = f"{self.weights} {error.reason}; the model is trained anew."
            console.print(say, highlight=False, soft_wrap=True)
            return None

    def numbers(self) -> dict[str, float]:
        """Train and measure."""
        return self.measure(self.model(), self.recipe)


def table_of(
    run: Run,
    contenders: Sequence[Contender],
    path: Path,
    measure: Callable[[nn.Module, Recipe], dict[str, float]],
    data: Callable[[], TensorData] = training_data,
) -> pd.DataFrame:
    """Train every contender with every seed and measure it; what the run's folder has already is not done again.

    On a CPU, jobs run side by side, one a core: operators of models this small gain nothing from a second thread.

    Args:
        run: whose folder keeps weights and numbers.
        contenders: what to train.
        path: the ``recipe.toml`` with the setting ``embedded``.
        measure: from a trained model and its recipe to numbers by name; a function of a module, or a partial of one.
        data: makes the training data; likewise.

    Returns:
        A row a contender and seed (in the index), a column a number.
    """
    jobs = {
        f"{_name(measure)} of {_key(run, contender, seed, path, data)}": _job(run, contender, seed, path, data, measure)
        for seed in run.seeds()
        for contender in contenders
    }
    # The baseline, mostly the first and the fastest to train, at the end: so no core waits long for the last job.
    missing = [key for key in reversed(jobs) if not run.remembers(key)]
    # Models this small gain nothing from a second thread; a GPU is one for all.
    workers = 0 if run.settings.device == "cpu" else 1
    todo = [jobs[key] for key in missing]
    results = side_by_side(Job.numbers, todo, f"training {len(missing)} small models", workers=workers)
    for key, numbers in zip(missing, results, strict=True):
        run.memo(key, partial(dict, numbers))
    rows = {(job.contender.name, job.seed): run.memo(key, job.numbers) for key, job in jobs.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "seed"])


def trained(
    run: Run, contender: Contender, seed: int, path: Path, data: Callable[[], TensorData] = training_data
) -> nn.Module:
    """The trained model behind a row of ``table_of``, in eval mode; trained now if it has not been before."""
    return _job(run, contender, seed, path, data, _nothing).model()


def _key(run: Run, contender: Contender, seed: int, path: Path, data: Callable[[], TensorData]) -> str:
    return f"{data.__name__} {contender.name} seed {seed} {recipe_for(run, path, contender).as_dict()}"


def _job(
    run: Run,
    contender: Contender,
    seed: int,
    path: Path,
    data: Callable[[], TensorData],
    measure: Callable[[nn.Module, Recipe], dict[str, float]],
) -> Job:
    key = run.key(_key(run, contender, seed, path, data))
    weights, log = run.folder / "weights" / f"{key}.pt", run.folder / TRAININGS / f"{key}.csv"
    return Job(contender, seed, recipe_for(run, path, contender), data, weights, log, run.settings.device, measure)


def _name(measure: Callable[..., object]) -> str:
    """What identifies a function, or a partial of one, between runs of the program."""
    if isinstance(measure, partial):
        return (
            f"{measure.func.__module__}.{measure.func.__qualname__} {measure.args} {sorted(measure.keywords.items())}"
        )
    return f"{measure.__module__}.{measure.__qualname__}"


def _nothing(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    return {}
