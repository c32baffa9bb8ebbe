from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pandas as pd
import pytest
from rich.console import Console

import results
from common.errors import UserError
from common.measurement import Finding
from common.run import Run, Settings
from results import junit, report, style, terminal
from results.judge import Judgement, judgement
from results.measured import COLUMNS, load, of_run
from results.output import provenance
from results.svg import inline
from tests.results.fake_paper import DEFAULT, SVG, Fake, number, top1

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order; keeps ids, links, text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def values(self, *attributes: str) -> list[str]:
        return [attrs[name] for _, attrs in self.tags for name in attributes if attrs.get(name)]


@pytest.fixture(scope="module")
def rich_run(tmp_path_factory) -> Iterator[Run]:
    """A run with every verdict in it."""
    measures = {
        "size": [number("net_tiny", "-", "params", 9.5, "M"), UserError("fvcore is missing <here>.")],
        "accuracy": [top1(78.4), top1(78.0, "trained", seeds=3, interval=(76.0, 80.0), n=50_000)],
        "robustness": [*DEFAULT["robustness"], Finding(statement="A & B.", verdict="unclear", evidence="0 +- 1")],
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Fake(tmp_path_factory.mktemp("rich"), monkeypatch).full(measures)


@pytest.fixture(scope="module")
def judged(rich_run) -> Judgement:
    return judgement(rich_run)


@pytest.fixture(scope="module")
def html(judged) -> str:
    return report.render(judged, provenance(judged))


def text_of(judged, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    terminal.show(judged, console)
    return console.file.getvalue()


def test_everything_is_written_and_the_exit_status_returned(rich_run, capsys):
    assert results.write_all(rich_run) == 1
    names = {path.name for path in rich_run.folder.iterdir()}
    assert {"measured.csv", "provenance.json", "junit.xml", "report.html"} <= names
    assert not [name for name in names if name.endswith(".part")]
    shown = capsys.readouterr().out
    assert "Printed numbers: 1 off, 1 failed, 1 unclear, 4 not measured" in shown
    record = json.loads((rich_run.folder / "provenance.json").read_text())
    assert record["exit_status"] == 1
    assert record["claims"]["size"]["state"] == "failed"
    assert record["claims"]["corruptions"]["state"] == "not measured"
    assert record["data"]["checkpoint"]["sha256"]
    assert record["data"]["imagenet"]["files"] == 0
    assert record["protocols"] == ["top1/1"]
    assert record["seeds"] == [0, 1, 2]
    assert record["calls"][0]["settings"]["checkpoint"].endswith("weights.pth")


def test_an_interrupted_run_is_reported(fake: Fake, capsys):
    with pytest.raises(KeyboardInterrupt):
        fake.full({"accuracy": [top1(78.4), KeyboardInterrupt()]})
    settings = Settings(folders={"imagenet": fake.folder / "imagenet"}, checkpoint=fake.folder / "weights.pth")
    run = Run(fake.paper(), settings, fake.folder / "run")
    assert results.write_all(run) == 2
    assert "--resume goes on where it stopped" in capsys.readouterr().out
    # What is measured on the user's data comes first: the others were not reached.
    text = Page((run.folder / "report.html").read_text()).text
    assert "Not finished: size, identity, robustness, accuracy, corruptions." in text


def test_a_fault_in_the_users_weights_shows_before_the_rest_is_measured(fake: Fake, capsys):
    fake.full({"accuracy": [UserError("weights.pth fits none of the models")]})
    told = " ".join(capsys.readouterr().err.split())
    assert told.index("failed: weights.pth fits none of the models") < told.index("Parameters and FLOPs are as printed")


def test_a_run_without_anything_is_reported(fake: Fake, capsys):
    run = Run(fake.paper(), Settings(), fake.folder / "run")
    assert results.write_all(run) == 2
    page = Page((run.folder / "report.html").read_text())
    assert "None of the 7 printed numbers was measured." in page.text
    assert "reproduced" not in text_of(judgement(run), 80)


def test_the_table_of_measurements_reads_back_with_every_digit(rich_run):
    table = of_run(rich_run)
    path = rich_run.folder / "measured.csv"
    path.write_text(table.to_csv(index=False))
    pd.testing.assert_frame_equal(load(path), table)
    assert list(table) == list(COLUMNS)
    row = table[table["metric"] == "params"].iloc[0]
    assert (row["value"], row["claim"], row["first_seed"], row["device"]) == (9.5, "size", 0, "cpu")
    assert row["command"]
    assert row["started"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is missing"),
        ("", "not a table"),
        ("model,value\na,1\n", "no column 'kind'"),
        (",".join(COLUMNS) + "\n" + ",".join("x" for _ in COLUMNS) + "\n", "malformed"),
    ],
)
def test_a_bad_table_of_measurements_is_one_sentence(tmp_path, text, said):
    path = tmp_path / "measured.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        load(path)


@pytest.mark.parametrize("width", [80, 140])
def test_the_terminal_table_fits_and_says_everything(judged, width):
    text = text_of(judged, width)
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith("Report: ")]
    assert max(map(len, lines)) <= width
    for part in ("✗ off", "! failed", "? unclear", "Not measured", "✓ holds"):
        assert part in text
    assert "1 unclear, 4 not measured" in text
    assert "--imagenet-c DIR" in text
    assert len(lines) <= terminal.LINES
    assert text.rindex("fvcore is missing") > text.index("Report: "), "what is off comes last"
    assert "fvcore is missing <here>." in text


def test_a_failing_number_is_not_green_anywhere(judged, html):
    page = Page(html)
    assert "0 reproduced" in page.text
    assert "✓ reproduced" not in text_of(judged, 100)


def test_the_report_stands_alone(html):
    page = Page(html)
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "object"} & set(tags)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    for address in page.values("src", "href", "xlink:href"):
        assert address.startswith(("#", "data:image/", "https://arxiv.org/", "https://github.com/")), address
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "prefers-color-scheme: dark" in html
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_the_report_is_well_formed_and_accessible(html):
    page = Page(html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [value.removeprefix("#") for value in page.values("href", "xlink:href", "aria-labelledby") if value]
    assert {target for target in targets if "://" not in target} <= set(ids)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == tags.count("main") == 1
    assert tags.count("table") == tags.count("caption")
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg")


def test_the_report_says_what_the_run_says(html):
    text = Page(html).text
    for part in (
        "Attention to <Detail> & Other Networks",
        "2 of 7 printed numbers were measured: 1 off, 1 unclear. Not finished: size.",
        "fvcore is missing <here>.",
        "paired difference -0.4 points",
        "soft shrinkage",
        "--imagenet-c DIR",
        "@inproceedings{author2022",
        "README.md @1",
        "91.25 ± 0.75",
        "of host",
    ):
        assert part in text


@pytest.mark.parametrize("quantity", ["--soft", "--none", "--good", "--bad", "--unsure", "--ink", "--accent"])
def test_text_has_contrast_in_light_and_dark(quantity):
    css = (Path(report.__file__).parent / "report.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL):
        colours = dict(re.findall(r"(--[a-z-]+): (#[0-9a-f]{6})", block))
        grounds = [colours["--ground"], colours["--surface"]]
        if f"{quantity}-ground" in colours:
            grounds = [colours[f"{quantity}-ground"], colours["--surface"]]
        for ground in grounds:
            assert contrast(colours[quantity], ground) >= 4.5


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_figures_keep_to_themselves():
    first, second = inline(SVG, "figure1", "One."), inline(SVG, "figure2", "Two.")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    assert 'clip-path="url(#figure1-p0)"' in first
    assert 'href="#figure1-m0"' in first
    assert "#figure1 * {stroke-linecap: butt}" in first
    assert "#ffffff" not in first
    assert "#000000" not in first
    assert "currentColor" in first


def test_figures_lose_what_could_act_or_reach_outside():
    svg = SVG.replace(
        "<defs>",
        '<script>alert(1)</script><foreignObject/><image href="https://example.org/a.png" onload="x()"/>'
        '<image href="data:image/png;base64,AA=="/><defs>',
    )
    text = inline(svg, "f", "c")
    for gone in ("script", "foreignObject", "example.org", "onload"):
        assert gone not in text
    assert "data:image/png;base64,AA==" in text


def test_a_broken_figure_is_said_to_be_broken():
    assert "cannot be shown" in inline("<svg><g>", "f", "c")


def test_junit_has_a_case_for_everything(judged):
    suite = ET.fromstring(junit.render(judged)).find("testsuite")
    cases = suite.findall("testcase")
    assert len(cases) == len(judged.rows) + len(judged.findings) + len(judged.claims)
    for kind, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert len(suite.findall(f"testcase/{kind}")) == int(suite.get(attribute))
    assert int(suite.get("tests")) == len(cases)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
    said = {case.get("name").partition(" = ")[0]: next((child.tag for child in case), "passed") for case in cases}
    assert said["net_tiny - params"] == "failure"
    assert said["net_tiny - flops"] == "error"
    assert said["net_tiny imagenet-1k top1"] == "skipped"
    assert said["net_tiny imagenet-c mce"] == "skipped"
    assert said["Detail helps against corruption. [result: does not hold]"] == "passed"
    assert said["A & B. [result: unclear]"] == "skipped"
    assert all(child.get("message") for case in cases for child in case)


def test_junit_survives_characters_that_xml_cannot_hold(fake: Fake):
    run = fake.full({"accuracy": [UserError("a colour \x1b[31m and a null \x00.")]})
    ET.fromstring(junit.render(judgement(run)))


@pytest.mark.parametrize(
    ("value", "like", "text"),
    [
        (78.374, "78.4", "78.37"),
        (4.75, "4.7", "4.75"),
        (56.9, "57", "56.9"),
        (0.0, "", "0"),
        (12345.6, "", "12346"),
        (0.5581, "", "0.5581"),
        (1.910, "", "1.910"),
        (2e-16, "", "2.00e-16"),
        (float("nan"), "", "–"),
    ],
)
def test_numbers_read_well(value, like, text):
    assert style.number(value, like) == text


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (91.25, 90.5, 92.0, "91.25 ± 0.75"),
        (50.0, 38.0, 62.0, "50 ± 12"),
        (1.0, 0.9, 1.5, "1.00 [0.90, 1.50]"),
        (1.5, float("nan"), float("nan"), "1.500"),
        (1.5, 1.5, 1.5, "1.500"),
    ],
)
def test_intervals_read_well(value, low, high, text):
    assert style.interval(value, low, high) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (47.4, "47 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")]
)
def test_durations_read_well(seconds, text):
    assert style.duration(seconds) == text


def test_a_contradiction_of_the_reference_is_seen_everywhere(fake: Fake):
    """And a run that agrees shows the reference's verdict with its own."""
    more = Finding(name="more", statement="More.", verdict="holds", evidence="e.", seeds=6)
    other = Finding(name="other", statement="Other.", verdict="no difference", evidence="e.", seeds=6)
    reference = of_run(fake.run({"robustness": [more, other]}, name="reference"))
    few = [replace(more, verdict="does not hold", seeds=2), replace(other, verdict="unclear", seeds=2)]
    judged = judgement(fake.run({"robustness": few}), reference)
    assert judged.exit_status == 1
    text = " ".join(text_of(judged, 200).split())
    assert text.endswith("✗ contradicts More.: does not hold here, holds in the reference")
    page = Page(report.render(judged, provenance(judged)))
    assert "1 result contradicts the reference." in page.text
    assert "does not hold here, holds in the reference" in page.text
    cases = {case.get("name"): case for case in ET.fromstring(junit.render(judged)).iter("testcase")}
    assert cases["More."].find("failure").get("message") == "does not hold here, holds in the reference"
    assert provenance(judged)["contradictions"] == 1


def test_off_for_a_known_reason_is_seen_everywhere(fake: Fake):
    fake.manifest("fake", 'net_tiny,-,params,8.6,M,,README.md @1,table 1,"off, known: the released network has 8.9 M"')
    run = fake.run({"size": [number("net_tiny", "-", "params", 8.9, "M")]})
    judged = judgement(run, of_run(run))
    text = " ".join(text_of(judged, 200).split())
    assert "≠ off, known" in text
    assert "the released network has 8.9 M" in text
    page = Page(report.render(judged, provenance(judged)))
    assert "1 off, known" in page.text
    assert "the released network has 8.9 M" in page.text
    (case,) = (c for c in ET.fromstring(junit.render(judged)).iter("testcase") if "params" in c.get("name"))
    assert case.find("skipped").get("message").startswith("off, known: +0.3 from the printed value")


def test_a_table_from_before_a_column_existed_is_read(rich_run, tmp_path):
    table = of_run(rich_run)
    path = tmp_path / "measured.csv"
    path.write_text(table.drop(columns=["over", "name"]).to_csv(index=False))
    assert set(load(path)["name"]) == set(load(path)["over"]) == {""}
