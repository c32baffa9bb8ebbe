from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from common.declaration import Claim
from common.errors import UserError
from common.manifest import load_manifest, metrics
from common.measurement import Finding
from common.run import Run, Settings
from results.judge import compare_value, judge, judge_reference, judgement, printed, tolerance
from results.measured import of_run
from tests.results.fake_paper import Fake, number, top1

PAPERS = Path(__file__).parents[2] / "papers"


def verdict_of(run: Run, model: str, metric: str) -> str:
    rows = judgement(run).rows
    return rows[(rows["model"] == model) & (rows["metric"] == metric)]["verdict"].item()


@pytest.mark.parametrize(
    ("value", "width", "interval", "sampled", "expected"),
    [
        (78.4, 0.1, None, False, "reproduced"),
        (78.5, 0.1, None, False, "reproduced"),  # 78.5 - 78.4 exceeds 0.1 in binary
        (78.51, 0.1, None, False, "off"),
        (78.29, 0.1, None, False, "off"),
        (math.nan, 0.1, None, False, "unclear"),
        (math.inf, 0.1, None, False, "unclear"),
        (78.4, math.nan, None, False, "unclear"),
        (78.4, 0.1, None, True, "unclear"),
        (10.0, 0.1, None, True, "unclear"),
        (78.4, 0.6, (78.0, 78.8), False, "reproduced"),
        (78.4, 0.6, (76.0, 80.8), False, "unclear"),
        (78.9, 0.6, (78.45, 79.35), False, "unclear"),  # the value is within, its interval is not
        (79.2, 0.6, (78.9, 79.5), False, "unclear"),  # the value is beyond, its interval is not
        (76.0, 0.6, (73.0, 79.0), False, "unclear"),
        (76.0, 0.6, (75.0, 77.0), False, "off"),
        (76.0, 0.6, (75.0, 77.0), True, "off"),
    ],
)
def test_compare_two_numbers(value, width, interval, sampled, expected):
    assert compare_value(78.4, value, width, interval, sampled=sampled) == expected


def test_right_numbers_are_reproduced_and_the_rest_is_not_measured(fake: Fake):
    run = fake.full()
    judged = judgement(run)
    counts = {"off": 0, "failed": 0, "unclear": 0, "off, known": 0, "reproduced": 3, "not measured": 4}
    assert judged.counts == counts
    assert judged.exit_status == 0
    assert verdict_of(run, "net_tiny", "mce").startswith("not measured: needs --imagenet-c DIR")
    assert verdict_of(run, "net_tiny", "box_ap") == "not measured: no claim of fake measures box_ap on coco"
    assert verdict_of(run, "net_small", "top1") == "not measured: needs --checkpoint FILE and --model of this model"
    host = judged.rows[judged.rows["paper"] == "host"]
    assert host["model"].tolist() == ["host_tiny"]


@pytest.mark.parametrize(
    ("claim", "wrong", "metric"),
    [
        ("size", number("net_tiny", "-", "params", 8.66, "M"), "params"),
        ("size", number("net_tiny", "-", "flops", 1.24, "G"), "flops"),
        ("accuracy", top1(78.2), "top1"),
        ("accuracy", top1(79.1), "top1"),
        ("accuracy", top1(77.0, "trained", seeds=3, interval=(76.8, 77.2)), "top1"),
    ],
)
def test_a_wrong_number_turns_its_row_red(fake: Fake, claim, wrong, metric):
    run = fake.full({claim: [wrong]})
    assert verdict_of(run, "net_tiny", metric) == "off"
    assert judgement(run).exit_status == 1


def test_values_by_weights_have_columns_of_their_own(fake: Fake):
    run = fake.full({"accuracy": [top1(78.42), top1(78.0, "trained", seeds=3, interval=(77.7, 78.3))]})
    rows = judge(printed(run.paper), run)
    row = rows[(rows["model"] == "net_tiny") & (rows["metric"] == "top1")].iloc[0]
    assert (row["printed"], row["released"], row["trained"]) == (78.4, 78.42, 78.0)
    assert math.isnan(row["none"])
    params = rows[rows["metric"] == "params"].iloc[0]
    assert params["none"] == 8.6412
    assert math.isnan(params["released"])
    assert math.isnan(params["trained"])


def test_the_worst_of_several_values_decides(fake: Fake):
    right, wrong = top1(78.4), top1(70.0, "trained", seeds=3, interval=(69.5, 70.5))
    assert verdict_of(fake.full({"accuracy": [right, wrong]}), "net_tiny", "top1") == "off"
    assert verdict_of(fake.full({"accuracy": [top1(70.0), right]}, name="again"), "net_tiny", "top1") == "off"


@pytest.mark.parametrize("claim", ["size", "accuracy"])
def test_a_missing_measurement_is_never_green(fake: Fake, claim):
    run = fake.full({claim: [number("another_net", "imagenet-1k", "top1", 78.4, weights="released")]})
    rows = judgement(run).rows
    settled = rows[(rows["dataset"] == ("-" if claim == "size" else "imagenet-1k")) & (rows["paper"] == "fake")]
    assert set(settled["outcome"]) == {"not measured"}


def test_a_claim_that_yields_nothing_has_failed(fake: Fake):
    run = fake.full({"accuracy": []})
    assert verdict_of(run, "net_tiny", "top1") == "failed: accuracy: it ended without a result"
    assert judgement(run).exit_status == 2


def test_not_a_number_cannot_pass(fake: Fake):
    with pytest.raises(ValueError, match="not a number"):
        top1(math.nan)
    measurement = top1(78.4)
    object.__setattr__(measurement, "value", math.nan)
    run = fake.full({"accuracy": [measurement]})
    assert verdict_of(run, "net_tiny", "top1") == "unclear"


def test_a_failed_claim_is_seen_and_the_others_are_measured(fake: Fake):
    run = fake.full({"accuracy": [UserError("val has 3 classes, not 1,000; give ImageNet's folder.")]})
    assert verdict_of(run, "net_tiny", "top1").startswith("failed: accuracy: val has 3 classes")
    assert verdict_of(run, "net_tiny", "params") == "reproduced"
    assert judgement(run).exit_status == 2


def test_a_number_measured_before_its_claim_failed_counts(fake: Fake):
    run = fake.full({"accuracy": [top1(70.0), RuntimeError("out of memory")]})
    assert verdict_of(run, "net_tiny", "top1") == "off"
    assert judgement(run).exit_status == 1


def test_an_interrupted_claim_is_not_measured_and_the_run_not_made(fake: Fake):
    with pytest.raises(KeyboardInterrupt):
        fake.full({"accuracy": [KeyboardInterrupt()]})
    settings = Settings(folders={"imagenet": fake.folder / "imagenet"}, checkpoint=fake.folder / "weights.pth")
    run = Run(fake.paper(), settings, fake.folder / "run")
    assert verdict_of(run, "net_tiny", "top1") == "not measured: needs accuracy to be finished (--resume)"
    judged = judgement(run)
    assert judged.exit_status == 2
    assert judged.claims.set_index("claim").loc["corruptions", "state"] == "not reached"


def test_claims_that_nobody_asked_for_do_not_fail_the_run(fake: Fake):
    paper = fake.paper()
    fake.full()
    run = Run(paper, Settings(), fake.folder / "part")
    run.execute(paper.claims[:1])
    judged = judgement(run)
    assert judged.exit_status == 0
    assert verdict_of(run, "net_tiny", "top1") == "not measured: was not asked for"


def test_a_run_that_measured_nothing_could_not_run(fake: Fake):
    run = Run(fake.paper(), Settings(), fake.folder / "empty")
    assert judgement(run).exit_status == 2
    paper = fake.paper(claims=(Claim(name="accuracy", statement="s", needs=("imagenet",)),))
    assert judgement(fake.run(paper=paper, name="nothing")).exit_status == 2


def test_a_part_of_the_images_is_judged_by_its_interval(fake: Fake):
    near = top1(78.4, interval=(70.0, 86.0), n=100)
    assert verdict_of(fake.full({"accuracy": [near]}, limit=100), "net_tiny", "top1") == "unclear"
    far = top1(40.0, interval=(31.0, 50.0), n=100)
    assert verdict_of(fake.full({"accuracy": [far]}, limit=100, name="far"), "net_tiny", "top1") == "off"
    bare = top1(78.4, n=100)
    assert verdict_of(fake.full({"accuracy": [bare]}, limit=100, name="bare"), "net_tiny", "top1") == "unclear"
    # The printed number is over the same images, so drawing them has no error.
    full = top1(78.4, interval=(78.04, 78.76), n=50_000)
    assert verdict_of(fake.full({"accuracy": [full]}, name="full"), "net_tiny", "top1") == "reproduced"


def test_few_seeds_are_judged_by_their_interval(fake: Fake):
    wide = top1(78.5, "trained", interval=(75.0, 82.0), seeds=2)
    assert verdict_of(fake.full({"accuracy": [wide]}), "net_tiny", "top1") == "unclear"


@pytest.mark.parametrize("value", [78.4, 70.0])
@pytest.mark.parametrize("interval", [None, (-math.inf, math.inf), (-0.1, 0.1)])
def test_a_single_training_is_evidence_for_nothing_but_itself(fake: Fake, value, interval):
    """Whatever the images say of its interval: they are not what a training varies by."""
    interval = interval and (value + interval[0], value + interval[1])
    single = top1(value, "trained", interval=interval, seeds=1, over="images", n=50_000)
    run = fake.full({"accuracy": [single]})
    assert verdict_of(run, "net_tiny", "top1") == "unclear"
    assert judgement(run).exit_status == 0


def test_units_are_not_confused(fake: Fake):
    run = fake.full({"accuracy": [number("net_tiny", "imagenet-1k", "top1", 78.4, "", weights="released")]})
    judged = judgement(run)
    assert verdict_of(run, "net_tiny", "top1") == "failed"
    assert "measured in ''" in judged.rows.loc[judged.rows["outcome"] == "failed", "explanation"].item()
    assert judged.exit_status == 2


def test_embedded_numbers_are_never_compared_with_printed_ones(fake: Fake):
    same_but_for_the_data = number("net_tiny", "fashion-mnist", "top1", 78.4, weights="trained")
    judged = judgement(fake.run({"robustness": [same_but_for_the_data]}))
    assert judged.own["dataset"].tolist() == ["fashion-mnist"]
    assert "fashion-mnist" not in set(judged.comparisons["dataset"])
    assert (judged.rows.loc[judged.rows["metric"] == "top1", "outcome"] == "not measured").all()


@pytest.mark.parametrize(
    ("exact", "verdict", "status"),
    [
        (True, "holds", 0),
        (True, "does not hold", 1),
        (True, "unclear", 0),
        (False, "does not hold", 0),
        (False, "unclear", 0),
    ],
)
def test_only_a_broken_exact_finding_counts_as_off(fake: Fake, exact, verdict, status):
    finding = Finding(statement="s", verdict=verdict, evidence="e", exact=exact)
    judged = judgement(fake.run({"identity": [finding]}))
    assert judged.exit_status == status
    assert judged.finding_counts[verdict] >= 1


@pytest.mark.parametrize(
    ("metric", "weights", "text", "own", "width"),
    [
        ("params", "none", "57", math.nan, 0.5),
        ("flops", "none", "1.29", math.nan, 0.005),
        ("top1", "released", "78.4", math.nan, 0.1),
        ("top1", "released", "78", math.nan, 0.5),
        ("top1", "trained", "72.2", math.nan, 0.6),
        ("top1", "released", "78.4", 0.0, 0.0),
    ],
)
def test_tolerance(metric, weights, text, own, width):
    stated = tolerance(metric, weights, text, own)
    assert stated.width == pytest.approx(width)
    assert stated.reason


def test_without_a_stated_tolerance_nothing_is_reproduced():
    unknown = tolerance("params", "trained", "8.6", math.nan)
    assert math.isnan(unknown.width)
    assert "metrics.csv" in unknown.reason


@pytest.mark.parametrize("manifest", sorted(PAPERS.glob("*/expected.csv")), ids=lambda path: path.parent.name)
def test_every_printed_number_has_a_tolerance(manifest):
    for row in load_manifest(manifest).itertuples():
        stated = pd.notna(row.tolerance) or metrics().loc[row.metric, ["tolerance", "trained_tolerance"]].any()
        assert stated, f"state a tolerance of {row.metric} in its metrics.csv, or in line {row.line}"


def test_every_default_tolerance_has_a_reason():
    for row in metrics().reset_index().to_dict("records"):
        for kind in ("", "trained_"):
            width, reason = row[f"{kind}tolerance"], row[f"{kind}reason"]
            assert width in ("", "half unit", "not judged") or float(width) > 0, row["metric"]
            assert bool(width) == bool(reason), row["metric"]


def test_an_empty_manifest_is_judged(fake: Fake):
    fake.manifest("fake")
    fake.manifest("host")
    judged = judgement(fake.run())
    assert judged.rows.empty
    assert judged.exit_status == 0
    assert len(judged.own) == 4


KNOWN = 'net_tiny,-,params,8.6,M,,README.md @1,table 1,"off, known: the released network has 8.9 M parameters"'


def size_of(value: float) -> dict:
    return {"size": [number("net_tiny", "-", "params", value, "M")]}


def outcome_of(judged) -> str:
    return judged.rows.loc[judged.rows["metric"] == "params", "outcome"].item()


def test_off_for_a_known_reason_fails_nothing(fake: Fake):
    fake.manifest("fake", KNOWN)
    run = fake.run(size_of(8.9))
    judged = judgement(run, of_run(run))
    assert outcome_of(judged) == "off, known"
    assert judged.rows["explanation"].iloc[0].endswith("the released network has 8.9 M parameters")
    assert judged.exit_status == 0
    reference = judge_reference(printed(run.paper), of_run(run))
    assert reference["outcome"].iloc[0] == "off, known"


@pytest.mark.parametrize("known", [None, 8.95])
def test_off_is_known_only_of_the_value_of_our_reference(fake: Fake, known):
    fake.manifest("fake", KNOWN)
    reference = None if known is None else of_run(fake.run(size_of(known), name="reference"))
    judged = judgement(fake.run(size_of(8.9)), reference)
    assert outcome_of(judged) == "off"
    assert judged.exit_status == 1


def test_a_known_reason_does_not_hide_that_the_number_is_reproduced(fake: Fake):
    fake.manifest("fake", KNOWN)
    run = fake.run(size_of(8.6))
    assert outcome_of(judgement(run, of_run(run))) == "reproduced"


def test_an_exact_finding_is_never_judged_by_the_reference(fake: Fake):
    finding = Finding(statement="s", verdict="holds", evidence="e", exact=True)
    reference = of_run(fake.run({"identity": [finding]}, name="reference"))
    judged = judgement(fake.run({"identity": [replace(finding, verdict="does not hold")]}), reference)
    assert judged.findings.loc[judged.findings["exact"], "standing"].item() == "does not hold"
    assert judged.exit_status == 1


def test_the_primary_finding_is_the_verdict_of_its_claim(fake: Fake):
    paper = fake.paper()
    claims = tuple(replace(c, primary="more") if c.name == "robustness" else c for c in paper.claims)
    results = [
        Finding(name="other", statement="o", verdict="holds", evidence="e"),
        Finding(name="more", statement="m", verdict="no difference", evidence="e"),
    ]
    judged = judgement(fake.run({"robustness": results}, paper=replace(paper, claims=claims)))
    verdicts = judged.claims.set_index("claim")["verdict"]
    assert (verdicts["robustness"], verdicts["size"]) == ("no difference", "")
