"""What every paper must have, whoever adds it: tested for each folder in ``papers/``."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch

import papers
from common import bench, protocols
from common.bench.inference import Hypothesis
from common.checkpoints import from_released, to_released
from common.declaration import Paper
from common.manifest import load_manifest
from common.needs import NEEDS
from common.run import measuring_function
from common.shapes import shapes_only
from common.training.recipe import load_as, load_recipe, settings
from papers._commands import compare
from papers._commands.train import _hooks

CHECKOUT = Path(__file__).resolve().parents[1]
each_paper = pytest.mark.parametrize("paper", papers.all_papers().values(), ids=lambda paper: paper.slug)


@each_paper
def test_files_are_there(paper: Paper) -> None:
    for path in (paper.folder / "README.md", paper.manifest, paper.recipe):
        assert path.is_file(), path
    sections = ("claims", "deviations") if load_manifest(paper.manifest).empty else ("claims", "numbers", "deviations")
    for section in sections:
        assert f"<!-- generated: {section} -->" in (paper.folder / "README.md").read_text(), section
    assert "{" in paper.bibtex
    assert str(paper.year) in paper.bibtex
    assert paper.licence or not paper.repository, "the licence of released code decides what may be done with it"
    assert paper.commit or not paper.repository, "parity is with one commit"


@each_paper
def test_claims_can_be_measured(paper: Paper) -> None:
    assert paper.claims
    for claim in paper.claims:
        assert callable(measuring_function(paper, claim)), claim.name
        assert set(claim.needs) <= set(NEEDS), claim.name
        assert claim.statement.endswith("."), claim.name
        if ":" in claim.primary:  # a comparison, not the name of a finding
            assert Hypothesis.parse(claim.primary).text == claim.primary, claim.name


@pytest.mark.parametrize(
    "paper",
    # By its text, so that collecting tests imports no claims.
    [p for p in papers.all_papers().values() if "\ndef contenders(" in (p.folder / "claims.py").read_text()],
    ids=lambda paper: paper.slug,
)
def test_contenders_are_classifiers_of_the_bench(paper: Paper) -> None:
    own = compare.contenders(paper)
    assert own
    assert len({contender.name for contender in own}) == len(own), "contenders of one name are trained once"
    budget = bench.host("vit_mini").settings()
    for contender in own:
        recipe = contender.settings()
        # An image that a method passes in several views counts as often.
        copies = max((hook.copies for hook in contender.hooks(recipe)), default=1)
        assert copies * recipe.epochs * recipe.epoch_images <= budget.epochs * budget.epoch_images, contender.name
        with torch.no_grad():
            assert contender.build().eval()(torch.rand(2, 3, 28, 28)).shape == (2, 10), contender.name


@each_paper
def test_every_printed_row_is_of_a_known_model_and_settled_once(paper: Paper) -> None:
    known = {model.name for built_on in (paper.slug, *paper.builds_on) for model in papers.find(built_on).all_models}
    for row in load_manifest(paper.manifest).itertuples():
        architecture = row.model.partition(".")[0]
        # A source that does not say which variant it measured has the slug in place of a model.
        assert architecture in known | {paper.slug} or timm.is_model(architecture), row.model
        claims = [claim.name for claim in paper.claims if claim.covers(row.dataset, row.metric)]
        assert len(claims) <= 1, f"{row.dataset} {row.metric} is settled by {claims}"


@each_paper
def test_every_setting_of_the_recipe_loads_for_every_model(paper: Paper) -> None:
    assert not (paper.recipe_type and paper.all_models), "registered models are trained by common.training's recipes"
    for setting in settings(paper.recipe):
        if paper.recipe_type:
            module, _, name = paper.recipe_type.partition(":")
            for quick in (False, True):
                load_as(getattr(importlib.import_module(module), name), paper.recipe, setting, quick=quick)
            continue
        for model in paper.all_models or (None,):
            recipe = load_recipe(paper.recipe, setting, model=model.name if model else "")
            if not model:
                continue
            hooks = _hooks(paper)(recipe)
            assert bool(recipe.method) or not hooks


@each_paper
def test_deviations_say_where_their_effect_is_seen(paper: Paper) -> None:
    claims = {claim.name for claim in paper.claims}
    for deviation in paper.deviations:
        assert deviation.effect in claims or deviation.effect.endswith("."), deviation.name
    assert not [name for name, n in Counter(d.name for d in paper.deviations).items() if n > 1]


@pytest.mark.parametrize("name", sorted({m.name for paper in papers.all_papers().values() for m in paper.all_models}))
def test_every_declared_model_builds_and_keeps_to_the_protocols(name: str) -> None:
    """Also, its released names and shapes lead back to its own; values are compared in the papers' parity tests."""
    with shapes_only():
        model = timm.create_model(name, num_classes=1000)  # timm builds some without a classifier
        returned = from_released(to_released(model), model)
    assert model.num_classes == 1000
    for module in {type(module): module for module in model.modules()}.values():
        _keeps_to(module, protocols.OF_MODULES)
    own = {key: tensor.shape for key, tensor in model.state_dict().items()}
    derived = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        if isinstance(module, protocols.HasDerivedState)
        for name in module.derived
    }
    # Not every release has the counters of batch norms, which are optional in files.
    optional = derived | {key for key in own if key.endswith("num_batches_tracked")}
    assert {key: own[key] for key in optional} | {key: tensor.shape for key, tensor in returned.items()} == own


@each_paper
def test_claims_and_conversions_keep_to_the_protocols(paper: Paper) -> None:
    _keeps_to(importlib.import_module(f"{paper.package}.claims"), protocols.OF_CLAIMS)
    for path in paper.folder.glob("*.py"):
        tree = ast.parse(path.read_text())
        for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
            if function.name in protocols.CONVERSIONS:
                assert [argument.arg for argument in function.args.args] == ["state_dict", "model"], path


def _keeps_to(thing: object, offered: tuple[type, ...]) -> None:
    """Assert that ``thing`` has all of a protocol or nothing of it, with the arguments that the protocol names."""
    for protocol in offered:
        members = [name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")]
        if not any(hasattr(thing, name) for name in members):
            continue
        assert isinstance(thing, protocol), f"{thing!r} lacks one of {', '.join(members)}, see common/protocols.py"
        for method in (name for name in members if inspect.isfunction(vars(protocol).get(name))):
            asked = list(inspect.signature(vars(protocol)[method]).parameters)[1:]  # without self
            found = list(inspect.signature(getattr(thing, method)).parameters)
            assert found[: len(asked)] == asked, f"{method} of {thing!r} takes {found}, and not {asked}"


def test_importing_papers_adds_declarations_only_to_timm() -> None:
    """By the modules that are imported, since times vary, beside a timm that is nothing but its registry."""
    script = """
import sys, types
registry = types.ModuleType("timm.models")
registered = []
registry.is_model = lambda name: False
registry.register_model = lambda build: registered.append(build.__name__)
sys.modules.update({"timm": types.ModuleType("timm"), "timm.models": registry})
import papers
print(len(registered))
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    count, imported = done.stdout.splitlines()
    own = [m.name for paper in papers.all_papers().values() for m in paper.models]
    assert int(count) == len(own)
    modules = set(imported.split())
    packages = {path.parent.name for path in (CHECKOUT / "papers").glob("*/__init__.py")}
    of_papers = {name for name in modules if name.partition(".")[0] == "papers"}
    assert of_papers <= {"papers", *(f"papers.{name}" for name in packages)}
    heavy = {"torch", "torchvision", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "fvcore", "rich", "PIL"}
    assert not heavy & modules
