"""What a paper's full-scale training takes: a table for its README, from its recipe and the sizes that we measured."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import pandas as pd

from common.declaration import Paper
from common.training.hooks import Hook
from common.training.recipe import Recipe, load_recipe, settings

SETTING = "imagenet"
HEADER = ("model", "multiply-adds (1e9)", "epochs", "total batch", "passes", "GPU-hours")


def trainable(paper: Paper) -> list[str]:
    """The models that the paper defines and its recipe trains on ImageNet."""
    if not paper.recipe.is_file() or SETTING not in settings(paper.recipe):
        return []
    return [model.name for model in paper.models if "_cifar" not in model.name]


def rows(paper: Paper) -> list[tuple[str, ...]]:
    """A row a model, columns of :data:`HEADER`; multiply-adds are kept with the reference results, or counted now."""
    from common.training.cost import gpu_hours, passes
    from results import reference

    table = reference.table_of(paper.slug)
    counted = {} if table is None else _multiply_adds(table)
    found: list[tuple[str, ...]] = []
    for model in trainable(paper):
        recipe = load_recipe(paper.recipe, SETTING, model=model)
        hooks = _hooks(paper, recipe)
        operations = counted[model] if model in counted else _count(model)
        hours = gpu_hours(recipe, 1e9 * operations, hooks=hooks)
        epochs, batch = str(recipe.total_epochs), str(recipe.total_batch)
        found.append((model, f"{operations:.2f}", epochs, batch, f"{passes(hooks):.2g}", f"{hours:,.0f}"))
    return found


def _count(model: str) -> float:
    import timm

    from common.profiling import flops
    from common.shapes import shapes_only

    with shapes_only():
        built: Any = timm.create_model(model)
    return flops(built, built.default_cfg["input_size"]).total / 1e9


def _multiply_adds(table: pd.DataFrame) -> dict[str, float]:
    sizes = table[(table["kind"] == "measurement") & (table["metric"] == "flops")]
    return dict(zip(sizes["model"], sizes["value"], strict=True))


def _hooks(paper: Paper, recipe: Recipe) -> Sequence[Hook]:
    if find_spec(f"{paper.package}.training") is None:
        return ()
    return importlib.import_module(f"{paper.package}.training").hooks(recipe)
