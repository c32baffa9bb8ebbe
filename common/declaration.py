"""The typed declaration of a paper: everything about it that is not code.

A declaration is light: importing it imports neither torch nor a model. Code is found by convention:

- a model is built by ``create(name, pretrained=False, **kwargs)`` in ``papers/<slug>/model.py``;
- a claim is measured by the function with the claim's name in ``papers/<slug>/claims.py``;
- what counts in its models otherwise than usual is ``model_size(name)`` in ``claims.py``, where it has such models (see
  ``common.profiling.size``);
- what it changes about training is ``hooks(recipe)`` in ``papers/<slug>/training.py``, where it has one;
- what it trains on the bench is ``contenders()`` in ``claims.py``, where it trains anything there;
- printed numbers are in ``expected.csv``, training settings in ``recipe.toml``, both beside the declaration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from common.needs import NEEDS, Need

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of a paper.

    Attributes:
        name: timm's name, unique among all papers.
        released: the variant's name in the released implementation and in the parity fixtures, or empty where
            nothing was released for it.
    """

    name: str
    released: str = ""


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """A place where publication, released code and our code differ.

    Attributes:
        name: short identifier.
        publication: what the publication says.
        released: what the released code does.
        ours: what we do by default.
        switch: the argument or recipe key that selects the other form.
        effect: the claim that measures the effect, or one sentence why it cannot be measured here.
    """

    name: str
    publication: str
    released: str
    ours: str
    switch: str
    effect: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a paper and what it takes to measure it.

    Attributes:
        name: the function in ``claims.py`` that measures it; a Python identifier.
        statement: the claim in one sentence.
        needs: names from ``common.needs.NEEDS``; empty where nothing is needed.
        takes: needs without which it is measured only in part.
        settles: ``(dataset, metric)`` of the manifest rows that it measures; ``*`` matches any.
        measured_by: ``module:function`` of a shared instrument, where ``claims.py`` has no function of its own.
        primary: name of the finding whose verdict is the claim's, chosen before anything is measured; empty where the
            claim only settles printed numbers.
    """

    name: str
    statement: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    settles: tuple[tuple[str, str], ...] = ()
    measured_by: str = ""
    primary: str = ""

    def __post_init__(self) -> None:
        if not _IDENTIFIER.fullmatch(self.name):
            raise ValueError(f"claim {self.name!r}: the name must be a lower-case Python identifier")
        unknown = [need for need in (*self.needs, *self.takes) if need not in NEEDS]
        if unknown:
            raise ValueError(
                f"claim {self.name!r}: unknown need {unknown[0]!r}; known are {', '.join(NEEDS)}; "
                "common.needs.own_folder makes a data set of the paper's own known"
            )

    def covers(self, dataset: str, metric: str) -> bool:
        """Whether this claim settles a manifest row with this data set and metric."""
        return any(d in ("*", dataset) and m in ("*", metric) for d, m in self.settles)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper of the suite.

    Attributes:
        slug: the name of its folder, with ``-`` where the folder has ``_``.
        title, authors, venue, year: as published.
        kind: what sort of contribution it makes, in the field's words: architecture, attention, label mixing,
            augmentation, adversarial training, self-supervision, analysis, survey, ...; it is shown, nothing else.
        arxiv: arXiv identifier, or empty.
        summary: what the paper claims, one sentence.
        bibtex: the entry to cite.
        repository: the released implementation, or empty.
        commit: the commit of it that we compare with, or empty.
        licence: licence of the released code; ``none stated`` means that nothing of it may be copied.
        models: what its own ``model.py`` builds and adds to timm's registry.
        reused_models: models of timm or of another paper that it trains or measures; their ``released`` is the name
            of this paper's weights for them.
        converts: modules of timm whose released names the paper's ``model.py`` converts to (``released_state_dict``) or
            from (``checkpoint_filter_fn``), where timm itself does not; ``MODULE:PATTERN`` for some architectures.
        claims: in the order in which they are measured, those on the user's own data before all others.
        deviations: known differences between publication, release and our code.
        builds_on: slugs of the papers whose manifests and models this one is measured against.
        recipe_type: ``module:class`` of the dataclass that a setting of ``recipe.toml`` is, where the paper trains no
            registered model; empty where it is ``common.training.recipe.Recipe``.
        folder: where the declaration is; set by ``papers``.
    """

    slug: str
    title: str
    authors: tuple[str, ...]
    venue: str
    year: int
    kind: str
    summary: str
    bibtex: str
    arxiv: str = ""
    repository: str = ""
    commit: str = ""
    licence: str = ""
    models: tuple[Model, ...] = ()
    reused_models: tuple[Model, ...] = ()
    converts: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    deviations: tuple[Deviation, ...] = ()
    builds_on: tuple[str, ...] = ()
    recipe_type: str = ""
    folder: Path = field(default=Path(), compare=False)

    def __post_init__(self) -> None:
        if not _SLUG.fullmatch(self.slug):
            raise ValueError(f"slug {self.slug!r}: use lower-case letters, digits and single hyphens")
        for what, names in (
            ("model", [m.name for m in self.all_models]),
            ("claim", [c.name for c in self.claims]),
        ):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"paper {self.slug!r}: {what} {sorted(twice)[0]!r} is declared twice")

    @property
    def package(self) -> str:
        """The importable name of the paper's package, e.g. ``papers.vars``."""
        return f"papers.{self.slug.replace('-', '_')}"

    @property
    def all_models(self) -> tuple[Model, ...]:
        """Its own models, then those that it reuses."""
        return (*self.models, *self.reused_models)

    @property
    def data_sets(self) -> list[Need]:
        """The folders that a user can name for its claims, in the order of ``common.needs.NEEDS``."""
        used = {need for claim in self.claims for need in (*claim.needs, *claim.takes)}
        return [need for need in NEEDS.values() if need.tier == "data" and need.name in used]

    @property
    def manifest(self) -> Path:
        """The paper's printed numbers."""
        return self.folder / "expected.csv"

    @property
    def recipe(self) -> Path:
        """The paper's training settings."""
        return self.folder / "recipe.toml"
