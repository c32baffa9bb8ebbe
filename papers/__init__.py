"""One package per paper; discovery, and registration of every paper's models with timm.

Importing this package makes every declared model known to ``timm.create_model``. A paper's model code is imported
when one of its models is built, so the cost of the import grows with the number of declarations only. The command
line (``python -m papers``) registers when a command needs models, so that its other commands do not wait for torch.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.conversions import CONVERSIONS
from common.declaration import Model, Paper
from common.errors import UserError, nearest

#: The paper of each model that timm knows from here.
_registered: dict[str, str] = {}


@lru_cache(maxsize=1)
def all_papers() -> dict[str, Paper]:
    """Every paper by its slug, in alphabetical order. Every package here is one, but for the command line's."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.ispkg or module.name.startswith("_"):
            continue
        package = importlib.import_module(f"{__name__}.{module.name}")
        if not hasattr(package, "PAPER"):
            raise UserError(f"{package.__file__} declares no PAPER; ./reproduce.sh new writes a correct skeleton.")
        paper: Paper = dataclasses.replace(package.PAPER, folder=Path(package.__path__[0]))
        if paper.package != package.__name__:
            raise UserError(
                f"{paper.folder / '__init__.py'} declares the slug {paper.slug!r}; its folder must be called "
                f"{paper.slug.replace('-', '_')!r}."
            )
        found[paper.slug] = paper
    return dict(sorted(found.items()))


def find(slug: str) -> Paper:
    """Return the declaration of the paper called ``slug``.

    Raises:
        UserError: no paper has that slug; names the nearest one.
    """
    papers = all_papers()
    if slug not in papers:
        raise UserError(f"There is no paper {slug!r}.{nearest(slug, papers)} ./reproduce.sh list shows all papers.")
    return papers[slug]


def _entrypoint(paper: Paper, model: Model) -> Callable[..., Any]:
    """A timm entrypoint that imports the paper's model code when it is called."""

    def build(pretrained: bool = False, **kwargs: Any) -> Any:
        module = importlib.import_module(f"{paper.package}.model")
        return module.create(model.name, pretrained=pretrained, **kwargs)

    build.__name__ = build.__qualname__ = model.name
    build.__doc__ = f"{model.name} of {paper.title!r} ({paper.venue})."
    build.__module__ = __name__
    return build


def register_models() -> None:
    """Make every model that a paper defines known to ``timm.create_model``; what is known already stays.

    Raises:
        UserError: two models have the same name.
    """
    from timm.models import is_model, register_model

    for paper in all_papers().values():
        CONVERSIONS.update(dict.fromkeys(paper.converts, f"{paper.package}.model"))
        for model in paper.models:
            if _registered.get(model.name) == paper.slug:
                continue
            if is_model(model.name):
                raise UserError(f"{paper.slug}: a model called {model.name!r} is already registered; rename one.")
            register_model(_entrypoint(paper, model))
            _registered[model.name] = paper.slug


# While the package is being located for ``python -m papers``, Python has "-m" as the program's name.
if sys.argv[:1] != ["-m"]:
    register_models()
