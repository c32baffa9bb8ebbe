"""What a claim yields: measurements, findings and figures."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

#: Where the weights that were measured come from. Printed numbers are compared with ``none`` (the number does not
#: depend on weights), ``released`` and ``trained`` in columns of their own.
Weights = Literal["none", "released", "trained"]
#: Which weights of a checkpoint that has both: those of the last step, or their average (EMA) over the steps.
WeightsChoice = Literal["model", "ema"]

#: What a finding can say. ``no difference``: none as large as the smallest of interest; ``unclear``: too little
#: evidence for any of the others. ``common.verdicts`` has the rule.
FindingVerdict = Literal["holds", "does not hold", "no difference", "unclear"]

#: What an interval is over, i.e. what would have to be drawn again for the value to change; empty where that is not
#: known. ``seeds`` are trainings, ``images`` a sample of test images, ``rounds`` repetitions of a timing.
Over = Literal["", "seeds", "images", "seeds and images", "rounds"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number that our code measured.

    Attributes:
        model: timm name, with a weight tag where a manifest row has one (``rvt_small_plus.easyrobust``).
        dataset: ``imagenet-1k``, ``imagenet-c``, ``fashion-mnist``, ... or ``-`` for a property of the model.
        metric: name that fixes the protocol (``top1``, ``mce``, ``params``, ...).
        value: in ``unit``.
        unit: ``%``, ``M``, ``G``, ``ms``, ... or empty.
        weights: where the measured weights come from.
        interval: 95 % confidence interval, in ``unit``, or None where there is none: the number has no sampling error,
            or nothing is known about it.
        over: what the interval is over.
        seeds: number of independent trainings behind the value.
        n: number of images (or other samples) behind the value, or None.
        seconds: time that the measurement took.
        peak_memory: in MB, or None where it was not measured.
        protocol: protocol and its version, e.g. ``top1/1 resize 256 bicubic crop 224``.
        detail: what the value is made of (per-corruption errors, per-seed values), JSON-able.
        note: one sentence, or empty.
    """

    model: str
    dataset: str
    metric: str
    value: float
    unit: str = ""
    weights: Weights = "none"
    interval: tuple[float, float] | None = None
    over: Over = ""
    seeds: int = 0
    n: int | None = None
    seconds: float = 0.0
    peak_memory: float | None = None
    protocol: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.model} {self.dataset} {self.metric}: measured {self.value}, not a number")
        object.__setattr__(self, "interval", _finite(self.interval))

    @property
    def key(self) -> tuple[str, str, str]:
        """``(model, dataset, metric)``, what printed and measured numbers are joined by."""
        return self.model, self.dataset, self.metric


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A verdict on a claim that is not a printed number: an identity, an ordering, a cost.

    Attributes:
        name: identifier, unique in its claim, by which the claim's declaration names its primary finding; or empty.
        statement: what was tested, one sentence.
        verdict: ``holds``, ``does not hold``, ``no difference`` or ``unclear``.
        evidence: the numbers behind the verdict, one sentence with interval and number of seeds where chance plays
            a part.
        value: the tested quantity, or None.
        interval: its 95 % confidence interval, or None.
        over: what the interval is over.
        seeds: number of independent trainings behind it.
        exact: True where the statement is mathematics or a property of the code, so that ``does not hold`` means
            that something is broken and the run counts as off. Empirical orderings are not exact: whatever their
            verdict is, it is a result.
    """

    statement: str
    verdict: FindingVerdict
    evidence: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    over: Over = ""
    seeds: int = 0
    exact: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval", _finite(self.interval))

    @classmethod
    def exactly(cls, name: str, statement: str, holds: bool, evidence: str, value: float | None = None) -> Finding:
        """Of mathematics or a property of the code, which ``holds`` or is broken."""
        verdict: FindingVerdict = "holds" if holds else "does not hold"
        return cls(name=name, statement=statement, verdict=verdict, evidence=evidence, value=value, exact=True)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure for the report.

    Attributes:
        name: file stem, unique in its claim.
        caption: one or two sentences that say what is seen.
        svg: the figure as SVG text.
    """

    name: str
    caption: str
    svg: str


def _finite(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """An interval without finite ends, as of a single observation, is none."""
    return interval if interval is not None and all(math.isfinite(end) for end in interval) else None


Result: TypeAlias = "Measurement | Finding | Picture"

_KINDS: dict[str, type] = {"measurement": Measurement, "finding": Finding, "picture": Picture}


def to_json(result: Result) -> dict[str, Any]:
    """A JSON-able dict with the result's kind and fields."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(result, cls))
    return {"kind": kind, **asdict(result)}


def from_json(record: dict[str, Any]) -> Result:
    """Inverse of ``to_json``."""
    fields = dict(record)
    cls = _KINDS[fields.pop("kind")]
    if fields.get("interval") is not None:
        low, high = fields["interval"]
        fields["interval"] = (low, high)
    return cls(**fields)
