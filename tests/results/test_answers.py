"""What a reader sees first: an answer to each claim, what is missing by need, printed numbers in a reader's order."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from common.declaration import Claim, Model
from common.measurement import Finding
from results import figures, report, terminal
from results.answers import answers, main_claim
from results.judge import judgement, own_models_first
from results.measured import of_run
from results.missing import by_need
from results.output import provenance
from tests.results.fake_paper import DEFAULT, Fake, number

MORE = Finding(
    name="net_tiny > net_small: top1",
    statement="net_tiny has a higher top1 than net_small.",
    verdict="holds",
    evidence="+1.20 points.",
    value=1.2,
    interval=(0.8, 1.6),
    seeds=6,
)


def paper(fake: Fake, **changes):
    """The fake paper, with a primary finding of its claim on robustness."""
    declared = fake.paper(**changes)
    claims = [replace(claim, primary=MORE.name) if claim.name == "robustness" else claim for claim in declared.claims]
    return replace(declared, claims=tuple(claims))


def test_the_main_claim_is_on_top_and_what_was_not_measured_below(fake: Fake) -> None:
    judged = judgement(fake.run({"robustness": [*DEFAULT["robustness"], MORE]}, paper=paper(fake)))
    found = answers(judged)
    assert [answer.claim for answer in found] == ["robustness", "size", "identity", "accuracy", "corruptions"]
    assert main_claim(found) == found[0]
    verdicts = [answer.verdict for answer in found]
    assert verdicts == ["holds", "reproduced", "holds", "not measured", "not measured"]
    assert found[0].here == "+1.20 ± 0.40 points (6 seeds)"
    assert found[1].here == "of 2 printed numbers 2 reproduced"
    assert found[3].here == "needs imagenet and checkpoint"


@pytest.mark.parametrize(
    ("verdict", "settings", "agreement", "standing"),
    [
        ("unclear", {}, "agrees", "holds"),
        ("does not hold", {}, "contradicts", "holds"),
        ("unclear", {"quick": True}, "another budget", "unclear"),
    ],
)
def test_a_run_stands_beside_the_reference(fake: Fake, verdict, settings, agreement, standing) -> None:
    reference = of_run(fake.run({"robustness": [MORE]}, name="reference", paper=paper(fake)))
    few = replace(MORE, verdict=verdict, value=0.9, interval=(-3.0, 4.8), seeds=2)
    judged = judgement(fake.run({"robustness": [few]}, paper=paper(fake), **settings), reference)
    answer = answers(judged)[0]
    assert (answer.verdict, answer.agreement) == (standing, agreement)
    assert answer.here == "+0.9 ± 3.9 points (2 seeds)"
    assert answer.reference == "+1.20 ± 0.40 points (6 seeds): holds"
    alone = judgement(judged.run, reference, alone=True)
    assert (answers(alone)[0].verdict, answers(alone)[0].reference) == (verdict, "")


def test_answers_are_kept_with_the_provenance(fake: Fake) -> None:
    judged = judgement(fake.run({"robustness": [MORE]}, paper=paper(fake)))
    kept = provenance(judged)["answers"]
    assert [answer["claim"] for answer in kept] == [answer.claim for answer in answers(judged)]
    assert kept[0]["verdict"] == "holds"


def test_what_is_missing_is_a_line_a_data_set(fake: Fake) -> None:
    rows = [f"net_{place},imagenet-1k,top1,7{place}.0,%,,README.md @1,table 1," for place in range(5)]
    fake.manifest("fake", *rows, "net,imagenet-c,mce,57.0,,,README.md @1,table 2,", "net,coco,box_ap,4.0,%,,a,b,")
    judged = judgement(fake.run())
    told = {one.need: (len(one.rows), one.claims) for one in by_need(judged)}
    assert told == {"imagenet": (6, ["accuracy"]), "imagenet-c": (1, ["corruptions"]), "no claim": (1, [])}
    first = by_need(judged)[0]
    assert first.command == "./reproduce.sh fake --imagenet DIR --checkpoint FILE"
    text = report.render(judged, provenance(judged))
    assert text.count("<summary>6 printed numbers") == 1


def test_weights_of_the_other_models_are_missing_where_one_was_measured(fake: Fake) -> None:
    fake.manifest(
        "fake",
        "net_tiny,imagenet-1k,top1,78.4,%,,README.md @1,table 1,",
        "net_small,imagenet-1k,top1,81.7,%,,README.md @1,table 1,",
    )
    told = {one.need: len(one.rows) for one in by_need(judgement(fake.full()))}
    assert told["checkpoints"] == 2  # net_small, and the host


def test_own_models_come_before_hosts(fake: Fake) -> None:
    models = ["host", "net", "other", "net.tag", "host"]
    rows = pd.DataFrame({"model": models, "paper": ["host", "fake", "fake", "fake", "host"]})
    declared = fake.paper(models=(Model(name="net"),), reused_models=(Model(name="other"),))
    assert list(own_models_first(declared, rows)["model"]) == ["net", "net.tag", "other", "host", "host"]


def test_a_size_that_several_sources_repeat_is_one_row(fake: Fake) -> None:
    fake.manifest(
        "fake",
        "net_tiny,-,params,8.6,M,,README.md @1,table 1,",
        "net_tiny,-,params,8.6,M,,appendix,table 9,",
        "net_tiny,-,params,8.64,M,,counted,row 3,",
    )
    judged = judgement(fake.run())
    html = report.render(judged, provenance(judged))
    table = html.partition('<table class="numbers">')[2].partition("</table>")[0]
    assert table.count("<tr>") == 3  # its head, 8.6 and 8.64
    assert "table 1" in table
    assert "table 9" in table


def test_secondary_findings_and_tables_are_folded(fake: Fake) -> None:
    other = replace(MORE, name="other", statement="A secondary finding.")
    judged = judgement(fake.run({"robustness": [*DEFAULT["robustness"], other, MORE]}, paper=paper(fake)))
    html = report.render(judged, provenance(judged))
    article = html.partition('id="claim-robustness"')[2].partition("</article>")[0]
    open_part = re.sub(r"<details>.*?</details>", "", article, flags=re.DOTALL)
    assert MORE.statement in open_part
    assert "Attention maps." in open_part, "the first figure is shown"
    assert "The same again." not in open_part
    for folded in ("A secondary finding.", "91.25 ± 0.75", "The same again."):
        assert folded in article
        assert folded not in open_part


def test_the_terminal_never_needs_more_than_its_lines(fake: Fake) -> None:
    rows = [f"net_{place},-,params,{place}.5,M,,README.md @1,table {place}," for place in range(60)]
    fake.manifest("fake", *rows)
    wrong = [number(f"net_{place}", "-", "params", place + 9.0, "M") for place in range(60)]
    claims = [
        Claim(
            name=f"claim_{place}",
            statement=f"Claim {place} holds.",
            measured_by="fake_claims:identity",
        )
        for place in range(30)
    ]
    declared = fake.paper()
    run = fake.run({"size": wrong}, paper=replace(declared, claims=(*declared.claims, *claims)))
    console = Console(width=100, file=io.StringIO())
    terminal.show(judgement(run), console)
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= terminal.LINES
    assert lines[-1].startswith("tolerance") or "✗ off" in lines[-1]
    assert sum("in the report" in line for line in lines) >= 1


def test_small_models_are_drawn_with_those_named_that_none_beats() -> None:
    table = pd.DataFrame(
        {
            "model": ["cheap", "beaten", "best"],
            "paper": ["one", "one", "two"],
            "cost": [1.0, 2.0, 3.0],
            "top1": [85.0, 84.0, 90.0],
            "corruption_top1": [60.0, 59.0, 70.0],
        }
    )
    svg = figures.small_models(table).svg
    assert "cheap" in svg
    assert "best" in svg
    assert "beaten" not in svg
    assert figures.small_models(table[:0]) is None
