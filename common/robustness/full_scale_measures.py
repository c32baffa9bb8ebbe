"""How the full-scale claims are measured: the checkpoint that the user gives, on the folders that the user gives."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from common.checkpoints import (
    MisfitError,
    choose,
    is_trained,
    load_released,
    load_trained,
    read,
    take_weights,
    to_released,
    unwrap,
)
from common.declaration import Paper
from common.errors import UserError, nearest
from common.manifest import load_manifest
from common.measurement import Measurement, Weights, WeightsChoice
from common.robustness.evaluation import Execution, evaluate
from common.run import Run
from common.shapes import shapes_only


def load_model(run: Run, num_classes: int = 1000) -> tuple[nn.Module, str, Weights]:
    """The model with the user's checkpoint, its name in measurements, and where the weights come from.

    Without a name, the model is the first of the paper's that the checkpoint fits. A file does not tell how its weights
    were trained: where all that is printed for the model is of tagged weights (``NAME.linear``), the user must say.
    A weight tag that ends in a size (``.in22k_ft_in1k_384``, as timm has it) is evaluated on images of so many pixels.

    Args:
        run: has the checkpoint, and the name where the user gave one.
        num_classes: of the data set that is evaluated on.

    Raises:
        UserError: the checkpoint is unreadable, does not fit the named model, or fits none; the name has a tag that is
            not printed, or none is given and must be.
    """
    checkpoint = run.settings.checkpoint
    if checkpoint is None:
        raise UserError("Full-scale evaluation needs weights; pass --checkpoint FILE.")
    content, what = choose(read(checkpoint), run.settings.checkpoint_weights, checkpoint)
    name = run.settings.model or _identified(run.paper, checkpoint, checkpoint.stat().st_mtime_ns, num_classes)
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        known = [model.name for model in run.paper.all_models]
        raise UserError(f"There is no model {architecture!r}.{nearest(architecture, known)}")
    tagged = [model for model, *_ in _printed(run.paper, architecture) if model != architecture]
    if name != architecture and tagged and name not in tagged:
        raise UserError(
            f"{run.paper.slug} has no printed number for {name!r}.{nearest(name, tagged)} Known are "
            f"{', '.join(sorted(set(tagged)))}; {architecture} without a tag is for other weights."
        )
    model = build(name, num_classes)
    weights = load_weights(model, content, str(checkpoint))
    take_weights(model, what)
    return model.to(torch.device(run.settings.device)).eval(), name, weights


def build(name: str, num_classes: int) -> nn.Module:
    """The model of a name with or without a weight tag, for images of the size that ends the tag."""
    architecture, _, tag = name.partition(".")
    size = re.search(r"_(\d{3,4})$", tag)
    if size is None:
        return timm.create_model(architecture, num_classes=num_classes)
    pixels = int(size[1])
    # Any, since torch types attributes as tensors or modules.
    model: Any = timm.create_model(architecture, num_classes=num_classes, img_size=pixels)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, pixels, pixels)}
    return model


def load_checkpoint(model: nn.Module, path: Path, choice: WeightsChoice | None = None) -> Weights:
    """Load a released or own checkpoint; returns which it is.

    Raises:
        UserError: it cannot be read, does not fit ``model``, or lacks the weights that are chosen.
    """
    content, what = choose(read(path), choice, path)
    weights = load_weights(model, content, str(path))
    take_weights(model, what)
    return weights


def load_weights(model: nn.Module, content: Mapping[str, Any], where: str) -> Weights:
    """Load the content of a released or own checkpoint; returns which it is.

    Raises:
        UserError: it does not fit ``model``.
    """
    if is_trained(content):
        load_trained(model, content, where)
        return "trained"
    load_released(model, content, where=where)
    return "released"


def identify(paper: Paper, content: Mapping[str, Any], path: Path, num_classes: int = 1000) -> str:
    """The first of the paper's models that a checkpoint's content fits, by names and shapes of all tensors.

    Raises:
        UserError: it fits none; says which comes nearest, and where it differs.
    """
    misfits: list[tuple[int, str, str]] = []
    for model in paper.all_models:
        # On the meta device nothing is computed or allocated, so that trying every model is cheap.
        with shapes_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            candidate = timm.create_model(model.name, num_classes=num_classes)
            try:
                load_weights(candidate, content, str(path))
            except MisfitError as error:
                misfits.append((error.tensors, model.name, str(error)))
                continue
            except (UserError, RuntimeError):  # timm's conversions break on files of some other models
                continue
        if _fits(candidate, content):
            return model.name
    unwrap(content)  # complains where there is no state dict at all
    if not misfits:
        raise UserError(f"{path} fits none of the models of {paper.slug}; pass --model NAME to see where it differs.")
    _, name, reason = min(misfits, key=lambda misfit: misfit[0])
    raise UserError(f"{path} fits none of the models of {paper.slug}, {name} comes nearest: {reason}")


@lru_cache(maxsize=4)  # several claims are measured with one file, and a paper has many models to try
def _identified(paper: Paper, path: Path, modified: int, num_classes: int) -> str:
    """The model that a checkpoint fits, unless numbers are printed for it under names with a tag alone."""
    name = identify(paper, read(path), path, num_classes)
    claims = [claim for claim in paper.claims if "checkpoint" in claim.needs]
    rows = _printed(paper, name)
    printed = sorted({model for model, *what in rows if any(claim.covers(*what) for claim in claims)})
    if not printed or name in printed:
        return name
    raise UserError(
        f"{path} fits {name}, for which numbers are printed as {', '.join(printed)}: say which it is with --model "
        f"{printed[0]} or another name, or with --model {name} that it is none of them."
    )


def _printed(paper: Paper, architecture: str) -> list[tuple[str, str, str]]:
    """Model with tag, data set and metric of the manifest's rows of ``architecture``."""
    table = load_manifest(paper.manifest)
    rows = zip(*(table[column].astype(str) for column in ("model", "dataset", "metric")), strict=True)
    return [row for row in rows if row[0].partition(".")[0] == architecture]


def _fits(model: nn.Module, content: Mapping[str, Any]) -> bool:
    """Whether every tensor of a file has the model's sizes, those included that loading resizes or leaves out."""
    state, buffers = unwrap(content), dict(model.named_buffers())
    return any(
        all(own[name].shape == value.shape for name, value in state.items() if name in own)
        for own in ({**buffers, **to_released(model)}, {**buffers, **model.state_dict()})
    )


def _measuring(benchmark: str, need: str) -> Callable[[Run], Iterator[Measurement]]:
    def measure(run: Run) -> Iterator[Measurement]:
        model, name, weights = load_model(run)
        printed = _printed(run.paper, name.partition(".")[0])
        for found in evaluate(
            model,
            benchmark,
            run.settings.folders[need],
            model_name=name,
            weights=weights,
            execution=Execution.of(run.settings),
            output=run.folder / "evaluation",
        ):
            yield found
            if found.metric == "top1" and (name, found.dataset, "top1_error") in printed:
                yield _error(found)

    measure.__doc__ = f"Measure the user's checkpoint on the benchmark {benchmark!r}."
    return measure


def _error(accuracy: Measurement) -> Measurement:
    """What some sources print instead of an accuracy in per cent."""
    low, high = accuracy.interval or (accuracy.value, accuracy.value)
    return replace(accuracy, metric="top1_error", value=100 - accuracy.value, interval=(100 - high, 100 - low))


imagenet = _measuring("imagenet", "imagenet")
imagenet_attacks = _measuring("imagenet-attacks", "imagenet")
imagenet_pgd100 = _measuring("imagenet-pgd100", "imagenet")
imagenet_autoattack = _measuring("imagenet-autoattack", "imagenet")
imagenet_autoattack_unseen = _measuring("imagenet-autoattack-unseen", "imagenet")
imagenet_occlusion = _measuring("imagenet-occlusion", "imagenet")
imagenet_frequency = _measuring("imagenet-frequency", "imagenet")
imagenet_c = _measuring("imagenet-c", "imagenet-c")
imagenet_c_19 = _measuring("imagenet-c-19", "imagenet-c-19")
imagenet_v2 = _measuring("imagenet-v2", "imagenet-v2")
imagenet_a = _measuring("imagenet-a", "imagenet-a")
imagenet_r = _measuring("imagenet-r", "imagenet-r")
imagenet_real = _measuring("imagenet-real", "imagenet-real")
imagenet_sketch = _measuring("imagenet-sketch", "imagenet-sketch")
stylized_imagenet = _measuring("stylized-imagenet", "stylized-imagenet")
objectnet = _measuring("objectnet", "objectnet")
cue_conflict = _measuring("cue-conflict", "cue-conflict")


def corruption_cells(run: Run) -> Iterator[Measurement]:
    """Accuracy under each corruption and severity of ImageNet-C, from the same records as ``imagenet_c``."""
    for measured in imagenet_c(run):
        _, _, cell = measured.metric.partition("corruption_error/")
        if not cell:
            continue
        interval = measured.interval and (100 - measured.interval[1], 100 - measured.interval[0])
        yield replace(
            measured, dataset=f"imagenet-c/{cell}", metric="top1", value=100 - measured.value, interval=interval
        )
