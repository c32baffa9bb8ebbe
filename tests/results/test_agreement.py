from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from common.measurement import Finding
from common.verdicts import mean_measurement
from results.agreement import beside
from results.judge import judgement
from results.measured import of_run
from tests.results.fake_paper import Fake, number

REFERENCE = [80.0, 81.0, 80.4, 79.6, 80.8, 80.2]  # mean 80.33, spread 0.52


def accuracy(values: list[float], model: str = "net_tiny", **changes):
    fields = {"model": model, "dataset": "fashion-mnist", "metric": "top1", "unit": "%", "weights": "trained"}
    return mean_measurement(values, **{**fields, **changes})


def finding(verdict: str, seeds: int = 6) -> Finding:
    return Finding(name="more", statement="s", verdict=verdict, evidence="e", seeds=seeds)


@pytest.fixture
def reference(fake: Fake):
    return of_run(fake.run({"robustness": [accuracy(REFERENCE), finding("holds")]}, name="reference"))


def told(fake: Fake, reference, *results, **settings) -> dict[str, str]:
    measured = of_run(fake.run({"robustness": list(results)}, **settings))
    table = measured.join(beside(reference, measured))
    table = table[table["claim"] == "robustness"]
    return dict(zip(table["kind"], table["agreement"], strict=True))


@pytest.mark.parametrize(
    ("values", "agreement"),
    [
        ([80.0, 81.0], "agrees"),  # the same
        ([81.0, 80.2], "agrees"),
        ([80.0, 85.0], "contradicts"),
        ([76.0, 81.0], "contradicts"),
        ([85.0], "contradicts"),
    ],
)
def test_each_value_must_be_one_that_the_reference_predicts(fake: Fake, reference, values, agreement):
    assert told(fake, reference, accuracy(values))["measurement"] == agreement


def test_values_of_other_seeds_are_told_apart(fake: Fake, reference):
    """Two seeds that both moved the same way are seen in the pairs before each of them is beyond prediction."""
    moved = [value + 1.6 for value in REFERENCE]
    assert told(fake, reference, accuracy(moved))["measurement"] == "contradicts"
    elsewhere = accuracy([81.9, 81.9], detail={"seeds": [100, 101]})
    assert told(fake, reference, elsewhere, name="elsewhere")["measurement"] == "agrees"


@pytest.mark.parametrize(
    ("verdict", "agreement"),
    [("holds", "agrees"), ("unclear", "agrees"), ("no difference", "agrees"), ("does not hold", "contradicts")],
)
def test_only_the_opposite_verdict_contradicts(fake: Fake, reference, verdict, agreement):
    assert told(fake, reference, finding(verdict, seeds=2))["finding"] == agreement


@pytest.mark.parametrize("settings", [{"quick": True}, {"epochs": 1}])
def test_another_budget_is_not_compared(fake: Fake, reference, settings):
    told_of = told(fake, reference, accuracy([10.0]), finding("does not hold"), **settings)
    assert told_of == {"measurement": "", "finding": ""}


def test_another_protocol_is_not_compared(fake: Fake, reference):
    assert told(fake, reference, accuracy([10.0], protocol="bench/2"))["measurement"] == ""


def test_without_a_reference_nothing_is_said(fake: Fake):
    assert told(fake, None, accuracy([10.0])) == {"measurement": ""}


@pytest.mark.parametrize(("value", "agreement"), [(8.6412, "agrees"), (8.6413, "contradicts")])
def test_counts_must_be_equal(fake: Fake, reference, value, agreement):
    measured = of_run(fake.run({"size": [number("net_tiny", "-", "params", value, "M")]}))
    table = measured.join(beside(reference, measured))
    assert table.loc[table["metric"] == "params", "agreement"].item() == agreement


def test_a_contradiction_fails_the_run_and_says_why(fake: Fake, reference):
    judged = judgement(fake.run({"robustness": [accuracy([70.0]), finding("holds")]}), reference)
    assert judged.exit_status == 1
    assert judged.contradictions["why"].item().startswith("70 with seed 0 is beyond 7")


def test_the_reference_carries_the_verdict_of_fewer_seeds(fake: Fake, reference):
    measures = {"robustness": [accuracy([80.0, 81.0]), finding("unclear", seeds=2)]}
    judged = judgement(fake.run(measures), reference)
    row = judged.findings[judged.findings["name"] == "more"].iloc[0]
    assert (row["verdict"], row["standing"], row["agreement"]) == ("unclear", "holds", "agrees")
    assert judged.finding_counts["unclear"] == 0
    for name, settings, alone in (("alone", {}, True), ("enough", {"seeds": 6}, False)):
        own = judgement(fake.run(measures, name=name, **settings), reference, alone=alone)
        row = own.findings[own.findings["name"] == "more"].iloc[0]
        assert (row["standing"], row["agreement"]) == ("unclear", "")


def test_a_run_of_the_same_procedure_rarely_contradicts(fake: Fake):
    """Of whole runs, not of single numbers: 60 values are compared in each."""
    models = [f"net_{number}" for number in range(6)]
    metrics = ("top1", "corruption_top1", "pgd_top1", "fgsm_top1", "occlusion_top1")
    names = [accuracy([80.0, 80.0], model, metric=metric) for model in models for metric in metrics]
    table = of_run(fake.run({"robustness": names}))
    table = table[table["claim"] == "robustness"]
    generator = np.random.default_rng(0)

    def drawn(seeds: list[int]) -> pd.DataFrame:
        details = [{"per_seed": list(generator.normal(80, 0.5, len(seeds))), "seeds": seeds} for _ in range(len(table))]
        return table.assign(detail=[json.dumps(detail) for detail in details])

    runs = 60
    failed = sum(
        (beside(drawn([0, 1, 2, 3, 4, 5]), drawn([6, 7]))["agreement"] == "contradicts").any() for _ in range(runs)
    )
    assert failed / runs <= 0.12
