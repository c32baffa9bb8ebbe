"""``./reproduce.sh SLUG train``: train one of a paper's models by a setting of its recipe."""

from __future__ import annotations

import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from common.declaration import Paper
from common.errors import UserError
from common.training import command
from results.training import write_report

if TYPE_CHECKING:
    from common.training.hooks import Hook
    from common.training.recipe import Recipe


def add_arguments(parser: ArgumentParser, paper: Paper) -> None:
    """Declare the options of a training."""
    command.add_arguments(parser)


def run(paper: Paper, args: Namespace) -> int:
    """Train with the hooks that the paper has in ``training.py``."""
    models = [model.name for model in paper.all_models]
    return command.run(
        args, slug=paper.slug, recipe_path=paper.recipe, models=models, hooks=_hooks(paper), report=write_report
    )


def _hooks(paper: Paper) -> Callable[[Recipe], Sequence[Hook]]:
    """The function ``hooks`` of the paper's ``training.py``; a paper without one changes nothing about training."""
    if find_spec(f"{paper.package}.training") is not None:
        return importlib.import_module(f"{paper.package}.training").hooks

    def none(recipe: Recipe) -> Sequence[Hook]:
        if recipe.method:
            raise UserError(
                f"{paper.recipe} has [{recipe.setting}.method], but {paper.folder / 'training.py'} with the function "
                "hooks(recipe) that would use it is missing."
            )
        return ()

    return none
