from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

import results
from common.errors import UserError
from common.measurement import Finding
from common.run import Run
from results import compare_runs as compare
from results import output, reference
from results.judge import judgement
from results.measured import load, to_csv
from tests.results.fake_paper import DEFAULT, Fake, number, top1


def record(run: Run) -> Path:
    """Write what a comparison reads, without the report."""
    output.record(judgement(run))
    return run.folder


def states(fake: Fake, old: dict, new: dict, *, prefix: str = "", **settings) -> tuple[dict[str, str], int]:
    """State by metric or statement, and exit status, of a comparison of two runs."""
    before = record(fake.full(old, name=f"{prefix}old"))
    after = record(fake.full(new, name=f"{prefix}new", **settings))
    table = compare.changes(compare.read(before), compare.read(after))
    keys = [row.statement or f"{row.model} {row.dataset} {row.metric}" for row in table.itertuples()]
    return dict(zip(keys, table["state"], strict=True)), compare.exit_status(table)


def own(value: float, half: float | None = 1.0, **rest):
    interval = None if half is None else (value - half, value + half)
    return number("net_tiny", "fashion-mnist", "top1", value, weights="trained", interval=interval, seeds=3, **rest)


def test_equal_runs_are_the_same(fake: Fake):
    found, status = states(fake, {}, {})
    assert set(found.values()) == {"same"}
    assert status == 0


@pytest.mark.parametrize(
    ("claim", "old", "new", "state", "status"),
    [
        # Counts must be equal, even where both agree with the printed digits.
        ("size", [number("net", "-", "params", 8.64, "M")], [number("net", "-", "params", 8.6401, "M")], "moved", 1),
        ("size", [number("net", "-", "params", 8.64, "M")], [number("net", "-", "params", 8640.0, "K")], "moved", 1),
        # Half widths of 1 and 1 allow 1.41.
        ("robustness", [own(90.0)], [own(91.4)], "same", 0),
        ("robustness", [own(90.0)], [own(91.5)], "moved", 1),
        # Without an interval the metric's tolerance, 0.6 for top1 of trained weights.
        ("robustness", [own(90.0, None)], [own(90.6)], "same", 0),
        ("robustness", [own(90.0, None)], [own(90.7, None)], "moved", 1),
        ("accuracy", [top1(78.40)], [top1(78.5)], "same", 0),
        ("accuracy", [top1(78.40)], [top1(78.6)], "moved", 1),
        # A time on another machine says nothing.
        (
            "size",
            [number("net", "-", "forward", 3.0, "ms")],
            [number("net", "-", "forward", 9.0, "ms")],
            "not judged",
            0,
        ),
    ],
)
def test_what_moved(fake: Fake, claim, old, new, state, status):
    found, got = states(fake, {claim: old}, {claim: new})
    first = old[0]
    assert found[f"{first.model} {first.dataset} {first.metric}"] == state
    assert got == status


@pytest.mark.parametrize(
    ("exact", "before", "after", "state"),
    [
        (True, "holds", "does not hold", "moved"),
        (True, "holds", "unclear", "moved"),
        (False, "holds", "unclear", "changed"),
        (False, "unclear", "does not hold", "changed"),
        (False, "holds", "does not hold", "moved"),
    ],
)
def test_what_findings_did(fake: Fake, exact, before, after, state):
    old, new = (Finding(statement="s", verdict=v, evidence="e", exact=exact) for v in (before, after))
    found, status = states(fake, {"identity": [old]}, {"identity": [new]})
    assert found["s"] == state
    assert status == (state == "moved")


def test_other_budgets_are_not_compared_and_counts_still_are(fake: Fake):
    found, status = states(fake, {}, {"robustness": [own(10.0)]}, quick=True)
    assert found["net_tiny fashion-mnist top1"] == "not comparable"
    assert found["net_tiny - params"] == "same"
    found, status = states(fake, {}, {"size": [number("net_tiny", "-", "params", 8.6, "M")]}, quick=True, prefix="b-")
    assert found["net_tiny - params"] == "moved"
    assert status == 1


def test_a_number_that_a_finished_or_failed_claim_lost_is_gone(fake: Fake):
    found, status = states(fake, {}, {"size": [DEFAULT["size"][0]], "accuracy": [RuntimeError("no")]})
    assert found["net_tiny - flops"] == "gone"
    assert found["net_tiny imagenet-1k top1"] == "gone"
    assert status == 1


def test_a_claim_that_could_not_be_measured_loses_nothing(fake: Fake):
    old, new = record(fake.full(name="old")), record(fake.run(name="new"))
    table = compare.changes(compare.read(old), compare.read(new))
    assert set(table.loc[table["metric"].eq("top1") & table["dataset"].eq("imagenet-1k"), "state"]) == {"not measured"}
    assert compare.exit_status(table) == 0


def test_a_number_measured_twice_keeps_its_places(fake: Fake):
    twice = [top1(78.4), top1(60.0)]
    _, status = states(fake, {"accuracy": twice}, {"accuracy": twice})
    assert status == 0
    _, status = states(fake, {"accuracy": twice}, {"accuracy": twice[:1]}, prefix="b-")
    assert status == 1


def test_nothing_in_common_is_no_success(fake: Fake):
    side = compare.read(record(fake.run()))
    empty = dataclasses.replace(side, table=side.table.iloc[:0], claims={})
    assert compare.exit_status(compare.changes(empty, side)) == 2


def test_the_command(fake: Fake, capsys):
    for name, params in (("old", 8.64), ("new", 8.65)):
        record(fake.run({"size": [number("net_tiny", "-", "params", params, "M")]}, name=name))
    capsys.readouterr()
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    output = fake.folder / "moved.csv"
    status = compare.run(
        parser.parse_args([str(fake.folder / "old"), str(fake.folder / "new"), "--output", str(output)])
    )
    assert status == 1
    shown = capsys.readouterr().out
    assert "moved" in shown
    assert "must be equal" in shown
    assert "net_tiny" in output.read_text()


@pytest.mark.parametrize("missing", ["folder", "provenance"])
def test_what_is_no_run_is_refused(tmp_path: Path, missing):
    path = tmp_path / "gone" if missing == "folder" else tmp_path
    with pytest.raises(UserError, match="give the folder of a run"):
        compare.read(path)


@pytest.fixture
def committed(fake: Fake, monkeypatch):
    """Pretend that the code under test is a clean commit."""
    monkeypatch.setattr("common.provenance.code", lambda: {"commit": "0123456789abcdef", "dirty": False})


@pytest.mark.usefixtures("committed")
def test_a_reference_is_what_the_run_measured_and_gives_the_state_of_the_paper(fake: Fake, monkeypatch):
    monkeypatch.setattr(reference, "FOLDER", fake.folder / "reference")
    paper = fake.paper()
    before = results.summary(paper)
    assert not before.measured
    assert str(before) == "no reference results; 7 printed numbers"
    run = fake.full({"accuracy": [top1(70.0)]})
    record(run)
    path = reference.write(run.folder)
    assert path == fake.folder / "reference" / "fake.csv"
    assert to_csv(load(path)) == path.read_text()
    state = results.summary(paper)
    assert state.numbers == {"off": 1, "failed": 0, "unclear": 0, "off, known": 0, "reproduced": 2, "not measured": 4}
    assert state.findings == {"does not hold": 1, "unclear": 0, "no difference": 0, "holds": 1}
    assert (before.state, state.state, state.broken) == ("no reference", "off", 0)
    assert (state.own, state.commits) == (2, ("0123456789",))
    assert str(state) == "numbers: 1 off, 2 reproduced, 4 not measured; findings: 1 holds, 1 does not hold"
    table = compare.changes(compare.read(path), compare.read(run.folder))
    assert set(table["state"]) == {"same"}


@pytest.mark.usefixtures("committed")
def test_a_part_of_the_claims_leaves_the_results_of_the_others(fake: Fake, monkeypatch):
    path = fake.folder / "reference.csv"
    whole = fake.full({"accuracy": [top1(70.0)]})
    record(whole)
    reference.write(whole.folder, path)
    others = set(load(path)["claim"]) - {"accuracy"}
    paper = fake.paper()
    part = Run(paper, whole.settings, fake.folder / "part")
    monkeypatch.setattr(fake.module, "accuracy", lambda run: iter([top1(71.0)]))
    part.execute(tuple(claim for claim in paper.claims if claim.name == "accuracy"))
    record(part)
    table = load(reference.write(part.folder, path, part=True))
    assert set(table["claim"]) == {"accuracy"} | others
    assert list(table.loc[table["claim"] == "accuracy", "value"]) == [71.0]


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("trouble", ["failed", "no report"])
def test_a_reference_is_a_finished_run(fake: Fake, trouble):
    run = fake.full({"accuracy": [RuntimeError("no")]})
    if trouble == "failed":
        record(run)
    said = "accuracy is failed" if trouble == "failed" else "not a run with a report"
    with pytest.raises(UserError, match=said):
        reference.write(run.folder, fake.folder / "reference.csv")
    assert not (fake.folder / "reference.csv").exists()


def test_a_reference_is_of_a_commit(fake: Fake, monkeypatch):
    monkeypatch.setattr("common.provenance.code", lambda: {"commit": "0123456789abcdef", "dirty": True})
    run = fake.full()
    record(run)
    with pytest.raises(UserError, match="not committed"):
        reference.write(run.folder, fake.folder / "reference.csv")
