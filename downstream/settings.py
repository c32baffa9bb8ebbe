"""What a user asks of a run of detection and segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.run import Settings


@dataclass(frozen=True, kw_only=True)
class DownstreamSettings(Settings):
    """The settings of any run, and those of detection and segmentation.

    Attributes:
        setting: name of a config in the paper's folder ``downstream``, or None for the paper's first of a data set.
        weights: a detector or segmenter to evaluate, released or our own, instead of training one.
        amp: mixed precision.
        corruptions: measure under corruption as well.
        iterations: of trainings that count iterations, or None for the schedule's.
        verbose: show mmengine's log.
    """

    setting: str | None = None
    weights: Path | None = None
    amp: bool = False
    corruptions: bool = False
    iterations: int | None = None
    verbose: bool = False

    def given(self) -> set[str]:
        """As of any run, and what this command provides."""
        return super().given() | {"downstream", *(("corruptions",) if self.corruptions else ())}

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON-able values."""
        own = {name: getattr(self, name) for name in ("setting", "amp", "iterations")}
        weights = str(self.weights.resolve()) if self.weights else None
        # Without --corruptions first, with it later: nothing that was measured changes.
        return {**super().to_json(), **own, "weights": weights}
