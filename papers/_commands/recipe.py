"""``./reproduce.sh SLUG recipe``: print a setting of a paper's recipe, with where each value is stated."""

from __future__ import annotations

import dataclasses
import importlib
import json
from argparse import ArgumentParser, Namespace
from typing import Any

from common.declaration import Paper
from common.errors import UserError, nearest
from common.training.recipe import KEYS, load_as, load_recipe, origins, settings
from common.training.recipe_file import BENCH, bases


def add_arguments(parser: ArgumentParser, paper: Paper) -> None:
    """Declare the options."""
    parser.epilog = (
        "Each value is followed by the line that states it and that line's comment, which is its source; what has no\n"
        "comment has the source that is named at the head of the file."
    )
    parser.add_argument("setting", metavar="SETTING", nargs="?", help="e.g. imagenet (default: list the settings)")
    parser.add_argument("--model", metavar="M", help="as it is for this model of the paper")
    parser.add_argument("--quick", action="store_true", help="as it is in the quick form")


def run(paper: Paper, args: Namespace) -> int:
    """Print the settings with their bases, or one setting."""
    if args.setting is None:
        if args.model or args.quick:
            raise UserError(f"--model and --quick are of a setting; name one of {', '.join(settings(paper.recipe))}.")
        names = settings(paper.recipe)
        width = max(map(len, names))
        for name in names:
            print(f"{name:{width}}  {_based_on(paper, name)}".rstrip())
        return 0
    models = [model.name for model in paper.all_models]
    if args.model and args.model not in models:
        raise UserError(f"{args.model} is not a model of {paper.slug}.{nearest(args.model, models)}")
    form = {"model": args.model or "", "quick": args.quick}
    values, rates = _values(paper, args.setting, **form)
    stated = origins(paper.recipe, args.setting, **form)
    title = [f"{paper.slug} {args.setting}", args.model, "quick" if args.quick else "", _based_on(paper, args.setting)]
    print(", ".join(filter(None, title)))
    lines = [(f"{key} = {json.dumps(value)}", stated[key]) for key, value in values.items()]
    left, middle = (max(map(len, column)) for column in zip(*((t, o.short) for t, o in lines), strict=True))
    for text, origin in lines:
        print(f"  {text:{left}}  {origin.short:{middle}}  {origin.comment}".rstrip())
    print(rates, end="")
    return 0


def _based_on(paper: Paper, setting: str) -> str:
    """A setting's bases as a recipe names them, the nearest first."""
    _, *above = reversed(bases(paper.recipe, setting))
    names = [
        "bench"
        if table.path == BENCH[0]
        else table.name
        if table.path == paper.recipe
        else f"{table.path.parent.name.replace('_', '-')}:{table.name}"
        for table in above
    ]
    return f"based on {', then '.join(names)}" if names else ""


def _values(paper: Paper, setting: str, *, model: str, quick: bool) -> tuple[dict[str, Any], str]:
    """A setting's values, the method's under ``method.key``, and a line on its learning rates."""
    if paper.recipe_type:
        module, _, name = paper.recipe_type.partition(":")
        kind = getattr(importlib.import_module(module), name)
        return dataclasses.asdict(load_as(kind, paper.recipe, setting, quick=quick)), ""
    recipe = load_recipe(paper.recipe, setting, model=model, quick=quick)
    values = recipe.as_dict()
    method = {f"method.{key}": value for key, value in recipe.method.items()}
    return {key: values[key] for key in KEYS} | method, f"  {recipe.describe_rates()}\n"
