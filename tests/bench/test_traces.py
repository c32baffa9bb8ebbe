"""The first losses of every contender of every paper are those that were kept with the reference results."""

from __future__ import annotations

import csv
from itertools import groupby

import pytest

import papers
from common import bench
from common.declaration import Paper
from papers._commands.compare import contenders

#: Rounding differs between processors, and twenty steps of the optimizer let it grow.
TOLERANCE = 0.01


@pytest.mark.parametrize(
    "paper",
    [paper for slug, paper in papers.all_papers().items() if bench.traces_path(slug).exists()],
    ids=lambda paper: paper.slug,
)
def test_the_experiments_are_those_of_the_reference(paper: Paper) -> None:
    papers.register_models()
    with bench.traces_path(paper.slug).open(newline="", encoding="utf-8") as file:
        rows = [(row["contender"], float(row["loss"])) for row in csv.DictReader(file)]
    kept = {name: [loss for _, loss in own] for name, own in groupby(rows, key=lambda row: row[0])}
    own = {contender.name: contender for contender in contenders(paper)}
    assert set(own) == set(kept), f"call ./reproduce.sh reference {paper.slug}: its contenders have changed"
    for name, contender in own.items():
        assert bench.first_losses(contender) == pytest.approx(kept[name], rel=TOLERANCE), name
