"""A run: a paper's claims measured one after the other, each result on disk as soon as it exists."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from common.declaration import Claim, Paper
from common.errors import UserError, machine_sentence
from common.files import write_atomic
from common.locks import held, make_folder
from common.measurement import Finding, Result, WeightsChoice, from_json, to_json
from common.needs import NEEDS, sentence
from common.progress import console
from common.provenance import collect
from common.signed import checked, signed

EVENTS = "events.jsonl"

#: Settings that may be added when a run goes on: they make more claims measurable and change none that is measured.
_ADDABLE = ("folders", "checkpoint", "model")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user asks of a run.

    Attributes:
        quick: smaller budgets everywhere, for CI.
        seeds: trainings per trained number, or None for the default of two.
        epochs: epochs of embedded trainings, or None for the recipe's.
        device: torch device.
        seed: first seed; the others count up from it.
        folders: data sets that the user named, by need (``{"imagenet": Path(...)}``).
        checkpoint: weights to evaluate, or None.
        checkpoint_weights: which ones of a file that has those of the last step and averaged ones; None: the former.
        model: timm name of the model in ``checkpoint``, with a weight tag where the manifest has one; or None.
        limit: evaluate on this many images at most, or None for all.
        batch_size: images per batch in full-scale evaluation.
        workers: loader processes in full-scale evaluation.
        shared: folder where contenders of the bench are kept, so that several runs train each of them once; None: in
            the run's own. It has no influence on results, and is not part of what is recorded.
    """

    quick: bool = False
    seeds: int | None = None
    epochs: int | None = None
    device: str = "cpu"
    seed: int = 0
    folders: dict[str, Path] = field(default_factory=dict)
    checkpoint: Path | None = None
    checkpoint_weights: WeightsChoice | None = None
    model: str | None = None
    limit: int | None = None
    batch_size: int = 64
    workers: int = 2
    shared: Path | None = None

    def given(self) -> set[str]:
        """Names of the needs that are provided for."""
        return {"embedded", *self.folders, *(("checkpoint",) if self.checkpoint is not None else ())}

    def missing(self, claim: Claim) -> list[str]:
        """Remedies for what ``claim`` needs and the user has not given; empty when it can be measured."""
        given = self.given()
        return [NEEDS[need].remedy for need in claim.needs if need not in given]

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON-able values, paths resolved."""
        return {
            **{name: getattr(self, name) for name in ("quick", "seeds", "epochs", "device", "seed", "model", "limit")},
            "folders": {name: str(path.resolve()) for name, path in sorted(self.folders.items())},
            "checkpoint": str(self.checkpoint.resolve()) if self.checkpoint else None,
            **({"checkpoint_weights": self.checkpoint_weights} if self.checkpoint_weights else {}),
        }


@dataclass(frozen=True)
class ClaimState:
    """How the measurement of a claim ended.

    Attributes:
        claim: the claim's name.
        state: ``done``, ``not measured``, ``failed`` or ``interrupted``.
        reason: for all but ``done``: one clause or sentence.
        seconds: time spent.
    """

    claim: str
    state: str
    reason: str = ""
    seconds: float = 0.0


class Run:
    """A run folder and what is recorded in it.

    Args:
        paper: whose claims are measured.
        settings: what the user asked for.
        folder: made if missing. A run that was interrupted goes on in its own folder.

    Attributes:
        results: what each claim yielded, in order.
        states: how the measurement of each claim ended.
        calls: provenance of each call of ``execute``, the first one first.
        call_of: for each claim, the index in ``calls`` of the call that measured it.

    Raises:
        UserError: the folder holds a run of another paper or with other settings, or its record is damaged.
    """

    def __init__(self, paper: Paper, settings: Settings, folder: Path) -> None:
        self.paper = paper
        self.settings = settings
        self.folder = folder
        self.results: dict[str, list[Result]] = {}
        self.states: dict[str, ClaimState] = {}
        self.calls: list[dict[str, Any]] = []
        self.call_of: dict[str, int] = {}
        make_folder(folder)
        self._read_events()
        self._check_same_run()

    def seeds(self, *, default: int = 2, quick: int = 2) -> range:
        """The seeds to train with."""
        count = self.settings.seeds or (quick if self.settings.quick else default)
        return range(self.settings.seed, self.settings.seed + count)

    def key(self, text: str) -> str:
        """A file name for what ``text`` and the settings of this run name together."""
        label = json.dumps([text, self.settings.to_json()], sort_keys=True)
        return hashlib.sha256(label.encode()).hexdigest()[:24]

    def remembers(self, key: str) -> bool:
        """Whether ``memo`` has a value for ``key``."""
        return self._memorised(key) is not None

    def memo(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return the JSON-able value stored under ``key``, or compute and store it.

        For the expensive parts of a claim (a training, a cell of an evaluation), so that an interrupted run goes on
        where it was. ``key`` must name everything in the run that the value depends on; settings are part of it.
        """
        known = self._memorised(key)
        if known is None:
            # The value goes through JSON now as it would later, so that a resumed run sees the same types.
            known = json.loads(json.dumps({"value": compute()}))
            write_atomic(self._memo(key), json.dumps(signed({"key": key, **known})))
        return known["value"]

    def _memo(self, key: str) -> Path:
        return self.folder / "memo" / f"{self.key(key)}.json"

    def _memorised(self, key: str) -> dict[str, Any] | None:
        """What ``memo`` has stored, or None where it has not, or where that is damaged and will be computed anew."""
        path = self._memo(key)
        if not path.exists():
            return None
        try:
            return checked(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            console.print(f"{path} is damaged; what it held is computed anew.", highlight=False, soft_wrap=True)
            path.unlink(missing_ok=True)
            return None

    def execute(self, claims: tuple[Claim, ...] | None = None) -> None:
        """Measure ``claims`` (all of the paper's by default) and record every result at once.

        What is measured on the user's own data and weights comes first: a fault in them shows at once. Claims that are
        done already are skipped; those whose needs are not met are recorded as not measured with the remedy. A claim
        that fails is recorded with its reason, and the others are measured all the same.

        Raises:
            KeyboardInterrupt: after the interruption has been recorded.
            UserError: the folder is in use by another call.
        """
        with held(self.folder):
            self._execute(self.paper.claims if claims is None else claims)

    def _execute(self, claims: tuple[Claim, ...]) -> None:
        self._record_call(claims)
        for claim in sorted(claims, key=lambda claim: set(claim.needs) <= {"embedded"}):
            if self.states.get(claim.name, ClaimState(claim.name, "")).state == "done":
                continue
            self._begin(claim)
            missing = self.settings.missing(claim)
            if missing:
                self._record_state(ClaimState(claim.name, "not measured", sentence(missing, self.paper.slug)))
                continue
            console.print(Text(claim.name, style="bold").append(f": {claim.statement}", style="not bold"))
            state = self._measure(claim)
            self._record_state(state)
            if state.state == "failed":
                console.print(Text("failed", style="bold red").append(f": {state.reason}", style="not bold default"))

    def _measure(self, claim: Claim) -> ClaimState:
        start = time.monotonic()

        def state(name: str, reason: str = "") -> ClaimState:
            return ClaimState(claim.name, name, reason, round(time.monotonic() - start, 2))

        try:
            for result in measuring_function(self.paper, claim)(self):
                self.results[claim.name].append(result)
                self._append({"claim": claim.name, **to_json(result)})
        except KeyboardInterrupt:
            self._record_state(state("interrupted", "stopped by the user"))
            raise
        except UserError as error:
            return state("failed", str(error))
        except Exception as error:
            if (of_machine := machine_sentence(error)) is not None:
                return state("failed", of_machine)
            write_atomic(self.folder / "errors" / f"{claim.name}.txt", traceback.format_exc())
            return state("failed", f"{type(error).__name__}: {error} (see errors/{claim.name}.txt in the run folder)")
        if not self.results[claim.name]:
            return state("failed", "it ended without a result")
        names = [result.name for result in self.results[claim.name] if isinstance(result, Finding) and result.name]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            return state("failed", f"it gave two findings of the name {sorted(twice)[0]!r}")
        if claim.primary and claim.primary not in names:
            return state("failed", f"it ended without its primary finding, {claim.primary!r}")
        return state("done")

    def _record_call(self, claims: tuple[Claim, ...]) -> None:
        origin = collect(self.settings.to_json())
        self.calls.append({"paper": self.paper.slug, "claims": [claim.name for claim in claims], **origin})
        self._append({"kind": "call", **self.calls[-1]})

    def _begin(self, claim: Claim) -> None:
        """Forget what an earlier call measured of a claim that it did not finish."""
        self.results[claim.name] = []
        self.call_of[claim.name] = len(self.calls) - 1
        self._append({"kind": "begin", "claim": claim.name})

    def _record_state(self, state: ClaimState) -> None:
        self.states[state.claim] = state
        self._append({"kind": "claim", **state.__dict__})

    def _append(self, event: dict[str, Any]) -> None:
        with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(signed(event)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read_events(self) -> None:
        """Take up what earlier calls recorded; results of a claim that was cut off are kept and measured again."""
        path = self.folder / EVENTS
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines()
        for number, line in enumerate(lines):
            try:
                self._take_up(checked(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError):
                if number < len(lines) - 1:
                    raise UserError(f"{path}, line {number + 1} is damaged; choose another --output.") from None
                # The process died while it wrote the last line: the claim is measured again.
                lines.pop()
        mended = "".join(f"{line}\n" for line in lines)
        if mended != text:
            # A last line without its end would swallow the next event.
            write_atomic(path, mended)

    def _take_up(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "call":
            self.calls.append({name: value for name, value in event.items() if name != "kind"})
        elif kind == "begin":
            name = event["claim"]
            self.results[name] = []
            self.call_of[name] = len(self.calls) - 1
            self.states[name] = ClaimState(name, "interrupted", "the run was cut off")
        elif kind == "claim":
            state = ClaimState(**{name: value for name, value in event.items() if name != "kind"})
            self.states[state.claim] = state
        else:
            self.results[event.pop("claim")].append(from_json(event))

    def _check_same_run(self) -> None:
        """Refuse to mix numbers that were measured with other settings."""
        if not self.calls:
            return
        other = "choose another --output"
        if self.calls[-1]["paper"] != self.paper.slug:
            raise UserError(f"{self.folder} holds a run of {self.calls[-1]['paper']}, not {self.paper.slug}; {other}.")
        for name, now in self.settings.to_json().items():
            before = self.calls[-1]["settings"].get(name)
            if name == "folders":
                same = all(now.get(need) == folder for need, folder in (before or {}).items())
            else:
                same = before == now or (name in _ADDABLE and before is None)
            if not same:
                raise UserError(
                    f"{self.folder} was measured with {name} = {before}, now it is {now}; give the same options, "
                    f"or {other}."
                )


def measured_claims(folder: Path) -> set[str]:
    """Names of the claims that the run in ``folder`` has measured; another process may be writing its record."""
    path = folder / EVENTS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []
    events = [checked(json.loads(line)) for line in lines if line.endswith("\n")]
    states = {event["claim"]: event["state"] for event in events if event["kind"] == "claim"}
    return {claim for claim, state in states.items() if state == "done"}


def measuring_function(paper: Paper, claim: Claim) -> Callable[[Run], Iterator[Result]]:
    """The function that measures ``claim``: a shared instrument, or the paper's own in ``claims.py``."""
    module, _, name = (claim.measured_by or f"{paper.package}.claims:{claim.name}").partition(":")
    return getattr(importlib.import_module(module), name)
