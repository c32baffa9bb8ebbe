from __future__ import annotations

import math
from pathlib import Path

import pytest

import common.manifest
from common.errors import UserError
from common.manifest import COLUMNS, half_unit, load_manifest, metrics

HEADER = ",".join(COLUMNS)
GOOD = "rvt_tiny,imagenet-1k,top1,78.40,%,,README.md @1,table 1,"


@pytest.fixture
def manifest(tmp_path: Path):
    def write(*lines: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "expected.csv"
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return path

    return write


def test_a_good_manifest_keeps_digits_as_printed(manifest):
    table = load_manifest(
        manifest(
            HEADER,
            GOOD,
            "",
            'rvt_tiny,-,params,8.6,M,0.2,"README.md, @1",table 1,"a ""quoted"" note, with comma"',
        )
    )
    assert table["value"].tolist() == ["78.40", "8.6"]
    assert table["printed"].tolist() == [78.4, 8.6]
    assert table["line"].tolist() == [2, 4]
    assert math.isnan(table["tolerance"][0])
    assert table["tolerance"][1] == 0.2
    assert table["note"][1] == 'a "quoted" note, with comma'


def test_a_manifest_may_have_no_rows(manifest):
    table = load_manifest(manifest(HEADER))
    assert table.empty
    assert {"printed", "line", *COLUMNS} <= set(table.columns)
    assert table["printed"].dtype == table["tolerance"].dtype == float


def test_the_same_number_from_two_sources_is_two_rows(manifest):
    assert len(load_manifest(manifest(HEADER, GOOD, GOOD.replace("README.md", "paper.pdf")))) == 2


def changed(column: str, value: str) -> str:
    cells = GOOD.split(",")
    cells[COLUMNS.index(column)] = value
    return ",".join(cells)


def test_a_note_can_say_why_a_number_is_off(manifest):
    table = load_manifest(
        manifest(HEADER, changed("note", '"off, known: it has 8.9 M, we counted"'), GOOD.replace("1,t", "2,t"))
    )
    assert table["known"].tolist() == ["it has 8.9 M, we counted", ""]
    assert table["note"].tolist() == ["", ""]
    with pytest.raises(UserError, match="does not say why"):
        load_manifest(manifest(HEADER, changed("note", '"off, known: "')))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], ["line 1", "header is missing"]),
        ([HEADER.replace("metric", "metrik"), GOOD], ["line 1", "'metrik'", "Did you mean metric?"]),
        ([HEADER.replace(",note", ""), GOOD], ["line 1", "'note' is missing"]),
        ([HEADER.replace("model,dataset", "dataset,model"), GOOD], ["line 1", "order"]),
        ([HEADER + ",note", GOOD], ["line 1", "order"]),
        ([HEADER, GOOD + ",extra"], ["line 2", "10 cells", "double quotes"]),
        ([HEADER, "rvt_tiny,imagenet-1k"], ["line 2", "2 cells"]),
        ([HEADER, GOOD, GOOD], ["line 3", "line 2", "locator"]),
        ([HEADER, GOOD, changed("value", "79")], ["line 3", "line 2"]),
        ([HEADER, GOOD, 'a,"b'], ["line 3", "not valid CSV"]),
        ([HEADER, changed("value", "78,4".replace(",", "·"))], ["line 2", "'value'", "digits as printed"]),
        ([HEADER, changed("value", "nan")], ["line 2", "'value'", "'nan'"]),
        ([HEADER, changed("value", "inf")], ["line 2", "'value'"]),
        ([HEADER, changed("value", "1e3")], ["line 2", "'value'"]),
        ([HEADER, changed("value", "78.4%")], ["line 2", "'value'"]),
        ([HEADER, changed("value", "٧٨")], ["line 2", "'value'"]),
        ([HEADER, changed("model", "rvt tiny")], ["line 2", "'model'", "space"]),
        ([HEADER, changed("metric", "top_1")], ["line 2", "'metric'", "Did you mean top1?"]),
        ([HEADER, changed("unit", "")], ["line 2", "'unit'", "'%'"]),
        ([HEADER, changed("tolerance", "-0.1")], ["line 2", "'tolerance'", "at least 0"]),
        ([HEADER, changed("tolerance", "nan")], ["line 2", "'tolerance'"]),
        ([HEADER, changed("tolerance", "some")], ["line 2", "'tolerance'"]),
        *[
            ([HEADER, changed(column, "  ")], ["line 2", repr(column), "is empty"])
            for column in ("model", "dataset", "metric", "value", "source", "locator")
        ],
    ],
)
def test_a_bad_manifest_names_file_line_column_and_remedy(manifest, lines, said):
    path = manifest(*lines) if lines else manifest().with_name("expected.csv")
    if not lines:
        path.write_text("")
    with pytest.raises(UserError) as caught:
        load_manifest(path)
    for part in (str(path), *said):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_says_what_belongs_there(tmp_path):
    with pytest.raises(UserError, match="expected.csv is missing; .*" + HEADER):
        load_manifest(tmp_path / "expected.csv")


def test_a_manifest_in_another_encoding_is_refused(manifest):
    with pytest.raises(UserError, match="line 2: it is not UTF-8 text"):
        load_manifest(manifest(HEADER, changed("note", "naïve"), encoding="latin-1"))


def test_a_byte_order_mark_is_no_part_of_the_header(manifest):
    """Spreadsheet programs write one."""
    assert len(load_manifest(manifest(HEADER, GOOD, encoding="utf-8-sig"))) == 1


def test_a_folder_in_place_of_the_manifest_is_refused(tmp_path):
    (tmp_path / "expected.csv").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        load_manifest(tmp_path / "expected.csv")


@pytest.mark.parametrize(("printed", "half"), [("4.7", 0.05), ("57", 0.5), ("78.40", 0.005), ("-0.5", 0.05)])
def test_half_unit(printed, half):
    assert half_unit(printed) == pytest.approx(half)


def test_a_paper_brings_metrics_of_its_own(tmp_path, monkeypatch):
    own = tmp_path / "my_paper" / "metrics.csv"
    own.parent.mkdir()
    header = Path(common.manifest.__file__).with_name("metrics.csv").read_text().splitlines()[0]
    monkeypatch.setattr(common.manifest, "PAPERS", tmp_path)
    try:
        for text, complaint in (
            (f"{header}\nwarmth,K,higher,how warm it is,0.1,a thermometer's,,\n", None),
            (f"{header}\ntop1,%,higher,as before,,,,\n", "'top1' is in .*common/metrics.csv already"),
            ("metric,unit\nwarmth,K\n", "line 1: the columns must be metric,unit,better,meaning"),
        ):
            own.write_text(text)
            metrics.cache_clear()
            if complaint:
                with pytest.raises(UserError, match=complaint):
                    metrics()
            else:
                assert metrics().loc["warmth", "unit"] == "K"
                assert metrics().loc["top1", "unit"] == "%"
    finally:
        metrics.cache_clear()


def test_metrics_are_distinct_and_explained():
    table = metrics()
    assert table.index.is_unique
    assert (table["meaning"] != "").all()
    assert set(table["better"]) <= {"", "higher", "lower"}
