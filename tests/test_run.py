from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType

import pytest

from common.declaration import Claim, Paper
from common.errors import UserError
from common.measurement import Finding, Measurement, Picture, Result, from_json, to_json
from common.run import EVENTS, Run, Settings


def number(value: float, **rest) -> Measurement:
    return Measurement(model="net", dataset="fashion-mnist", metric="top1", value=value, unit="%", **rest)


def paper_of(*names: str, needs: dict[str, tuple[str, ...]] | None = None) -> Paper:
    claims = tuple(
        Claim(
            name=name,
            statement=f"{name}.",
            measured_by=f"claims_of_a_test:{name}",
            needs=(needs or {}).get(name, ()),
        )
        for name in names
    )
    return Paper(
        slug="small",
        title="t",
        authors=("a",),
        venue="v",
        year=2022,
        kind="architecture",
        summary="s",
        bibtex="b",
        claims=claims,
    )


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("claims_of_a_test")
    monkeypatch.setitem(sys.modules, "claims_of_a_test", module)
    return module


def yields(*results: Result | BaseException) -> Callable[[Run], Iterator[Result]]:
    def measure(run: Run) -> Iterator[Result]:
        for result in results:
            if isinstance(result, BaseException):
                raise result
            yield result

    return measure


def values(run: Run, claim: str) -> list[float]:
    return [result.value for result in run.results[claim]]


def test_results_are_on_disk_as_soon_as_they_exist(tmp_path, claims):
    def measure(run: Run) -> Iterator[Result]:
        yield number(1.0)
        assert '"value": 1.0' in (run.folder / EVENTS).read_text()
        yield number(2.0)

    claims.a = measure
    run = Run(paper_of("a"), Settings(), tmp_path / "run")
    run.execute()
    assert run.states["a"].state == "done"


def test_a_run_reads_back_as_it_was(tmp_path, claims):
    claims.a = yields(
        number(1.5, interval=(1.0, 2.0), seeds=3, n=10, detail={"seeds": [1.0, 2.0]}, weights="trained"),
        Finding(statement="s", verdict="unclear", evidence="e", interval=(-1.0, 1.0)),
        Picture(name="p", caption="c", svg="<svg/>"),
    )
    run = Run(paper_of("a"), Settings(), tmp_path)
    run.execute()
    again = Run(paper_of("a"), Settings(), tmp_path)
    assert (again.results, again.states, again.calls, again.call_of) == (
        run.results,
        run.states,
        run.calls,
        run.call_of,
    )


@pytest.mark.parametrize(
    "result",
    [
        number(1.5, interval=(1.0, 2.0)),
        number(1.5),
        Finding(statement="s", verdict="holds", evidence="e", value=1.0, interval=(0.5, 1.5), exact=True),
        Picture(name="p", caption="c", svg="<svg/>"),
    ],
)
def test_a_result_survives_json(result):
    assert from_json(json.loads(json.dumps(to_json(result)))) == result


def test_a_failing_claim_does_not_stop_the_others(tmp_path, claims):
    claims.a = yields(number(1.0), RuntimeError("out of memory"))
    claims.b = yields(UserError("val has 3 classes."))
    claims.c = yields(number(3.0))
    run = Run(paper_of("a", "b", "c", "absent"), Settings(), tmp_path)
    run.execute()
    assert [state.state for state in run.states.values()] == ["failed", "failed", "done", "failed"]
    assert run.states["a"].reason == "RuntimeError: out of memory (see errors/a.txt in the run folder)"
    assert "out of memory" in (tmp_path / "errors" / "a.txt").read_text()
    assert values(run, "a") == [1.0]
    assert run.states["b"].reason == "val has 3 classes."
    assert not (tmp_path / "errors" / "b.txt").exists()
    assert "absent" in run.states["absent"].reason


def test_a_claim_that_yields_nothing_has_failed(tmp_path, claims):
    claims.a = yields()
    run = Run(paper_of("a"), Settings(), tmp_path)
    run.execute()
    assert run.states["a"].state == "failed"


def finding(name: str) -> Finding:
    return Finding(name=name, statement="s", verdict="holds", evidence="e")


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([finding("more"), finding("other")], ""),
        ([finding("other"), finding("")], "it ended without its primary finding, 'more'"),
        ([number(1.0)], "it ended without its primary finding, 'more'"),
        ([finding("more"), finding("more")], "it gave two findings of the name 'more'"),
    ],
)
def test_a_claim_gives_its_primary_finding_once(tmp_path, claims, results, reason):
    claims.a = yields(*results)
    (claim,) = paper_of("a").claims
    paper = replace(paper_of("a"), claims=(replace(claim, primary="more"),))
    run = Run(paper, Settings(), tmp_path)
    run.execute()
    assert run.states["a"].reason == reason
    assert run.states["a"].state == ("failed" if reason else "done")


def test_an_interval_without_ends_is_none():
    assert number(1.0, interval=(-math.inf, math.inf)).interval is None
    assert Finding(statement="s", verdict="unclear", evidence="e", interval=(0.0, math.inf)).interval is None


def test_a_claim_that_measures_not_a_number_has_failed(tmp_path, claims):
    def measure(run: Run) -> Iterator[Result]:
        yield number(float("nan"))

    claims.a = measure
    run = Run(paper_of("a"), Settings(), tmp_path)
    run.execute()
    assert run.states["a"].state == "failed"
    assert "not a number" in run.states["a"].reason


def test_unmet_needs_are_recorded_with_every_remedy(tmp_path, claims):
    claims.a = yields(number(1.0))
    run = Run(paper_of("a", needs={"a": ("embedded", "imagenet", "checkpoint")}), Settings(), tmp_path)
    run.execute()
    state = run.states["a"]
    assert state.state == "not measured"
    assert state.reason.startswith("needs --imagenet DIR")
    assert "--checkpoint FILE" in state.reason
    assert run.results["a"] == []


def test_an_interruption_keeps_what_was_measured_and_the_next_call_goes_on(tmp_path, claims):
    paper = paper_of("a", "b", "c")
    claims.a = yields(number(1.0))
    claims.b = yields(number(2.0), KeyboardInterrupt())
    claims.c = yields(number(3.0))
    run = Run(paper, Settings(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.execute()
    assert values(run, "a") == [1.0]
    assert run.states["b"].state == "interrupted"
    assert "c" not in run.states

    claims.a = yields(AssertionError("measured twice"))
    claims.b = yields(number(2.0), number(2.5))
    resumed = Run(paper, Settings(), tmp_path)
    assert values(resumed, "b") == [2.0]
    resumed.execute()
    assert {name: values(resumed, name) for name in "abc"} == {"a": [1.0], "b": [2.0, 2.5], "c": [3.0]}
    assert {state.state for state in resumed.states.values()} == {"done"}
    assert (resumed.call_of, len(resumed.calls)) == ({"a": 0, "b": 1, "c": 1}, 2)


def test_a_killed_process_leaves_no_result_twice(tmp_path, claims):
    """Killed in the middle of a claim, the record holds no end of it; the next call measures it anew."""
    claims.a = yields(number(1.0), number(2.0))
    paper = paper_of("a")
    Run(paper, Settings(), tmp_path).execute()
    path = tmp_path / EVENTS
    kept = [line for line in path.read_text().splitlines() if '"kind": "claim"' not in line]
    path.write_text("\n".join(kept) + "\n")

    killed = Run(paper, Settings(), tmp_path)
    assert killed.states["a"].state == "interrupted"
    killed.execute()
    for run in (killed, Run(paper, Settings(), tmp_path)):
        assert values(run, "a") == [1.0, 2.0]
        assert run.states["a"].state == "done"


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_half_written_last_line_costs_only_itself(tmp_path, claims, cut):
    claims.a = yields(number(1.0))
    claims.b = yields(number(2.0))
    paper = paper_of("a", "b")
    Run(paper, Settings(), tmp_path).execute()
    path = tmp_path / EVENTS
    path.write_text(path.read_text()[:-cut])

    run = Run(paper, Settings(), tmp_path)
    assert run.states["a"].state == "done"
    run.execute()
    again = Run(paper, Settings(), tmp_path)
    assert {name: values(again, name) for name in "ab"} == {"a": [1.0], "b": [2.0]}
    assert {state.state for state in again.states.values()} == {"done"}


@pytest.mark.parametrize("damage", ["{half", "[]", '{"kind": "strange"}', '{"kind": "measurement", "claim": "a"}', "7"])
def test_damage_before_the_last_line_is_named(tmp_path, claims, damage):
    claims.a = yields(number(1.0))
    Run(paper_of("a"), Settings(), tmp_path).execute()
    path = tmp_path / EVENTS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], damage, *lines[1:]]) + "\n")
    with pytest.raises(UserError, match=r"line 2 is damaged; choose another --output"):
        Run(paper_of("a"), Settings(), tmp_path)


def test_numbers_of_different_settings_are_not_mixed(tmp_path, claims):
    claims.a = yields(number(1.0))
    paper = paper_of("a")
    Run(paper, Settings(quick=True), tmp_path).execute()
    with pytest.raises(UserError, match="measured with quick = True, now it is False"):
        Run(paper, Settings(), tmp_path)
    with pytest.raises(UserError, match="measured with seed = 0, now it is 1"):
        Run(paper, Settings(quick=True, seed=1), tmp_path)


def test_data_may_be_added_to_a_run_and_not_exchanged(tmp_path, claims):
    claims.a = yields(number(1.0))
    claims.b = yields(number(2.0))
    paper = paper_of("a", "b", needs={"b": ("imagenet",)})
    Run(paper, Settings(), tmp_path / "run").execute()
    more = Run(paper, Settings(folders={"imagenet": tmp_path}), tmp_path / "run")
    more.execute()
    assert values(more, "b") == [2.0]
    with pytest.raises(UserError, match="folders"):
        Run(paper, Settings(folders={"imagenet": tmp_path / "other"}), tmp_path / "run")


def test_a_folder_belongs_to_one_paper(tmp_path, claims):
    claims.a = yields(number(1.0))
    paper = paper_of("a")
    Run(paper, Settings(), tmp_path).execute()
    import dataclasses

    with pytest.raises(UserError, match="holds a run of small, not other"):
        Run(dataclasses.replace(paper, slug="other"), Settings(), tmp_path)


def test_a_memo_is_computed_once_and_has_the_same_types_ever_after(tmp_path):
    calls = []

    def compute() -> dict:
        calls.append(1)
        return {"pair": (1, 2), "value": 0.1 + 0.2}

    first = Run(paper_of(), Settings(), tmp_path).memo("training, seed 0", compute)
    second = Run(paper_of(), Settings(), tmp_path).memo("training, seed 0", compute)
    assert first == second == {"pair": [1, 2], "value": 0.1 + 0.2}
    assert len(calls) == 1


@pytest.mark.parametrize("damage", [b"", b"{", b'{"key": "a", "value": 8, "crc32": "00000000"}', b"\xff\xfe"])
def test_a_damaged_memo_is_computed_anew(tmp_path, damage):
    run = Run(paper_of(), Settings(), tmp_path)
    assert run.memo("a", lambda: 7) == 7
    (path,) = (tmp_path / "memo").iterdir()
    path.write_bytes(damage)
    assert not run.remembers("a")
    assert run.memo("a", lambda: 7) == 7
    assert run.remembers("a")


def test_a_flipped_digit_in_the_record_is_found(tmp_path, claims):
    claims.first = yields(number(1234.0))
    Run(paper_of("first"), Settings(), tmp_path).execute()
    path = tmp_path / EVENTS
    path.write_text(path.read_text().replace("1234.0", "1235.0"))
    with pytest.raises(UserError, match=r"line 3 is damaged; choose another --output"):
        Run(paper_of("first"), Settings(), tmp_path)


def test_a_full_disk_fails_a_claim_with_one_sentence(tmp_path, claims):
    claims.first = yields(OSError(28, "No space left on device", "/some/where"))
    run = Run(paper_of("first"), Settings(), tmp_path)
    run.execute()
    reason = "No space left on device (/some/where); make room or choose another folder, and call again."
    assert run.states["first"].reason == reason


def test_a_memo_is_of_its_key_and_settings(tmp_path):
    run, quick = (Run(paper_of(), Settings(quick=quick), tmp_path) for quick in (False, True))
    assert run.memo("a", lambda: 1) == 1
    assert run.memo("b", lambda: 2) == 2
    assert quick.memo("a", lambda: 3) == 3


def test_a_memo_that_failed_is_computed_again(tmp_path):
    run = Run(paper_of(), Settings(), tmp_path)

    def fail() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.memo("a", fail)
    assert run.memo("a", lambda: 1) == 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), [0, 1]),
        (Settings(quick=True), [0, 1]),
        (Settings(seeds=1, seed=5), [5]),
        (Settings(seeds=4, quick=True), [0, 1, 2, 3]),
    ],
)
def test_seeds(tmp_path, settings, expected):
    assert list(Run(paper_of(), settings, tmp_path).seeds()) == expected


def test_only_the_claims_asked_for_are_measured(tmp_path, claims):
    claims.a, claims.b = yields(number(1.0)), yields(number(2.0))
    paper = paper_of("a", "b")
    run = Run(paper, Settings(), tmp_path)
    run.execute(paper.claims[1:])
    assert list(run.states) == ["b"]
    assert run.calls[0]["claims"] == ["b"]


def test_the_provenance_of_a_call_is_recorded(tmp_path, claims):
    claims.a = yields(number(1.0))
    run = Run(paper_of("a"), Settings(seeds=2), tmp_path)
    run.execute()
    (call,) = Run(paper_of("a"), Settings(seeds=2), tmp_path).calls
    assert call["settings"]["seeds"] == 2
    assert call["hardware"]["device"] == "cpu"
    assert {"command", "started", "code", "versions"} <= set(call)
