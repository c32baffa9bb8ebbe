"""``./reproduce.sh bench hours [--write]``: the table of GPU-hours in docs/training-cost.md, from the recipes."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import timm

import papers
from common.declaration import Paper
from common.files import write_atomic
from common.profiling import flops
from common.progress import track
from common.shapes import shapes_only
from common.training.cost import A100, IMAGENET_IMAGES, gpu_hours, passes
from common.training.hooks import Hook
from common.training.recipe import Recipe, load_recipe, settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training-cost.md"
SETTING = "imagenet"


def trainable() -> list[tuple[Paper, str]]:
    """Return each paper that has a recipe for ImageNet with each model that it defines."""
    return [
        (paper, model.name)
        for paper in papers.all_papers().values()
        if paper.recipe.is_file() and SETTING in settings(paper.recipe)
        for model in paper.models
        if not model.defined_by and "_cifar" not in model.name  # networks for small images
    ]


def hooks_of(paper: Paper, recipe: Recipe) -> Sequence[Hook]:
    """Return the paper's hooks for a recipe."""
    if find_spec(f"{paper.package}.training") is None:
        return ()
    return importlib.import_module(f"{paper.package}.training").hooks(recipe)


def row(paper: Paper, model: str, multiply_adds: float) -> str:
    """Return a line of the table; ``multiply_adds`` in units of 1e9, as shown."""
    recipe = load_recipe(paper.recipe, SETTING, model=model)
    hooks = hooks_of(paper, recipe)
    hours = gpu_hours(recipe, 1e9 * multiply_adds, hooks=hooks)
    return (
        f"| {paper.slug} | {model} | {multiply_adds:.2f} | {recipe.total_epochs} | {recipe.total_batch} "
        f"| {passes(hooks):.2g} | {hours:,.0f} |"
    )


def page(rows: Sequence[str]) -> str:
    """Return the whole page."""
    reached = A100.utilisation * A100.peak / 1e12
    return f"""# How long the full recipes take

Estimates, to plan with; nothing here was timed. `./reproduce.sh bench hours --write` writes this page from the recipes
and the models.

A step costs three forward passes (forward, and backward at twice the work) for each pass over its batch; patch-wise
augmentation with its gradient kept makes it two passes, and so do two views of each image. A multiply-add is two
operations. An epoch of ImageNet-1k has {IMAGENET_IMAGES:,} images, less the incomplete batch. A GPU is assumed to
reach {A100.utilisation:.0%} of {A100.peak / 1e12:.0f} TFLOP/s, the data sheet's peak of an {A100.name} in float16 and
bfloat16: {reached:.0f} TFLOP/s. Measure your own share (images per second in the log, times the multiply-adds below,
times six) and scale the hours with it. Evaluation after each epoch, data loading and a first compilation come on top;
small models and the recurrent attentions reach a smaller share.

| paper | model | multiply-adds (1e9) | epochs | total batch | passes | GPU-hours |
|---|---|---:|---:|---:|---:|---:|
""" + "".join(f"{line}\n" for line in rows)


def measured() -> Iterator[str]:
    """Count each model and yield its row."""
    for paper, model in track(trainable(), "counting multiply-adds"):
        with shapes_only():
            built = timm.create_model(model)
        yield row(paper, model, round(flops(built, built.default_cfg["input_size"]).total / 1e9, 2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(prog="bench hours", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    args = parser.parse_args(arguments)
    text = page(list(measured()))
    if args.write:
        write_atomic(PAGE, text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
