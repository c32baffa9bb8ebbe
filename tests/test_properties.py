"""What holds for every input where inputs are open: tables and recipes that people write, images in any batches."""

from __future__ import annotations

import csv
import io
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import UserError
from common.manifest import COLUMNS, load_manifest
from common.robustness.attacks import PatchPgd, Pgd
from common.robustness.corruptions import CORRUPTIONS, EXTRA, corrupt
from common.training.recipe import KEYS, load_recipe

RECIPE = Path(__file__).parent / "training" / "recipe.toml"
#: The same examples in every run.
some = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
#: Every seed that fits 64 bits, edges included.
seeds = st.integers(0, 2**63 - 1)
#: Where a batch of six is cut.
cuts = st.sets(st.integers(1, 5))
cell = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12).map(str.strip)


#: A name as manifests have them.
word = cell.filter(lambda text: bool(text) and not any(map(str.isspace, text)))


def objection(call: Callable[[], object]) -> str:
    """What a call says that refuses its input, as every refusal must; empty where it takes it."""
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


def manifest(text: str) -> Path:
    path = Path(tempfile.mkdtemp()) / "expected.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


@some
@given(st.text(st.characters(codec="utf-8"), max_size=200), st.booleans())
def test_any_text_is_a_manifest_or_refused_in_a_sentence(text: str, with_header: bool) -> None:
    path = manifest((",".join(COLUMNS) + "\n") * with_header + text)
    said = objection(lambda: load_manifest(path))
    assert not said or str(path) in said


@some
@given(
    word,
    cell.filter(bool),
    st.decimals(-1000, 1000, places=2),
    cell.filter(lambda note: not note.startswith("off, known:")),
)
def test_a_manifest_gives_back_what_was_written(model: str, source: str, value: object, note: str) -> None:
    row = {"model": model, "dataset": "imagenet-1k", "metric": "top1", "value": str(value), "unit": "%"}
    row |= {"source": source, "locator": "table 1", "note": note}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    writer.writerow(row)
    (found,) = load_manifest(manifest(text.getvalue())).to_dict("records")
    assert {key: found[key] for key in row} == row
    assert found["printed"] == float(str(value))


@some
@given(st.sampled_from(sorted(KEYS)), st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_value_is_set_or_refused_in_a_sentence(key: str, value: str) -> None:
    said = objection(lambda: load_recipe(RECIPE, "tiny", changes=[f"{key}={value}"]))
    assert not said or key in said


@some
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_line_in_a_recipe_is_read_or_refused_in_a_sentence(line: str) -> None:
    path = Path(tempfile.mkdtemp()) / "recipe.toml"
    path.write_text(f"{RECIPE.read_text()}\n{line}\n", encoding="utf-8")
    said = objection(lambda: load_recipe(path, "tiny"))
    assert not said or str(path) in said


def parts(six: list[int], where: set[int]) -> list[list[int]]:
    edges = [0, *sorted(where), 6]
    return [six[start:stop] for start, stop in itertools.pairwise(edges)]


@pytest.mark.parametrize("name", [*CORRUPTIONS, *EXTRA])
@settings(some, max_examples=3)
@given(severity=st.integers(1, 5), drawn=st.lists(seeds, min_size=6, max_size=6), where=cuts)
def test_corruption_of_an_image_is_its_seeds_alone(name: str, severity: int, drawn: list[int], where: set[int]) -> None:
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(severity))
    whole = corrupt(images, name, severity, seeds=drawn)
    places = parts([*range(6)], where)
    split = [corrupt(images[part], name, severity, seeds=[drawn[i] for i in part]) for part in places]
    assert torch.equal(torch.cat(split), whole)


@pytest.mark.parametrize("norm", ["linf", "l2", "patch"])
@settings(some, max_examples=10)
@given(drawn=st.lists(seeds, min_size=6, max_size=6), where=cuts)
def test_attack_on_an_image_is_its_seeds_alone(norm: str, drawn: list[int], where: set[int]) -> None:
    draws = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.Tanh(), nn.Linear(16, 5)).eval().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=draws)
    images = torch.rand(6, 3, 8, 8, generator=draws, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    attack = (
        PatchPgd(size=4, step=0.1, steps=3)
        if norm == "patch"
        else Pgd(epsilon=0.3, step=0.1, steps=3, norm=norm, random_start=True)  # type: ignore[arg-type]
    )
    whole = attack(model, images, labels, seeds=drawn)
    places = parts([*range(6)], where)
    split = [attack(model, images[part], labels[part], seeds=[drawn[i] for i in part]) for part in places]
    assert torch.allclose(torch.cat(split), whole, atol=1e-9)
