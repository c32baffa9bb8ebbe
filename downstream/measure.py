"""How the claims of :mod:`common.downstream` are measured: train, or take weights, and evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common.checkpoints import read
from common.declaration import Paper
from common.errors import UserError, nearest
from common.measurement import Measurement, Result, Weights
from common.profiling.counting import parameters
from common.run import Run
from downstream import checks
from downstream.corruption import cells, mean_performance, relative_performance
from downstream.settings import DownstreamSettings
from downstream.training import Job, Training, prepare, settings

#: Written with every number; the version rises when the procedure changes.
PROTOCOL = "downstream/1"

#: The end of a config's name says its data set. The first that a paper has of these is its default.
_PREFERRED = ("mask-rcnn_1x_coco", "cascade-mask-rcnn_3x_coco", "upernet_160k_ade20k", "all-mlp_160k_cityscapes")


class _Opened(NamedTuple):
    """A trained model, ready to be evaluated.

    Attributes:
        training: with its weights.
        model: its name in measurements.
        setting: name of the config.
        weights: where its weights come from.
    """

    training: Training
    model: str
    setting: str
    weights: Weights


#: One Runner a data set and run folder: clean and corrupted measurements share it.
_opened: dict[tuple[Path, str], _Opened] = {}


def choose(paper: Paper, dataset: str, wanted: str | None) -> str:
    """The name of the config of a paper for a data set.

    Raises:
        UserError: the paper has none for it, or not the one that the user names.
    """
    own = [name for name in settings(paper) if name.endswith(f"_{dataset}")]
    if not own:
        have = ", ".join(settings(paper)) or "none"
        raise UserError(f"{paper.slug} has no setting for {dataset}; its settings are {have}.")
    if wanted is None:
        return next((name for name in _PREFERRED if name in own), own[0])
    if wanted not in own:
        raise UserError(
            f"{paper.slug} has no setting {wanted!r} for {dataset}.{nearest(wanted, own)} It has {', '.join(own)}."
        )
    return wanted


def _settings(run: Run) -> DownstreamSettings:
    if not isinstance(run.settings, DownstreamSettings):
        raise UserError(f"Detection and segmentation are measured by ./reproduce.sh {run.paper.slug} downstream.")
    return run.settings


def _open(run: Run, dataset: str) -> _Opened:
    key = (run.folder, dataset)
    if key not in _opened:
        _opened[key] = _train(run, dataset)
    return _opened[key]


def _train(run: Run, dataset: str) -> _Opened:
    asked = _settings(run)
    setting = choose(run.paper, dataset, asked.setting)
    job = Job(
        config=settings(run.paper)[setting],
        data=asked.folders[dataset],
        # Ranks of a distributed run have folders of their own, and one for the training.
        folder=shared_folder(run) / "training" / setting,
        model=asked.model.partition(".")[0] if asked.model else None,
        checkpoint=asked.checkpoint,
        checkpoint_weights=asked.checkpoint_weights,
        device=asked.device,
        seed=asked.seed,
        amp=asked.amp,
        iterations=asked.iterations,
        workers=asked.workers,
        progress=setting,
        verbose=asked.verbose,
    )
    checks.check(prepare(job), ("train", "val") if asked.weights is None else ("val",))
    training = Training(job)
    weights: Weights = "trained"
    if asked.weights is not None:
        training.load(asked.weights)
        weights = "trained" if "form" in read(asked.weights).get("meta", {}) else "released"
    else:
        training.train()
    default = choose(run.paper, dataset, None)
    name = asked.model or str(training.config.model.backbone.name)
    tag = "" if setting == default else f".{setting.removesuffix(f'_{dataset}')}"
    return _Opened(training, f"{name}{tag}", setting, weights)


def shared_folder(run: Run) -> Path:
    """The folder of the run, which the ranks of a distributed run share."""
    return run.folder.parent.parent if run.folder.parent.name == "ranks" else run.folder


def _agreed(run: Run, key: str, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """``run.memo`` for a run on several ranks, which must compute together what the first does not remember."""
    from mmengine.dist import broadcast_object_list

    known: list[Any] = [run.memo(key, dict) if run.remembers(key) else None]
    broadcast_object_list(known)
    value = compute() if known[0] is None else known[0]
    return run.memo(key, lambda: value)


def _clean(run: Run, dataset: str) -> dict[str, float]:
    return _agreed(run, f"{dataset} clean", lambda: _open(run, dataset).training.evaluate())


def _measure(run: Run, dataset: str, name: str) -> Iterator[Result]:
    start = time.monotonic()
    opened = _open(run, dataset)
    yield Measurement(
        model=opened.model,
        dataset=name,
        metric="params",
        value=parameters(opened.training.model).total / 1e6,
        unit="M",
        protocol=f"params/1 all parameters, frozen ones included; {opened.setting}",
    )
    for metric, value in _clean(run, dataset).items():
        yield Measurement(
            model=opened.model,
            dataset=name,
            metric=metric,
            value=value,
            unit="%",
            weights=opened.weights,
            seeds=int(opened.weights == "trained"),
            n=opened.training.images,
            seconds=time.monotonic() - start,
            protocol=f"{PROTOCOL} {opened.setting}",
        )


def _measure_corrupted(run: Run, dataset: str, name: str) -> Iterator[Result]:
    """Mean and relative performance over the set of corruptions that the config names."""
    start = time.monotonic()
    opened = _open(run, dataset)
    clean = _clean(run, dataset)
    corruptions = str(opened.training.config.get("corruptions", "benchmark"))
    by_cell = {
        f"{corruption}/{severity}": _agreed(
            run,
            f"{dataset} {corruption} {severity}",
            lambda cell=(corruption, severity): opened.training.evaluate(cell),  # type: ignore[misc]
        )
        for corruption, severity in cells(corruptions)
    }
    for metric, performance in clean.items():
        values = {cell: found[metric] for cell, found in by_cell.items()}
        mean = mean_performance(values, corruptions)
        common: dict[str, Any] = {
            "model": opened.model,
            "dataset": name,
            "unit": "%",
            "weights": opened.weights,
            "seeds": int(opened.weights == "trained"),
            "n": opened.training.images,
            "seconds": time.monotonic() - start,
            "protocol": f"{PROTOCOL} {opened.setting} {corruptions}",
            "detail": {"clean": performance, **values},
        }
        yield Measurement(metric=metric, value=mean, **common)
        relative = relative_performance(mean, performance)
        yield Measurement(metric=f"relative_{metric}", value=relative, **common)


def detection(run: Run) -> Iterator[Result]:
    """COCO, clean."""
    yield from _measure(run, "coco", "coco-val2017")


def detection_corruption(run: Run) -> Iterator[Result]:
    """COCO-C."""
    yield from _measure_corrupted(run, "coco", "coco-c")


def segmentation(run: Run) -> Iterator[Result]:
    """ADE20K, clean."""
    yield from _measure(run, "ade20k", "ade20k-val")


def segmentation_corruption(run: Run) -> Iterator[Result]:
    """ADE20K-C."""
    yield from _measure_corrupted(run, "ade20k", "ade20k-c")


def cityscapes(run: Run) -> Iterator[Result]:
    """Cityscapes, clean."""
    yield from _measure(run, "cityscapes", "cityscapes-val")


def cityscapes_corruption(run: Run) -> Iterator[Result]:
    """Cityscapes-C."""
    yield from _measure_corrupted(run, "cityscapes", "cityscapes-c")
