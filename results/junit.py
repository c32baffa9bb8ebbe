"""JUnit XML, so that a CI server shows verdicts like tests."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

import pandas as pd

from results.judge import Judgement
from results.measured import each

#: Characters that XML 1.0 cannot hold, e.g. the escape that starts a colour in a terminal.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(judged: Judgement) -> str:
    """The run as JUnit XML: one suite with a test case per printed number, finding and unfinished claim.

    What is newly off, a broken exact finding and what contradicts the reference are failures; failed claims are errors;
    not measured, unclear, and off for a known reason are skipped, with the reason. An empirical finding is a result
    whatever it says: its case passes and its name holds the verdict.
    """
    slug = judged.run.paper.slug
    suite = ET.Element("testsuite")
    for row in each(judged.rows):
        name = f"{row.model} {row.dataset} {row.metric} = {row.value} ({row.locator})"
        case = _case(suite, f"{slug}.numbers.{row.paper}", name, _seconds(judged, row))
        if row.outcome == "off":
            _child(case, "failure", row.explanation, "off")
        elif row.outcome == "failed":
            _child(case, "error", row.explanation or row.verdict, "failed")
        elif row.outcome != "reproduced":
            why = row.verdict if row.outcome == "not measured" else f"{row.outcome}: {row.explanation}"
            _child(case, "skipped", why)
    for row in each(judged.findings):
        name = row.statement if row.exact else f"{row.statement} [result: {row.standing}]"
        case = _case(suite, f"{slug}.findings.{row.claim}", name, 0.0)
        if row.exact and row.verdict == "does not hold":
            _child(case, "failure", row.evidence, "does not hold")
        elif row.standing == "unclear" and row.agreement != "contradicts":
            _child(case, "skipped", f"unclear: {row.evidence}")
    for row in each(judged.contradictions):
        name = row.statement if row.kind == "finding" else f"{row.model} {row.dataset} {row.metric}"
        case = _case(suite, f"{slug}.reference.{row.claim}", name, 0.0)
        _child(case, "failure", row.why, "contradicts the reference")
    for row in each(judged.claims):
        case = _case(suite, f"{slug}.claims", f"{row.claim}: {row.statement}", row.seconds)
        if row.state == "not measured":
            _child(case, "skipped", f"not measured: {row.reason}")
        elif row.state != "done":
            _child(case, "error", row.reason, row.state)
    started = judged.run.calls[0]["started"] if judged.run.calls else "1970-01-01T00:00:00+00:00"
    suite.attrib.update(
        {
            "name": f"resight.{slug}",
            "package": "resight",
            "id": "0",
            "timestamp": started.partition("+")[0],
            "hostname": platform.node() or "localhost",
            "tests": str(len(suite.findall("testcase"))),
            "failures": str(len(suite.findall("testcase/failure"))),
            "errors": str(len(suite.findall("testcase/error"))),
            "skipped": str(len(suite.findall("testcase/skipped"))),
            "time": f"{judged.claims['seconds'].sum():.3f}",
        }
    )
    suite.insert(0, ET.Element("properties"))
    ET.SubElement(suite, "system-out")
    ET.SubElement(suite, "system-err")
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return _document(root)


def combine(parts: Mapping[str, str]) -> str:
    """The JUnit XML of several papers as one, a suite each.

    Args:
        parts: by slug what ``render`` gave for its run, or a sentence why there is nothing: one error then.
    """
    root = ET.Element("testsuites")
    for number, (slug, part) in enumerate(parts.items()):
        suites = ET.fromstring(part).findall("testsuite") if part.startswith("<?xml") else [_error(slug, part)]
        for suite in suites:
            suite.set("id", str(number))
            root.append(suite)
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ET.indent(root)
    return _document(root)


def _error(slug: str, sentence: str) -> ET.Element:
    counts = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0", "time": "0.000"}
    suite = ET.Element("testsuite", {"name": f"resight.{slug}", "package": "resight", **counts})
    _child(_case(suite, slug, "the paper's run", 0.0), "error", sentence, "failed")
    return suite


def _document(root: ET.Element) -> str:
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, classname: str, name: str, seconds: float) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=classname, name=_clean(name), time=f"{seconds:.3f}")


def _child(case: ET.Element, kind: str, message: str, cause: str = "") -> None:
    child = ET.SubElement(case, kind, message=_clean(message))
    if cause:
        child.set("type", cause)
        child.text = _clean(message)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)


def _seconds(judged: Judgement, row: tuple) -> float:
    mine = judged.comparisons["row"] == row.Index  # type: ignore[attr-defined]
    return float(pd.to_numeric(judged.comparisons.loc[mine, "seconds"]).sum())
